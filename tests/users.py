"""Users of Kube-OVN, who create and delete EIPs: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class Users(ABC):
    """Run between `start` and `stop`."""

    def __init__(self) -> None:
        self._failure: BaseException | None = None
        self._told_to_end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def check(self) -> None:
        """See that nothing went wrong.

        Raises:
            BaseException: what did.
        """
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Create no more, and wait until what there is has become what it was to become.

        Raises:
            BaseException: what went wrong meanwhile.
        """
        self._told_to_end.set()
        self._thread.join()
        self.check()

    @abstractmethod
    async def live(self) -> None:
        """Do what users do, until told to end."""

    def _run(self) -> None:
        try:
            asyncio.run(self.live())
        except BaseException as error:
            self._failure = error


async def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.03)
    return True


def is_ready(eip: dict[str, Any] | None) -> bool:
    """Whether Kube-OVN is done with an EIP's creation."""
    return bool(eip and (eip.get("status") or {}).get("ready") and eip["metadata"].get("finalizers"))
