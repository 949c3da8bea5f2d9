"""The sandbox from outside: a cluster in one process, a controller in another, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from sandbox import privileges
from sandbox.netns import NetworkNamespace
from sandbox.privileges import UNABLE, is_privileged, privileged_command
from sandbox.processes import ROOT, Process
from sandbox.redis_server import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.kernel

NOBODY = 65534


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def map_of(state: Path) -> dict[str, Any]:
    """What the sandbox's process says is where, once it is ready."""
    eventually((state / "sandbox.json").exists, "the sandbox to be ready")
    read: dict[str, Any] = json.loads((state / "sandbox.json").read_text())
    return read


def addresses(place: dict[str, Any], gateway: str) -> list[str]:
    (pod,) = place["gateways"][gateway]
    listed = subprocess.run(
        ["nsenter", f"--net={pod['netns']}", "ip", "-j", "addr", "show", "dev", "net1"],
        capture_output=True,
        check=True,
        text=True,
    )
    return [each["local"] for each in json.loads(listed.stdout)[0]["addr_info"] if each["scope"] == "global"]


def test_a_cluster_in_a_process_is_as_its_command_line_says_and_goes_with_it(state: Path, tmp_path: Path) -> None:
    arguments = ["--state", str(state), "--gateway", "gw1", "--gateway", "gw2*2", "--eip", "eip1=gw1,10.1.69.205"]
    with Process("sandbox", tmp_path / "log", "sandbox", *arguments) as process:
        place = map_of(state)
        assert addresses(place, "gw1")[1:] == ["10.1.69.205"]
        assert len(place["gateways"]["gw2"]) == 2
        netns = Path(place["netns_dir"])
        assert netns.is_dir()
        process.stop()
        assert process.status == 0
    assert not state.exists()


def test_the_sandbox_listens_on_the_loopback_only(state: Path, tmp_path: Path) -> None:
    with (
        Process("sandbox", tmp_path / "log", "sandbox", "--state", str(state), "--gateway", "gw1") as cluster,
        Process("redis", tmp_path / "log", "sandbox.redis_server", str(free_port()), str(tmp_path / "redis")) as redis,
    ):
        map_of(state)
        for process in (cluster, redis):
            listened_on = eventually(partial(sockets, process), f"{process.name} to listen")
            assert all(ip_address(ip).is_loopback for ip in listened_on)


def sockets(process: Process) -> list[str]:
    """The addresses that a process and those it started listen on."""
    top = psutil.Process(process.pid)
    return [
        each.laddr.ip
        for one in (top, *top.children(recursive=True))
        for each in one.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]


def test_a_cluster_that_is_killed_takes_its_processes_along(state: Path, tmp_path: Path) -> None:
    with Process("sandbox", tmp_path / "log", "sandbox", "--state", str(state), "--gateway", "gw1") as process:
        map_of(state)
        children = Path(f"/proc/{process.pid}/task").glob("*/children")
        started = [int(pid) for each in children for pid in each.read_text().split()]
        assert started
        process.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "its processes to end")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gateway", "gw1=nowhere"], "nowhere"),
        (["--subnet", "s=10.1.0.0/33@10.1.0.1"], "10.1.0.0/33"),
    ],
)
def test_a_cluster_that_cannot_be_says_why_and_leaves_nothing(state: Path, arguments: list[str], told: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "sandbox", "--state", str(state), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode not in (0, -signal.SIGKILL)
    assert told in ended.stderr
    assert not state.exists()


@pytest.mark.parametrize("way", ["exec", "namespaces"])
def test_a_controller_in_a_process_of_its_own_puts_addresses_on_and_takes_them_off(
    state: Path, tmp_path: Path, way: str
) -> None:
    arguments = ["--state", str(state), "--gateway", "gw1", "--no-controller"]
    with Process("sandbox", tmp_path / "sandbox.log", "sandbox", *arguments):
        place = map_of(state)
        options = ["--kubeconfig", place["kubeconfig"], "--records", str(tmp_path / "records")]
        options += ["--netns-dir", place["netns_dir"]] if way == "namespaces" else []
        with Process("controller", tmp_path / "log", "sandbox.controller", *options) as controller:
            kubectl(place, "POST", "", eip("eip1", "10.1.69.205"))
            eventually(lambda: "ready" in steps(tmp_path), "it to be ready")
            assert "10.1.69.205" in addresses(place, "gw1")
            kubectl(place, "DELETE", "/eip1")
            eventually(lambda: "10.1.69.205" not in addresses(place, "gw1"), "it to be gone")
            controller.stop()
            assert controller.status == 0
    assert steps(tmp_path)[0] == "started"


def steps(directory: Path) -> list[str]:
    """What a controller has recorded."""
    records = directory / "records"
    lines = records.read_text().splitlines() if records.exists() else []
    return [json.loads(line)["step"] for line in lines]


def test_a_controller_in_a_process_of_its_own_can_die_and_leak(state: Path, tmp_path: Path) -> None:
    arguments = ["--state", str(state), "--gateway", "gw1", "--no-controller"]
    with Process("sandbox", tmp_path / "sandbox.log", "sandbox", *arguments):
        place = map_of(state)
        options = ["--kubeconfig", place["kubeconfig"], "--leak", "death-mid-creation"]
        with Process("controller", tmp_path / "log", "sandbox.controller", *options) as controller:
            kubectl(place, "POST", "", eip("eip1", "10.1.69.205"))
            eventually(lambda: not controller.running, "it to die")
            assert controller.status == 128 + signal.SIGKILL
        assert "10.1.69.205" in addresses(place, "gw1")


def eip(name: str, address: str) -> dict[str, Any]:
    spec = {"natGwDp": "gw1", "v4ip": address, "externalSubnet": ""}
    return {"apiVersion": "kubeovn.io/v1", "kind": "IptablesEIP", "metadata": {"name": name}, "spec": spec}


def kubectl(place: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None) -> None:
    url = f"{place['api']}/apis/kubeovn.io/v1/iptables-eips{path}"
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}, method=method)) as answer:
        assert answer.status < 300


def anybody() -> list[str]:
    """What runs a command without rights: as another user, where there is one in this user namespace."""
    first, _, count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
    if first + count <= NOBODY:
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


class TestPrivileges:
    """Namespaces are had as root, and in a user namespace otherwise."""

    @pytest.fixture
    def run(self) -> Callable[..., subprocess.CompletedProcess[str]]:
        def run_command(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "sandbox.privileges", "--", *command],
                cwd=ROOT,
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        return run_command

    def test_root_runs_the_command_as_it_is(self) -> None:
        assert is_privileged()
        assert privileged_command(["true"]) == ["true"]

    def test_the_commands_exit_status_is_passed_on(self, run: Callable[..., Any]) -> None:
        assert run("bash", "-c", "exit 7").returncode == 7

    def test_anybody_else_gets_a_namespace_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(privileges, "is_privileged", lambda: False)
        argv = privileged_command(["ip", "-j", "link", "show", "lo"])
        done = subprocess.run([*anybody(), *argv], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (loopback,) = json.loads(done.stdout)
        assert "UP" in loopback["flags"]

    def test_a_program_that_is_missing_is_named_with_its_package(self, run: Callable[..., Any], tmp_path: Path) -> None:
        done = run("true", PATH=str(tmp_path))
        assert done.returncode == UNABLE
        assert "not found on PATH: install bash iproute2 util-linux." in done.stderr

    def test_a_command_that_is_missing_is_named(self, run: Callable[..., Any]) -> None:
        done = run("no-such-command")
        assert (done.returncode, done.stderr) == (127, "no-such-command: command not found\n")

    def test_no_command_at_all_is_a_usage_error(self, run: Callable[..., Any]) -> None:
        assert run().returncode == 2


def test_no_namespace_outlives_its_holder() -> None:
    with NetworkNamespace() as namespace:
        path = namespace.path
        assert path.exists()
    assert not path.exists()
