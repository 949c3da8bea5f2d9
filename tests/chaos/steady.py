"""EIPs at a steady rate: so many are created each second, and each is deleted a few seconds later.

What a run differs in from one minute to the next is then the product's doing, and not that of who uses it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from sandbox import objects
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import EIPS

LIFE_SECONDS = (2.0, 8.0)
EARLY = 0.1
"""How many EIPs are deleted before they are ready, as far as that succeeds."""
EARLY_SECONDS = (0.0, 0.3)
PATIENCE = 60.0
"""Seconds after which an EIP that does not become ready is deleted, as a user would."""
LONGEST = 300.0
"""Seconds an EIP may take to go."""


class SteadyLives:
    """Creates and deletes EIPs in a thread of its own, between `start` and `stop`."""

    def __init__(self, server: str, gateways: list[str], subnet: str, *, rate: float, seed: int) -> None:
        """`rate` is how many are created each second."""
        self.created = 0
        self.deleted = 0
        self.never_ready = 0
        """How many waited in vain for the sandbox's controller."""
        self.failure: BaseException | None = None
        self._server = server
        self._gateways = gateways
        self._subnet = subnet
        self._rate = rate
        self._chance = random.Random(seed)
        self._objects: dict[str, dict[str, Any]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def check(self) -> None:
        """See that nothing went wrong.

        Raises:
            BaseException: what did.
        """
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Create no more, and wait until all are gone.

        Raises:
            BaseException: what went wrong meanwhile.
        """
        self._over.set()
        self._thread.join()
        self.check()

    @property
    def alive(self) -> int:
        """How many were created and are not gone."""
        return self.created - self.deleted

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self.failure = error

    async def _all(self) -> None:
        async with KubernetesApi(self._server) as api:
            follower = asyncio.create_task(self._follow(api))
            async with asyncio.TaskGroup() as lives:
                began = time.monotonic()
                while not self._over.is_set():
                    self.created += 1
                    lives.create_task(self._live(api, f"eip-{self.created}"))
                    await asyncio.sleep(max(0.0, began + self.created / self._rate - time.monotonic()))
            follower.cancel()

    async def _follow(self, api: KubernetesApi) -> None:
        async for event in api.follow(EIPS):
            name = event.object["metadata"]["name"]
            if event.type == "DELETED":
                self._objects.pop(name, None)
            else:
                self._objects[name] = event.object

    async def _live(self, api: KubernetesApi, name: str) -> None:
        chance = random.Random(self._chance.random())
        gateway = chance.choice(self._gateways)
        created = await api.create(EIPS, objects.eip(name, gateway, external_subnet=self._subnet))
        # The watch may be behind, and we are not to take that for its being gone.
        self._objects.setdefault(name, created)
        if chance.random() < EARLY:
            await asyncio.sleep(chance.uniform(*EARLY_SECONDS))
        else:
            if not await self._until(lambda: self._is_ready(name), PATIENCE):
                self.never_ready += 1
            await asyncio.sleep(chance.uniform(*LIFE_SECONDS))
        await api.delete(EIPS, name)
        if not await self._until(lambda: name not in self._objects, LONGEST):
            raise TimeoutError(f"EIP {name} is not gone {LONGEST:g} s after its deletion")
        self.deleted += 1

    @staticmethod
    async def _until(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def _is_ready(self, name: str) -> bool:
        item = self._objects.get(name)
        return bool(item and (item.get("status") or {}).get("ready") and item["metadata"].get("finalizers"))
