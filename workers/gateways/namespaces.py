"""From a gateway pod to its network namespace, as an open file descriptor, and to a socket inside it.

The descriptor is taken first and checked afterwards: it keeps pointing at the namespace that was checked, whatever
becomes of the process id or the file that led to it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shared.errors import GatewayUnreachableError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.gateways.interface import GatewayPod

NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
POD_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)


class NamespaceLocator(Protocol):
    """A way to find the network namespace of a pod."""

    def open(self, pod: GatewayPod) -> int:
        """A file descriptor of the pod's network namespace, which the caller closes.

        Raises:
            GatewayUnreachableError: it is not here, or not any more.
            PermanentError: what was found is the host's namespace or this process's own.
        """


class ProcessLocator:
    """Finds the namespace among the node's processes, by the pod's UID in their cgroup.

    Needs the host's process ids (hostPID) and CAP_SYS_PTRACE or root to look into /proc/<pid>/ns.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[str, int] = {}

    def open(self, pod: GatewayPod) -> int:
        """See `NamespaceLocator.open`. The process found last is asked first."""
        pattern = _cgroup_pattern(pod)
        for pid in self._candidates(pod.uid, pattern):
            try:
                descriptor = os.open(self._proc / str(pid) / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
            except PermissionError as error:
                raise GatewayUnreachableError(
                    f"the namespace of pod {pod.name} (process {pid}) may not be opened: "
                    "run the worker with hostPID, CAP_SYS_PTRACE and CAP_SYS_ADMIN"
                ) from error
            except OSError:
                continue
            # Only now: the process may have ended, and its id been given to another, before the descriptor was open.
            if not self._belongs(pid, pattern):
                os.close(descriptor)
                continue
            self._known[pod.uid] = pid
            return _refuse_foreign(descriptor, pod, self._proc)
        self._known.pop(pod.uid, None)
        raise GatewayUnreachableError(
            f"no process of pod {pod.namespace}/{pod.name} runs here: the pod ended or moved from node "
            f"{pod.node!r}, or the worker lacks hostPID"
        )

    def _candidates(self, uid: str, pattern: re.Pattern[str]) -> Iterator[int]:
        if (known := self._known.get(uid)) is not None and self._belongs(known, pattern):
            yield known
        for pid in sorted(int(entry) for entry in os.listdir(self._proc) if entry.isdigit()):
            if self._belongs(pid, pattern):
                yield pid

    def _belongs(self, pid: int, pattern: re.Pattern[str]) -> bool:
        try:
            return pattern.search((self._proc / str(pid) / "cgroup").read_text("utf-8", "replace")) is not None
        except OSError:
            return False


class DirectoryLocator:
    """Finds the namespace as `<directory>/<pod uid>`: a bind mount of it, or a symbolic link to one."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = str(directory)

    def open(self, pod: GatewayPod) -> int:
        """See `NamespaceLocator.open`."""
        path = f"{self._directory}/{checked_uid(pod)}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise GatewayUnreachableError(
                f"the namespace of pod {pod.name} is not at {path} ({error.strerror}): the pod ended, "
                "or another directory of namespaces has to be set"
            ) from error
        return _refuse_foreign(descriptor, pod, Path("/proc"))


def checked_uid(pod: GatewayPod) -> str:
    """The pod's UID, when it can be part of a path or a pattern.

    Raises:
        PermanentError: it cannot.
    """
    if not POD_UID.fullmatch(pod.uid):
        raise PermanentError(f"pod {pod.name} has an impossible UID {pod.uid!r}: the job's payload is wrong")
    return pod.uid


def _cgroup_pattern(pod: GatewayPod) -> re.Pattern[str]:
    """Matches `…/pod<uid>/…` (cgroupfs driver) and `…-pod<uid_with_underscores>.slice` (systemd driver)."""
    uid = checked_uid(pod)
    return re.compile(rf"pod(?:{uid}|{uid.replace('-', '_')})(?![0-9A-Za-z_-])")


def _refuse_foreign(descriptor: int, pod: GatewayPod, proc: Path) -> int:
    """The descriptor, when it is a network namespace that belongs to neither the host nor this process; else closed."""
    try:
        _check(descriptor, pod, proc)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int, pod: GatewayPod, proc: Path) -> None:
    found = os.fstat(descriptor)
    try:
        kind = fcntl.ioctl(descriptor, NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        raise GatewayUnreachableError(
            f"what was found for pod {pod.name} is no network namespace: its runtime has not finished making it, "
            "or another directory of namespaces has to be set"
        )
    for owner, path in (("host", f"{proc}/1/ns/net"), ("worker", "/proc/thread-self/ns/net")):
        try:
            foreign = os.stat(path)
        except OSError:
            continue  # not readable from a user namespace of one's own, where the host's cannot be entered either
        if (foreign.st_dev, foreign.st_ino) == (found.st_dev, found.st_ino):
            raise PermanentError(
                f"pod {pod.name} shares the {owner}'s own network namespace, whose addresses are never touched: "
                "a gateway's pod does not run with hostNetwork"
            )


def netlink_socket(namespace: int) -> int:
    """A new rtnetlink socket inside the namespace that the descriptor names; its descriptor.

    A thread of its own enters the namespace, makes the socket, and ends: the rest of the process stays where it is, and
    nothing is forked, which in a process with other threads may hang.

    Raises:
        OSError: the namespace may not be entered; that needs CAP_SYS_ADMIN.
    """
    made: list[int | OSError] = []

    def make() -> None:
        if _LIBC.setns(namespace, CLONE_NEWNET) != 0:
            made.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
            return
        try:
            made.append(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE).detach())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="namespace")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
