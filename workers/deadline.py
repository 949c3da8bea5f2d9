"""Ending jobs that take too long, in whatever thread they run.

RQ's own way is an alarm signal, which only a process's main thread gets. Here somebody else looks at the clock now and
then, and raises the exception in the job's thread. It comes once that thread runs Python again: every wait of a job's
(for Redis, the API, a gateway) has a limit of its own.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any, ClassVar

from rq.timeouts import BaseDeathPenalty


class Deadline(BaseDeathPenalty):
    """See `rq.timeouts`: a `with` block that is ended by an exception when it takes too long."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _running: ClassVar[dict[int, Deadline]] = {}
    """By thread."""

    def __init__(self, timeout: float, exception: type[BaseException], **kwargs: Any) -> None:
        """`timeout` is in seconds."""
        super().__init__(timeout, exception, **kwargs)  # type: ignore[no-untyped-call]
        self._at = time.monotonic() + timeout

    def setup_death_penalty(self) -> None:
        """Begin."""
        with self._lock:
            self._running[threading.get_ident()] = self

    def cancel_death_penalty(self) -> None:
        """End; what was raised already but not seen yet, RQ's `__exit__` swallows here."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)

    @classmethod
    def strike(cls) -> None:
        """Raise the exception where the time is over, once for each block."""
        now = time.monotonic()
        # Under the lock, so that it never comes to the thread's next job.
        with cls._lock:
            for thread, block in list(cls._running.items()):
                if now >= block._at:
                    del cls._running[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(block._exception)
                    )
