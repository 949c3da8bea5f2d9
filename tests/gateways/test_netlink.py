"""Finding the right namespace, refusing the wrong one, and keeping sockets no longer than they are good."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandbox.netns import NetworkNamespace
from shared.errors import GatewayUnreachableError, PermanentError
from tests.gateways.conftest import build_interfaces
from workers.gateways import netlink
from workers.gateways.interface import Address, DeleteAddress, GatewayPod, SetPromoteSecondaries
from workers.gateways.namespaces import DirectoryLocator, ProcessLocator, netlink_socket
from workers.gateways.netlink import NetlinkDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

UID = "0a1b2c3d-0001-4e5f-8a9b-0c1d2e3f4a5b"
POD = GatewayPod("vpc-nat-gw-a-0", "kube-system", UID, "node-1")
CGROUPFS = f"0::/kubepods/burstable/pod{UID}/4f1c\n"
SYSTEMD = (
    f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-1.scope\n"
)
VERSION_1 = f"12:cpu:/\n4:memory:/kubepods/besteffort/pod{UID}/4f1c\n"
OTHER_POD = CGROUPFS.replace(UID, "ffffffff-0001-4e5f-8a9b-0c1d2e3f4a5b")
NO_POD = "0::/system.slice/ssh.service\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def driver(directory: Path) -> Iterator[NetlinkDriver]:
    driver = NetlinkDriver(DirectoryLocator(directory))
    yield driver
    driver.close()


def process(proc: Path, pid: int, cgroup: str, namespace: Path | None) -> None:
    """Let there be a process in a directory like /proc."""
    (proc / str(pid) / "ns").mkdir(parents=True)
    (proc / str(pid) / "cgroup").write_text(cgroup)
    if namespace is not None:
        (proc / str(pid) / "ns" / "net").symlink_to(namespace)


def is_at(descriptor: int, namespace: NetworkNamespace) -> bool:
    inode = os.fstat(descriptor).st_ino
    os.close(descriptor)
    return inode == os.stat(namespace.path).st_ino


def open_files() -> int:
    """How many there are once none is being closed any more that tests before this one left."""
    while True:
        gc.collect()
        before = os.listdir("/proc/self/fd")
        time.sleep(0.1)
        if os.listdir("/proc/self/fd") == before:
            return len(before)


# ProcessLocator


@pytest.mark.parametrize("cgroup", [CGROUPFS, SYSTEMD, VERSION_1])
def test_a_pods_process_is_found_by_its_cgroup(tmp_path: Path, netns: NetworkNamespace, cgroup: str) -> None:
    with NetworkNamespace() as other:
        process(tmp_path, 7, NO_POD, other.path)
        process(tmp_path, 50, OTHER_POD, other.path)
        process(tmp_path, 1234, cgroup, netns.path)
        (tmp_path / "self").mkdir()
        assert is_at(ProcessLocator(tmp_path).open(POD), netns)


def test_a_uid_that_only_begins_alike_is_another_pod(tmp_path: Path, netns: NetworkNamespace) -> None:
    process(tmp_path, 9, CGROUPFS.replace(UID, f"{UID}-1"), netns.path)
    process(tmp_path, 10, CGROUPFS.replace(UID, f"{UID}0"), netns.path)
    with pytest.raises(GatewayUnreachableError, match="no process of pod kube-system/vpc-nat-gw-a-0 runs here"):
        ProcessLocator(tmp_path).open(POD)


def test_a_process_that_just_ended_is_passed_over(tmp_path: Path, netns: NetworkNamespace) -> None:
    process(tmp_path, 9, CGROUPFS, None)
    process(tmp_path, 10, CGROUPFS, netns.path)
    assert is_at(ProcessLocator(tmp_path).open(POD), netns)


def test_a_process_id_that_went_to_somebody_else_is_not_believed(tmp_path: Path, netns: NetworkNamespace) -> None:
    process(tmp_path, 9, CGROUPFS, netns.path)
    locator = ProcessLocator(tmp_path)
    assert is_at(locator.open(POD), netns)
    (tmp_path / "9" / "cgroup").write_text(OTHER_POD)
    with pytest.raises(GatewayUnreachableError):
        locator.open(POD)


def test_a_process_id_that_changes_hands_while_it_is_looked_at_is_not_believed(
    tmp_path: Path, netns: NetworkNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, 9, CGROUPFS, netns.path)
    real_open = os.open

    def open_late(path: Path, flags: int) -> int:
        (tmp_path / "9" / "cgroup").write_text(OTHER_POD)
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", open_late)
    files = open_files()
    with pytest.raises(GatewayUnreachableError):
        ProcessLocator(tmp_path).open(POD)
    assert open_files() == files


def test_the_hosts_namespace_is_refused(tmp_path: Path, netns: NetworkNamespace) -> None:
    process(tmp_path, 1, "0::/init.scope\n", netns.path)
    process(tmp_path, 9, CGROUPFS, netns.path)
    with pytest.raises(PermanentError, match="shares the host's own network namespace"):
        ProcessLocator(tmp_path).open(POD)


def test_the_workers_own_namespace_is_refused(tmp_path: Path, directory: Path) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    process(tmp_path, 9, CGROUPFS, tmp_path / "own")
    (tmp_path / "own").symlink_to("/proc/self/ns/net")
    (directory / UID).symlink_to("/proc/self/ns/net")
    for locator in (ProcessLocator(tmp_path), DirectoryLocator(directory)):
        with pytest.raises(PermanentError, match="own network namespace"):
            locator.open(POD)
    assert os.stat("/proc/self/ns/net").st_ino == own


def test_real_processes_are_looked_through() -> None:
    with pytest.raises(GatewayUnreachableError, match="worker lacks hostPID"):
        ProcessLocator().open(POD)


# DirectoryLocator


@pytest.mark.parametrize("uid", ["..", "../etc", "", "a/b", "x" * 64, ".hidden", "a\0b", "pod*"])
def test_a_uid_that_is_none_is_refused(directory: Path, uid: str) -> None:
    for locator in (DirectoryLocator(directory), ProcessLocator()):
        with pytest.raises(PermanentError, match="impossible UID"):
            locator.open(replace(POD, uid=uid))


def test_a_namespace_that_is_not_there_is_not_made(directory: Path, driver: NetlinkDriver) -> None:
    with pytest.raises(GatewayUnreachableError, match="is not at"), driver.open(POD):
        pass
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "dangling", "mount"])
def test_what_is_no_network_namespace_is_not_entered(directory: Path, driver: NetlinkDriver, kind: str) -> None:
    path = directory / UID
    match kind:
        case "file":
            path.touch()
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("/proc/4194305/ns/net")
        case _:
            path.symlink_to("/proc/self/ns/mnt")
    with pytest.raises(GatewayUnreachableError), driver.open(POD):
        pass


# The kept sockets


def test_a_pods_new_namespace_is_entered_instead_of_the_old_one(directory: Path, driver: NetlinkDriver) -> None:
    for host in (1, 2, 3):
        with NetworkNamespace() as namespace:
            build_interfaces(namespace)
            namespace.ip("addr", "add", f"10.1.69.{host}/24", "dev", "net1")
            (directory / UID).unlink(missing_ok=True)
            (directory / UID).symlink_to(namespace.path)
            with driver.open(POD) as gateway:
                addresses = {str(each.ip) for each in gateway.read().addresses if each.interface == "net1"}
            assert addresses == {f"10.1.69.{host}"}


def test_a_namespace_that_vanished_is_not_read_from_a_kept_socket(directory: Path, driver: NetlinkDriver) -> None:
    with NetworkNamespace() as namespace:
        (directory / UID).symlink_to(namespace.path)
        with driver.open(POD) as gateway:
            assert gateway.read()
    with pytest.raises(GatewayUnreachableError), driver.open(POD):
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sockets that were made since."""
    sockets: list[int] = []

    def make(namespace: int) -> int:
        sockets.append(netlink_socket(namespace))
        return sockets[-1]

    monkeypatch.setattr(netlink, "netlink_socket", make)
    return sockets


def in_a_thread(function: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as one:
        one.submit(function).result(10)


def test_what_one_thread_has_used_another_uses_next(
    directory: Path, driver: NetlinkDriver, netns: NetworkNamespace, made: list[int]
) -> None:
    (directory / UID).symlink_to(netns.path)

    def flip() -> None:
        with driver.open(POD) as gateway:
            steps = [SetPromoteSecondaries("net1", value=value) for value in (True, False)]
            assert gateway.carry_out(steps, lambda: None).promote_secondaries["net1"] is False

    flip()
    assert len(made) == 2  # the second one is pyroute2's, which is its thread's own
    for _ in range(3):
        in_a_thread(flip)
    assert len(made) == 5


def test_two_threads_in_one_pod_have_sockets_of_their_own(
    directory: Path, driver: NetlinkDriver, netns: NetworkNamespace, made: list[int]
) -> None:
    (directory / UID).symlink_to(netns.path)

    def look() -> None:
        with driver.open(POD) as gateway:
            assert gateway.read()

    look()
    files = open_files()
    with driver.open(POD) as gateway:
        in_a_thread(look)
        assert gateway.read()
        in_a_thread(look)
    assert len(made) == 2
    look()
    assert len(made) == 2
    assert open_files() == files


def test_what_was_used_a_moment_ago_is_kept_where_only_what_is_old_is_to_go(
    directory: Path, driver: NetlinkDriver, netns: NetworkNamespace, made: list[int]
) -> None:
    (directory / UID).symlink_to(netns.path)
    for unused_for, expected in ((30.0, 1), (0.0, 2)):
        with driver.open(POD) as gateway:
            gateway.read()
        driver.close(unused_for)
        with driver.open(POD) as gateway:
            gateway.read()
        assert len(made) == expected


def test_all_is_closed_in_the_end(directory: Path, netns: NetworkNamespace) -> None:
    (directory / UID).symlink_to(netns.path)
    with NetlinkDriver(DirectoryLocator(directory)).open(POD):
        pass  # the first use of pyroute2 opens files of its own
    files = open_files()
    driver = NetlinkDriver(DirectoryLocator(directory))
    for _ in range(5):
        with driver.open(POD) as gateway:
            gateway.read()
        with pytest.raises(GatewayUnreachableError), driver.open(POD) as gateway:
            gateway.carry_out([DeleteAddress(Address("nope", ip_address("10.1.69.1"), 24))], lambda: None)
    driver.close()
    driver.close()
    assert open_files() == files


def test_only_so_many_sockets_are_kept(directory: Path, netns: NetworkNamespace) -> None:
    driver = NetlinkDriver(DirectoryLocator(directory), max_kept=2)
    files = []
    for number in range(6):
        (directory / str(number)).symlink_to(netns.path)
        with driver.open(replace(POD, uid=str(number))) as gateway:
            gateway.read()
        files.append(open_files())
    driver.close()
    assert files[1] == files[2] == files[5]
    assert open_files() < files[0]


def test_a_socket_that_was_not_used_for_long_is_closed_at_the_next_use(
    directory: Path, netns: NetworkNamespace
) -> None:
    driver = NetlinkDriver(DirectoryLocator(directory), max_idle=0.0)
    files = []
    for number in range(4):
        (directory / str(number)).symlink_to(netns.path)
        with driver.open(replace(POD, uid=str(number))) as gateway:
            gateway.read()
        files.append(open_files())
    driver.close()
    assert files[1] == files[3]


def test_a_child_process_does_not_use_its_parents_sockets(
    directory: Path, driver: NetlinkDriver, netns: NetworkNamespace
) -> None:
    (directory / UID).symlink_to(netns.path)
    netns.ip("addr", "add", "10.1.69.1/24", "dev", "net1")
    with driver.open(POD) as gateway:
        before = gateway.read()
    child = os.fork()
    if child == 0:
        try:
            with driver.open(POD) as gateway:
                os._exit(0 if gateway.read() == before else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with driver.open(POD) as gateway:
        assert gateway.read() == before


def test_a_process_of_a_pod_is_entered_through_the_whole_driver(tmp_path: Path, netns: NetworkNamespace) -> None:
    process(tmp_path, netns.pid, SYSTEMD, netns.path)
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    driver = NetlinkDriver(ProcessLocator(tmp_path))
    with driver.open(POD) as gateway:
        gateway.carry_out([DeleteAddress(Address("net1", ip_address("10.1.69.205"), 24))], lambda: None)
    driver.close()
    assert "10.1.69.205" not in netns.ip("addr")


def test_the_flag_is_set_although_proc_sys_is_read_only(directory: Path, netns: NetworkNamespace) -> None:
    """As in a container that has CAP_NET_ADMIN but is not privileged."""
    program = (
        "import sys\n"
        "from workers.gateways.interface import GatewayPod, SetPromoteSecondaries\n"
        "from workers.gateways.namespaces import DirectoryLocator\n"
        "from workers.gateways.netlink import NetlinkDriver\n"
        f"pod = GatewayPod('a', 'b', {UID!r}, 'c')\n"
        "with NetlinkDriver(DirectoryLocator(sys.argv[1])).open(pod) as gateway:\n"
        "    gateway.carry_out([SetPromoteSecondaries('net1', value=True)], lambda: None)\n"
    )
    (directory / UID).symlink_to(netns.path)
    shell = (
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && "
        '! echo 1 2>/dev/null >/proc/sys/net/ipv4/conf/all/promote_secondaries && exec "$@"'
    )
    argv = ["unshare", "--mount", "bash", "-c", shell, "bash", sys.executable, "-c", program, str(directory)]
    subprocess.run(argv, check=True)
    flag = netns.run("cat", "/proc/sys/net/ipv4/conf/net1/promote_secondaries").stdout
    assert flag == "1\n"
