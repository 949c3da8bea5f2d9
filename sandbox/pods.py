"""Pods as network namespaces: where a command in a pod runs, and what may go wrong with it there.

A pod here is a namespace and the UID of its Pod object. For drivers that enter namespaces by themselves, a directory
has a symbolic link `<pod uid>` to each pod's /proc/<pid>/ns/net.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.objects import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandbox.netns import NetworkNamespace

LOCAL_SCRIPT = Path(__file__).with_name("nat-gateway.sh")
_OUTLIVING = '"$@" <&0 & wait $!'


class Fault(enum.Enum):
    """What becomes of a command in a pod; the value is the shell command around it (`"$@"`)."""

    HANG = "exec sleep infinity"
    """It never begins and never ends."""
    HANG_AFTERWARDS = '"$@" > /dev/null; exec sleep infinity'
    """It does its work; nobody hears of it."""
    DIE_AT_ONCE = "kill -KILL $$"
    """It is killed before it began."""
    DIE_HALF_WAY = 'out=$("$@"); printf %s "${out:0:${#out}/2}"; kill -KILL $$'
    """It does its work, half of the answer comes back, then it is killed."""
    GARBAGE = '"$@" > /dev/null; printf \'\\x00\\xff{"not": "an answer"\\n]]\''
    """It does its work, exits 0 and answers nonsense."""
    FAIL = "echo 'sandbox: refused' >&2; exit 1"
    """It does nothing and exits 1."""


@dataclass
class _Pod:
    namespace: NetworkNamespace
    sessions: set[int] = field(default_factory=set)
    fault: Fault | None = None
    faults_left: int | None = None


class PodNamespaces:
    """The namespaces of all pods that run, by the Pod object's UID. Runs what pods/exec asks for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._pods: dict[str, _Pod] = {}

    def add(self, uid: str, namespace: NetworkNamespace) -> None:
        """Let a namespace be this pod's."""
        self._pods[uid] = _Pod(namespace)
        (self.directory / uid).symlink_to(namespace.path)

    def remove(self, uid: str) -> None:
        """End a pod: its namespace and every command in it. One that is not there is no error."""
        pod = self._pods.pop(uid, None)
        if pod is None:
            return
        (self.directory / uid).unlink(missing_ok=True)
        for pid in _commands_in(pod):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pod.namespace.close()

    def namespace(self, uid: str) -> NetworkNamespace:
        """The namespace of a pod.

        Raises:
            KeyError: no such pod runs.
        """
        return self._pods[uid].namespace

    def set_fault(self, uid: str, fault: Fault | None, *, times: int | None = None) -> None:
        """Let the next `times` commands in a pod go wrong (all of them without), or none any more."""
        pod = self._pods[uid]
        pod.fault, pod.faults_left = fault, times

    def commands(self, uid: str) -> list[str]:
        """The command lines that run in a pod now, of what was asked for and of what that started."""
        lines = []
        for pid in _commands_in(self._pods[uid]):
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").replace("\0", " "))
        return lines

    async def start(self, pod: Mapping[str, Any], container: str, argv: Sequence[str]) -> asyncio.subprocess.Process:
        """Start a command in a pod's namespace, its three streams as pipes.

        The path of the script in a real gateway's image stands for the sandbox's own script. As under a real container
        runtime, a command outlives the process that is returned here: killing that one only stops listening.

        Raises:
            OSError: the pod does not run here (ProcessLookupError), or there is no such program (FileNotFoundError).
        """
        running = self._pods.get(pod["metadata"]["uid"])
        if running is None:
            raise ProcessLookupError(f"pod {pod['metadata']['name']} ({container}) does not run here")
        if shutil.which(argv[0]) is None:
            raise FileNotFoundError(argv[0])
        fault = self._next_fault(running)
        around = fault.value if fault is not None else _OUTLIVING
        command = [str(LOCAL_SCRIPT) if part == SCRIPT else part for part in argv]
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL"),
            *running.namespace.command(["bash", "-c", around, "bash", *command]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        running.sessions.add(process.pid)
        return process

    def close(self) -> None:
        """End every pod."""
        for uid in list(self._pods):
            self.remove(uid)

    def _next_fault(self, pod: _Pod) -> Fault | None:
        if pod.fault is None or pod.faults_left == 0:
            return None
        if pod.faults_left is not None:
            pod.faults_left -= 1
        return pod.fault


def _commands_in(pod: _Pod) -> Iterator[int]:
    """The process ids of the commands that still run in a pod, and of what they started.

    A session's number alone does not say so, since it is given anew once the session is over.
    """
    inside = os.stat(pod.namespace.path).st_ino
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if os.getsid(pid) in pod.sessions and os.stat(entry / "ns/net").st_ino == inside:
                yield pid
