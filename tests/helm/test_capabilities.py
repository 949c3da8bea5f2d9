"""What the chart gives workers with netlink is what the kernel asks for: with it they work, and without any of it not.

A gateway's process is root with every capability, as that of a privileged container; the worker's has exactly those of
the chart's container, and cannot gain further ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.netns import NetworkNamespace
from sandbox.processes import ROOT
from tests.helm.chart import NETLINK, pods, render

pytestmark = pytest.mark.kernel

UID = "0f4ad0c2-6d43-4d1c-9a3e-6a2f4d1f9f11"
ADDRESS = "10.1.69.205"
CONTAINER = pods(render(NETLINK))["eip-reclaimer-worker-netlink"]["spec"]["containers"][0]["securityContext"]
GRANTED: list[str] = CONTAINER["capabilities"]["add"]
SHARED_PROCESSES: list[str] = []
OWN_PROCESSES = ["unshare", "--pid", "--fork", "--mount-proc"]
"""What becomes of a container without hostPID."""


@pytest.fixture
def gateway() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        namespace.ip("link", "add", "net1", "type", "veth", "peer", "name", "other")
        namespace.ip("link", "set", "net1", "up")
        namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
        yield namespace


@pytest.fixture
def proc(gateway: NetworkNamespace, tmp_path: Path) -> Path:
    """The node's /proc, where the gateway's process is in its pod's cgroup."""
    for pid in (1, gateway.pid):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "ns").symlink_to(f"/proc/{pid}/ns")
    slices = f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-gateway.scope"
    (tmp_path / str(gateway.pid) / "cgroup").write_text(f"0::/../../{slices}\n")
    return tmp_path


def enter(proc: Path, capabilities: list[str], around: list[str]) -> str:
    """What a worker with these capabilities says."""
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    rights = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}"]
    command = [*around, *rights, sys.executable, "-m", "tests.helm.enter_gateway", str(proc), UID, ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() or done.stderr


def holds(gateway: NetworkNamespace) -> bool:
    return ADDRESS in gateway.ip("addr", "show", "dev", "net1")


def test_with_what_the_chart_gives_it_works(proc: Path, gateway: NetworkNamespace) -> None:
    assert CONTAINER["allowPrivilegeEscalation"] is False
    assert CONTAINER["capabilities"]["drop"] == ["ALL"]
    assert enter(proc, GRANTED, SHARED_PROCESSES) == "done"
    assert not holds(gateway)


@pytest.mark.parametrize(
    ("capability", "complaint"),
    [
        ("SYS_PTRACE", "may not be opened"),
        ("SYS_ADMIN", "could not be entered"),
        ("NET_ADMIN", "the kernel refused to"),
    ],
)
def test_without_any_of_its_capabilities_it_does_not(
    capability: str, complaint: str, proc: Path, gateway: NetworkNamespace
) -> None:
    said = enter(proc, [name for name in GRANTED if name != capability], SHARED_PROCESSES)
    assert complaint in said
    assert f"CAP_{capability}" in said
    assert holds(gateway)


def test_each_of_its_capabilities_was_left_out_above_and_is_in_the_documents() -> None:
    assert sorted(GRANTED) == ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]
    told = re.findall(r"^\| capability `([A-Z_]+)` \|", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(GRANTED)


def test_without_the_hosts_processes_it_does_not(proc: Path, gateway: NetworkNamespace) -> None:
    said = enter(proc, GRANTED, OWN_PROCESSES)
    assert said.startswith("no process of pod kube-system/gw1-0 runs here")
    assert "hostPID" in said
    assert holds(gateway)
