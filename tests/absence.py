"""How long an address was missing on a gateway, from the kernel's own notifications."""

from __future__ import annotations

import re
import select
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.netns import NetworkNamespace

_LINE = re.compile(r"^\[(?P<at>[^\]]+)\]\s*(?P<gone>Deleted )?\d+:\s+(?P<interface>\S+)\s+inet6? (?P<address>\S+)")


class AbsenceWatch:
    """Listens for one address (`10.1.69.205/24`) of a namespace in which it is there now."""

    def __init__(self, namespace: NetworkNamespace, address: str) -> None:
        self._address = address
        self._monitor = subprocess.Popen(
            namespace.command(["stdbuf", "-oL", "ip", "-ts", "monitor", "address", "dev", "net1"]),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._monitor.stdout is not None
        # It listens as soon as it tells of an address that nobody needs.
        while not select.select([self._monitor.stdout], [], [], 0.1)[0]:
            namespace.ip("addr", "replace", "192.0.2.99/32", "dev", "net1")
        namespace.ip("addr", "del", "192.0.2.99/32", "dev", "net1")

    def stop(self) -> list[float]:
        """Seconds of each absence that ended; infinite for one that did not."""
        self._monitor.terminate()
        output, _ = self._monitor.communicate(timeout=10)
        absences: list[float] = []
        since: datetime | None = None
        for line in output.splitlines():
            found = _LINE.match(line)
            if not found or found["address"] != self._address:
                continue
            at = datetime.fromisoformat(found["at"])
            if found["gone"]:
                since = since or at
            elif since is not None:
                absences.append((at - since).total_seconds())
                since = None
        return [*absences, float("inf")] if since else absences

    def __enter__(self) -> AbsenceWatch:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._monitor.poll() is None:
            self._monitor.kill()
            self._monitor.wait()
