"""The queue between a watch and the one worker behind it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Key = TypeVar("Key")


class WorkQueue(Generic[Key]):
    """Keys of what has to be looked at, first come first served, each waiting at most once."""

    def __init__(self) -> None:
        self._waiting: deque[Key] = deque()
        self._filled = asyncio.Event()
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> bool:
        """Queue a key; False when it waits already."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._waiting:
            return False
        self._waiting.append(key)
        self._filled.set()
        return True

    def add_later(self, key: Key, seconds: float) -> None:
        """Queue a key after a while, unless it is queued before."""
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def take(self) -> Key:
        """The next key; waits for one."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Forget what waits for its time."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
