"""What the driver `netlink` needs in a container, each thing taken away in turn, and the whole way with exactly that.

A gateway's pod is a container with the capabilities of a privileged one, in a cgroup with the pod's UID in its name, as the kubelet makes them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.image.conftest import EIPS, Place
from tests.image.engine import Container, docker
from tests.waiting import eventually

pytestmark = pytest.mark.docker

PTRACE, ADMIN, NET = "SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN"
EVERYTHING = {NET, ADMIN, PTRACE}
# The profiles of AppArmor and SELinux forbid to look into a privileged container's /proc/<pid>/ns, where a host has them.
LABELS = ("--security-opt", "apparmor=unconfined", "--security-opt", "label=disable")
# All but one that hosts which are containers themselves may lack, and then cannot give.
PRIVILEGED = ("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined")
GATEWAY_ADDRESSES = ("10.1.69.253", *EIPS.values())
PROBE = """
import sys
from ipaddress import ip_address
from workers.gateways.interface import Address, DeleteAddress, GatewayPod
from workers.gateways.namespaces import ProcessLocator
from workers.gateways.netlink import NetlinkDriver
pod = GatewayPod("vpc-nat-gw-gw1-0", "kube-system", sys.argv[1], "node1")
try:
    with NetlinkDriver(ProcessLocator()).open(pod) as gateway:
        found = [each for each in gateway.read().addresses if str(each.ip) == "10.1.69.205"]
        gateway.carry_out([DeleteAddress(each) for each in found], lambda: None)
except Exception as error:
    print(type(error).__name__, error)
else:
    print("done", len(found))
"""


def cgroup_parent(uid: str) -> str:
    """Where the kubelet puts a pod's containers, in the manner of the engine's cgroup driver."""
    if docker("info", "--format", "{{.CgroupDriver}}").stdout.strip() == "systemd":
        return f"kubepods-pod{uid.replace('-', '_')}.slice"
    return f"/kubepods/besteffort/pod{uid}"


@contextmanager
def gateway_pod(image: str, uid: str) -> Iterator[Container]:
    """A gateway's container, with the addresses on net1."""
    options = (*PRIVILEGED, "--user", "0", "--network", "none", "--cgroup-parent", cgroup_parent(uid))
    with Container(image, "infinity", options=(*options, "--entrypoint", "sleep")) as container:
        lines = ["link add net1 type veth peer name peer0", "link set net1 up", "link set peer0 up"]
        lines += [f"addr add {address}/24 dev net1" for address in GATEWAY_ADDRESSES]
        container.exec("sh", "-c", "for line; do ip $line || exit 1; done", "sh", *lines)
        yield container


def carried(gateway: Container) -> list[str]:
    links = json.loads(gateway.exec("ip", "-j", "-4", "addr", "show", "dev", "net1").stdout)
    return [each["local"] for each in links[0]["addr_info"]]


def confined(capabilities: set[str], *, user: str = "0:0", host_pid: bool = True) -> tuple[str, ...]:
    added = [word for name in sorted(capabilities) for word in ("--cap-add", name)]
    pid = ("--pid", "host") if host_pid else ()
    return (
        "--read-only",
        "--user",
        user,
        "--cap-drop",
        "ALL",
        *added,
        "--security-opt",
        "no-new-privileges",
        *LABELS,
        *pid,
    )


@pytest.fixture
def pod_uid() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(confined(EVERYTHING), "done 1", id="all three"),
        pytest.param(confined(EVERYTHING - {PTRACE}), "may not be opened", id="no SYS_PTRACE"),
        pytest.param(confined(EVERYTHING - {ADMIN}), "needs CAP_SYS_ADMIN", id="no SYS_ADMIN"),
        pytest.param(confined(EVERYTHING - {NET}), "needs CAP_NET_ADMIN", id="no NET_ADMIN"),
        pytest.param(confined(EVERYTHING, host_pid=False), "lacks hostPID", id="no hostPID"),
        pytest.param(confined(EVERYTHING, user="65532:65532"), "may not be opened", id="not root"),
    ],
)
def test_it_needs_root_with_three_capabilities_and_the_hosts_processes(
    image: str, pod_uid: str, options: tuple[str, ...], told: str
) -> None:
    with gateway_pod(image, pod_uid) as gateway:
        run = ("run", "--rm", "--network", "none", *options, "--entrypoint", "python")
        said = docker(*run, image, "-c", PROBE, pod_uid).stdout
        assert told in said
        left = [address for address in GATEWAY_ADDRESSES if told != "done 1" or address != EIPS["eip3"]]
        assert carried(gateway) == left


def test_a_worker_with_that_reclaims_on_its_own_node(place: Place) -> None:
    place_map = json.loads(place.sandbox.exec("cat", "/run/sandbox/sandbox.json").stdout)
    (pod,) = place_map["gateways"]["gw1"]
    options = confined(EVERYTHING)
    with (
        gateway_pod(place.image, pod["uid"]) as gateway,
        place.start("producer") as producer,
        place.start("worker", "--driver", "netlink", options=options, node_name=pod["node"]) as worker,
    ):
        producer.becomes_healthy()
        worker.becomes_healthy()
        place.delete("eip2")
        eventually(lambda: EIPS["eip2"] not in carried(gateway), f"the address to be gone; {worker.log}")
        assert carried(gateway) == [address for address in GATEWAY_ADDRESSES if address != EIPS["eip2"]]
        eventually(
            lambda: "=> reclaimed" in worker.exec("eip-reclaimer", "trace", "eip2", check=False).stdout, "the outcome"
        )
        assert worker.stop() == 0
