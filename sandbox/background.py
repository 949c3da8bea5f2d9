"""An event loop in a thread of its own, and a synchronous face for it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class BackgroundLoop:
    """A loop, and beside it a thread in which namespaces are made: their holders die with it, so it lives as long."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.namespaces = ThreadPoolExecutor(1, "namespaces")
        self._thread = threading.Thread(target=self.loop.run_forever, name="sandbox", daemon=True)

    def start(self) -> None:
        """Run."""
        self._thread.start()

    def stop(self) -> None:
        """End both threads; what still ran in the loop is dropped."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()
        self.namespaces.shutdown()

    def call(self, work: Coroutine[Any, Any, T], *, timeout: float = 120) -> T:
        """Run a coroutine in the loop; its result.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)


def wait_for(condition: Callable[[], T | None], what: str, *, timeout: float = 30) -> T:
    """Wait until a condition gives something true; what that is.

    Raises:
        TimeoutError: it does not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.01)
    return result
