"""EIPs at a steady rate: so many are created each second, and each is deleted a few seconds later.

What a run differs in from one minute to the next is then the product's doing, and not that of who uses it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from sandbox import objects
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import EIPS
from tests.users import Users, is_ready, until

LIFE_SECONDS = (2.0, 8.0)
EARLY = 0.1
"""How many EIPs are deleted before they are ready, as far as that succeeds."""
EARLY_SECONDS = (0.0, 0.3)
PATIENCE = 60.0
"""Seconds after which an EIP that does not become ready is deleted, as a user would."""
LONGEST = 300.0
"""Seconds an EIP may take to go."""


class SteadyLives(Users):
    """Creates and deletes EIPs in a thread of its own, between `start` and `stop`."""

    def __init__(self, server: str, gateways: list[str], subnet: str, *, rate: float, seed: int) -> None:
        """`rate` is how many are created each second."""
        super().__init__()
        self.created = 0
        self.deleted = 0
        self.never_ready = 0
        """How many waited in vain for the sandbox's controller."""
        self._server = server
        self._gateways = gateways
        self._subnet = subnet
        self._rate = rate
        self._chance = random.Random(seed)
        self._objects: dict[str, dict[str, Any]] = {}

    @property
    def alive(self) -> int:
        """How many were created and are not gone."""
        return self.created - self.deleted

    async def live(self) -> None:
        """Create EIPs at the rate."""
        async with KubernetesApi(self._server) as api:
            follower = asyncio.create_task(self._follow(api))
            async with asyncio.TaskGroup() as lives:
                began = time.monotonic()
                while not self._told_to_end.is_set():
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
            if not await until(lambda: self._is_ready(name), PATIENCE):
                self.never_ready += 1
            await asyncio.sleep(chance.uniform(*LIFE_SECONDS))
        await api.delete(EIPS, name)
        if not await until(lambda: name not in self._objects, LONGEST):
            raise TimeoutError(f"EIP {name} is not gone {LONGEST:g} s after its deletion")
        self.deleted += 1

    def _is_ready(self, name: str) -> bool:
        return is_ready(self._objects.get(name))
