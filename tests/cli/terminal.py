"""The command on a terminal of its own, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any


class Terminal:
    """`eip-reclaimer ARGUMENT …` on a pseudo-terminal. Use it as a context manager."""

    def __init__(self, *arguments: str, env: dict[str, str], columns: int = 120) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env={**env, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            close_fds=True,
        )
        os.close(slave)
        self.shown = ""

    @property
    def status(self) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(30)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, text: str, seconds: float = 30) -> str:
        """All that was shown, once the text is there."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown
        return self.shown

    def read_until_end(self) -> str:
        while self._read():
            pass
        return self.shown

    def _read(self) -> bool:
        """Whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], 1)
        if not ready:
            return self._process.poll() is None
        try:
            came = os.read(self._master, 65536)
        except OSError:
            # What Linux says when the other end is closed.
            return False
        self.shown += came.decode(errors="replace")
        return bool(came)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
