"""Network namespaces held by a process, as a pod's are.

A namespace lives exactly as long as the process that holds it, and that process dies with its parent:
nothing is mounted, nothing has to be cleaned up after a crash. Its path is /proc/<pid>/ns/net.

Needs CAP_SYS_ADMIN and CAP_NET_ADMIN, which an ordinary user has inside a user namespace
(`sandbox.privileges`).
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOLDER = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity")
_WRITE_SYSCTL = 'for pair; do f=/proc/sys/${pair%%=*}; [ ! -e "$f" ] || echo "${pair#*=}" > "$f"; done'


class NetworkNamespace:
    """One network namespace with its loopback up.

    Create it from a thread that outlives it: the kernel kills the holder when the *thread* that started it ends.
    """

    def __init__(self) -> None:
        own = os.stat("/proc/self/ns/net").st_ino
        self._holder = subprocess.Popen(HOLDER, stdin=subprocess.DEVNULL)
        self.pid = self._holder.pid
        deadline = time.monotonic() + 10
        while self._inode() in (own, None):
            if self._holder.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise OSError(
                    "no network namespace could be made: run as root, or as a user who may create user namespaces"
                )
            time.sleep(0.002)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> Path:
        """The path that setns(2) and pyroute2 take."""
        return Path(f"/proc/{self.pid}/ns/net")

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argv that runs `argv` inside."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it.

        Raises:
            subprocess.CalledProcessError: it exited non-zero and `check` is set.
        """
        return subprocess.run(self.command(argv), input=stdin, capture_output=True, text=True, check=check)

    def ip(self, *args: str) -> str:
        """Run iproute2's `ip` inside; its output."""
        return self.run("ip", *args).stdout

    def set_sysctl(self, settings: Mapping[str, str | int]) -> None:
        """Write kernel settings, such as `net/ipv4/ip_forward`; one that this kernel does not have is left out."""
        pairs = [f"{name}={value}" for name, value in settings.items()]
        self.run("sh", "-c", _WRITE_SYSCTL, "sysctl", *pairs)

    def close(self) -> None:
        """End the holder; the kernel frees the namespace with its last user."""
        self._holder.kill()
        self._holder.wait()

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _inode(self) -> int | None:
        try:
            return os.stat(self.path).st_ino
        except OSError:
            return None
