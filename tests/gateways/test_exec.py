"""What becomes of an exec that does not go well, and what the operator is told."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kubernetes.client import ApiClient, Configuration, CoreV1Api

from sandbox.api.server import ApiServerThread
from shared.errors import GatewayUnreachableError
from tests.gateways import real_kernel
from tests.gateways.conftest import api_client
from workers.gateways import podexec
from workers.gateways.exec import ExecDriver
from workers.gateways.interface import GatewayPod
from workers.gateways.plan import plan_deletion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.netns import NetworkNamespace
    from tests.gateways.conftest import Pods

pytestmark = pytest.mark.kernel

NOWHERE = GatewayPod("vpc-nat-gw-gone-0", "kube-system", "0", "node-1")


@pytest.fixture
def api(pods: Pods) -> Iterator[ApiServerThread]:
    assert pods.api is not None
    yield pods.api
    pods.api.server.faults.clear()


@pytest.fixture
def driver(api: ApiServerThread) -> ExecDriver:
    return ExecDriver(api_client(api), timeout=1.0)


def read(driver: ExecDriver, pod: GatewayPod) -> str:
    """Open and read, which fails within the timeout; what the error says."""
    began = time.monotonic()
    with pytest.raises(GatewayUnreachableError) as raised, driver.open(pod) as gateway:
        gateway.read()
    assert time.monotonic() - began < 4
    return str(raised.value)


def test_a_pod_that_is_gone(driver: ExecDriver) -> None:
    said = read(driver, NOWHERE)
    assert "HTTP 404" in said
    assert 'pods "vpc-nat-gw-gone-0" not found' in said
    assert "the next try looks for the gateway's next one" in said


def test_a_container_that_is_not_in_the_pod(driver: ExecDriver, pod: GatewayPod) -> None:
    other = GatewayPod(pod.name, pod.namespace, pod.uid, pod.node, container="sidecar")
    assert "running container 'sidecar'" in read(driver, other)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (401, "check the service account's token or the kubeconfig"),
        (403, "grant `get` and `create` on `pods/exec` in namespace kube-system"),
        (500, "the Kubernetes API or the pod's kubelet is in trouble"),
        (503, "the Kubernetes API or the pod's kubelet is in trouble"),
        (0, "is the Kubernetes API reachable from here?"),
    ],
)
def test_an_api_that_refuses(api: ApiServerThread, driver: ExecDriver, pod: GatewayPod, code: int, advice: str) -> None:
    api.server.faults.answer(code, verbs=["exec"])
    assert advice in read(driver, pod)


def test_an_api_that_is_not_there(pod: GatewayPod) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        driver = ExecDriver(ApiClient(Configuration(host=f"http://127.0.0.1:{port}")), timeout=1.0)
        assert "is the Kubernetes API reachable from here?" in read(driver, pod)


def test_an_api_that_takes_the_connection_and_says_nothing(pod: GatewayPod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        host = f"http://127.0.0.1:{mute.getsockname()[1]}"
        said = read(ExecDriver(ApiClient(Configuration(host=host)), timeout=0.5), pod)
    assert "is the Kubernetes API reachable from here?" in said


def test_an_api_that_wants_a_token(pods: Pods, netns: NetworkNamespace, tmp_path: Path) -> None:
    with ApiServerThread(exec_runner=pods, token="secret") as api:
        pods_before, pods.api, pods.directory = (pods.api, pods.directory), api, tmp_path
        try:
            pod = pods.add("guarded", netns)
        finally:
            pods.api, pods.directory = pods_before
        for key, allowed in (
            ({"authorization": "Bearer secret"}, True),
            ({"authorization": "Bearer wrong"}, False),
            ({}, False),
        ):
            driver = ExecDriver(ApiClient(Configuration(host=api.url, api_key=key)), timeout=1.0)
            if allowed:
                with driver.open(pod) as gateway:
                    assert gateway.read().addresses
            else:
                assert "HTTP 40" in read(driver, pod)


def test_an_image_without_bash(pods: Pods, driver: ExecDriver, pod: GatewayPod) -> None:
    pods.command[pod.uid] = ["missing"]
    assert "the container needs bash and iproute2" in read(driver, pod)


def test_an_image_without_iproute2(pods: Pods, driver: ExecDriver, pod: GatewayPod, tmp_path: Path) -> None:
    for program in ("bash",):
        (tmp_path / program).symlink_to(f"/bin/{program}")
    pods.command[pod.uid] = ["/usr/bin/env", f"PATH={tmp_path}"]
    said = read(driver, pod)
    assert "ip: command not found" in said
    assert "iproute2 5.2 or newer" in said


@pytest.mark.parametrize("later", [0.0, 0.3])
def test_a_busybox_ip(pods: Pods, driver: ExecDriver, pod: GatewayPod, tmp_path: Path, later: float) -> None:
    (tmp_path / "ip").write_text("#!/bin/sh\necho 'ip: unrecognized option: N' >&2\nexit 1\n")
    (tmp_path / "ip").chmod(0o755)
    pods.command[pod.uid] = ["/usr/bin/env", f"PATH={tmp_path}:{os.environ['PATH']}"]
    with pytest.raises(GatewayUnreachableError) as error, driver.open(pod) as gateway:
        # By then it has ended before it is asked for anything.
        time.sleep(later)
        gateway.read()
    assert "unrecognized option: N" in str(error.value)


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("exec sleep 5", "did not answer within 1 s"),
        ("exit 0", "ended"),
        ("echo 'cannot allocate memory' >&2; exit 126", "cannot allocate memory"),
        ('read -r _; echo \'[{"ifname": "net1", "addr_\'; echo done', "answered nonsense"),
        ("read -r _; printf '[]\\n[]\\n[]\\nknob net1\\ndone\\n'", "answered nonsense"),
        ('read -r _; printf \'knob net1\\n[{"ifname": "net1"}]\\n[]\\ndone\\n\'', "answered nonsense"),
        ("read -r _; printf '[]\\n[]\\ndone\\n'", "answered nonsense"),
        ("read -r _; printf '{}\\n[]\\n[]\\ndone\\n'", "answered nonsense"),
        ("read -r _; printf '[1]\\n[]\\n[]\\ndone\\n'", "answered nonsense"),
        (
            'read -r _; printf \'[{"ifname":"x","addr_info":[{"local":"no"}]}]\\n[]\\n[]\\ndone\\n\'',
            "answered nonsense",
        ),
        ("read -r _; printf '\\377\\376\\000garbage\\ndone\\n'", "answered nonsense"),
        ('read -r _; printf \'[{"ifname": "net1"\'; kill -KILL $$', "ended"),
        ("read -r _; echo error 'no such luck'", "no such luck"),
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        "",
        "read -r _; echo asked; echo ended; ",
        # Each in one piece.
        "read -r _; env printf 'ended\\nknob net1 1\\nasked\\n'; ",
        "read -r _; env printf 'knob net1 1\\nasked\\n[]\\nended\\n'; ",
    ],
)
def test_a_container_that_answers_wrongly(
    pods: Pods, driver: ExecDriver, pod: GatewayPod, before: str, shell: str, said: str
) -> None:
    pods.command[pod.uid] = ["bash", "-c", before + shell, "bash"]
    assert said in read(driver, pod)


def test_a_container_that_says_more_than_it_is_asked_for(pods: Pods, driver: ExecDriver, pod: GatewayPod) -> None:
    # In one piece, which bash's own printf does not do: what comes too late is not more than was asked for yet.
    shell = 'env printf \'asked\\n[{"ifname": "net1"}]\\n[]\\n[{"ifname": "net1"}]\\n\'; read -r -t 5 _'
    pods.command[pod.uid] = ["bash", "-c", shell, "bash"]
    with driver.open(pod) as gateway:
        assert gateway.read().addresses == ()
        with pytest.raises(GatewayUnreachableError, match="said more than it was asked for"):
            gateway.read()


@pytest.mark.parametrize("shell", ["seq 15000", "seq 15000 | tr -d '\\n'"])
def test_a_container_that_does_not_stop_answering(
    pods: Pods, driver: ExecDriver, pod: GatewayPod, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podexec, "MAX_OUTPUT", 50_000)
    pods.command[pod.uid] = ["bash", "-c", shell, "bash"]
    assert "answered more than 50000 bytes" in read(driver, pod)


def test_a_gateway_that_stops_answering_half_way(
    pods: Pods, driver: ExecDriver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        os.kill(pods.started[-1], signal.SIGSTOP)
        with pytest.raises(GatewayUnreachableError, match="did not answer within 1 s"):
            gateway.carry_out(steps, lambda: None)
        with pytest.raises(GatewayUnreachableError):
            gateway.read()  # the late answer would be taken for this one's


def test_a_gateway_whose_container_dies_half_way(
    pods: Pods, driver: ExecDriver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        os.kill(pods.started[-1], signal.SIGKILL)
        with pytest.raises(GatewayUnreachableError):
            gateway.carry_out(steps, lambda: None)
    assert "10.1.69.205/24" in netns.ip("addr")


def test_a_gateway_whose_standing_ip_was_killed_is_cleaned_without_it(
    pods: Pods, driver: ExecDriver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    fences = []
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        shell = _children(pods.started[-1])[0]
        (standing,) = _children(shell)
        os.kill(standing, signal.SIGKILL)
        after = gateway.carry_out(steps, lambda: fences.append(netns.ip("addr")))
        assert after == gateway.read()
    assert len(fences) == 2
    assert "10.1.69.205/24" in fences[0]
    assert "10.1.69.205/24" not in netns.ip("addr")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_worker_that_fell_asleep_changes_nothing_when_it_wakes(
    api: ApiServerThread, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    with ExecDriver(api_client(api), timeout=1.0, idle_timeout=0.3).open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        with pytest.raises(GatewayUnreachableError):
            gateway.carry_out(steps, lambda: time.sleep(1))
    assert "10.1.69.205/24" in netns.ip("addr")


def test_a_name_that_would_leave_the_path_is_only_a_pod_that_is_not_there(driver: ExecDriver) -> None:
    pod = GatewayPod("../../../api/v1/nodes?x=", "kube-system/../..", "0", "node-1")
    assert "HTTP 404" in read(driver, pod)


def test_the_callers_client_can_be_used_meanwhile(
    api: ApiServerThread, pods: Pods, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    client = api_client(api)
    driver = ExecDriver(client)
    stop, failures = threading.Event(), []

    def list_pods() -> None:
        while not stop.is_set():
            try:
                assert CoreV1Api(client).list_namespaced_pod("kube-system").items
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=list_pods)
    thread.start()
    try:
        for _ in range(10):
            with driver.open(pod) as gateway:
                assert gateway.read().addresses
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_one_exec_does_everything(
    api: ApiServerThread, driver: ExecDriver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    netns.run("ip", "-batch", "-", stdin="".join(f"addr add 10.1.69.{host}/24 dev net1\n" for host in range(1, 201)))
    before = api.server.executions.total
    with driver.open(pod) as gateway:
        snapshot = gateway.read()
        steps = plan_deletion(snapshot, [ip_address(f"10.1.69.{host}") for host in range(1, 101)])
        gateway.carry_out(steps, lambda: None)
        assert len(gateway.read().addresses) == len(snapshot.addresses) - 100
    assert api.server.executions.total == before + 1
    assert not real_kernel.promote_secondaries(netns, "net1")
