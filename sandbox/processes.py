"""Processes beside this one that cannot outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent


class ProcessDiedError(Exception):
    """A process ended that should have run on; its last words are in the message."""


class Process:
    """`python -m MODULE ARGUMENT …` with its output in a file.

    Start it from a thread that outlives it: the kernel ends it with the thread that started it.
    """

    def __init__(self, name: str, log: Path, *module: str, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status, the negative number of the signal that ended it, or None while it runs."""
        return self._process.poll()

    def expect_running(self) -> None:
        """See that it runs.

        Raises:
            ProcessDiedError: it does not.
        """
        if not self.running:
            raise ProcessDiedError(f"{self.name} ended with status {self.status}:\n{self.last_words()}")

    def expect_success(self, timeout: float = 60) -> None:
        """Wait until it ends by itself, and see that it ended well.

        Raises:
            ProcessDiedError: its exit status is not 0.
            subprocess.TimeoutExpired: it does not end.
        """
        if self._process.wait(timeout) != 0:
            self.expect_running()

    def last_words(self, lines: int = 12) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def stop(self, patience: float = 10) -> None:
        """Ask it to end, and end it when it has not within `patience` seconds."""
        if self.running:
            self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
