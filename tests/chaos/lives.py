"""EIPs that come and go, and come again with the same addresses: what users do all day, much faster.

Each *slot* is one user: it creates an EIP, waits for it, lives with it for a while, deletes it, and begins again, on
the same gateway or another, with the address it had before or whichever is free: that is the one released last.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import partial

import aiohttp

from sandbox import objects
from sandbox.kubernetes_api import ApiError, KubernetesApi
from sandbox.objects import EIPS
from tests.chaos.cluster import SUBNET
from tests.chaos.witness import ApiWitness
from tests.users import Users, is_ready, until

FIXED = 0.4
"""How many EIPs ask for the address that their user had before."""
SAME_GATEWAY = 0.6
EARLY = 0.1
"""How many EIPs are deleted before they are ready."""
AT_ONCE = 0.3
"""How many are created again without a pause."""
PAUSES = ((0, 0.6), (0, 3))
"""Seconds that the others wait: while the release is worked on, or mostly longer."""
LIFE_SECONDS = (0.3, 6.0)
PATIENCE = 30.0
"""Seconds after which an EIP that does not become ready is deleted, as a user would."""
GONE_SECONDS = 180.0
"""How long an EIP may take to go: the controller may have to come back first."""


@dataclass
class _Slot:
    gateway: str
    address: str | None = None
    """The last one it had."""


class Lives(Users):
    """Runs so many slots in a thread of its own until so many EIPs were created, and leaves half of the last ones."""

    def __init__(self, server: str, witness: ApiWitness, gateways: list[str], *, eips: int, slots: int, seed: int):
        super().__init__()
        self.created = 0
        self._server = server
        self._witness = witness
        self._gateways = gateways
        self._eips = eips
        self._slots = slots
        self._chance = random.Random(seed)

    @property
    def over(self) -> bool:
        """Whether all of them have lived.

        Raises:
            BaseException: what ended a slot.
        """
        self.check()
        return not self._thread.is_alive()

    async def live(self) -> None:
        """Live in all slots."""
        async with KubernetesApi(self._server) as api:
            slots = [_Slot(self._chance.choice(self._gateways)) for _ in range(self._slots)]
            await asyncio.gather(*(self._live(api, slot) for slot in slots))

    async def _live(self, api: KubernetesApi, slot: _Slot) -> None:
        chance = random.Random(self._chance.random())
        await asyncio.sleep(chance.uniform(0, LIFE_SECONDS[1]))
        while self.created < self._eips and not self._told_to_end.is_set():
            self.created += 1
            if chance.random() >= SAME_GATEWAY:
                slot.gateway = chance.choice(self._gateways)
            name = f"eip-{self.created}"
            address = slot.address if chance.random() < FIXED and not self._is_in_use(slot.address) else None
            await api.create(EIPS, objects.eip(name, slot.gateway, v4ip=address, external_subnet=SUBNET))
            if chance.random() < EARLY:
                await asyncio.sleep(chance.uniform(0, 1))
            else:
                await until(partial(self._is_ready, name), PATIENCE)
                await asyncio.sleep(chance.uniform(*LIFE_SECONDS))
            if (self.created >= self._eips or self._told_to_end.is_set()) and chance.random() < 0.5:
                await until(partial(self._is_ready, name), PATIENCE)
                return
            slot.address = self._address_of(name)
            await self._delete(api, name)
            if chance.random() >= AT_ONCE:
                await asyncio.sleep(chance.uniform(*chance.choice(PAUSES)))

    async def _delete(self, api: KubernetesApi, name: str) -> None:
        """Delete an EIP, and wait until it is gone: the controller may have to come back first."""
        for attempt in range(20):
            try:
                await api.delete(EIPS, name)
                break
            except (ApiError, aiohttp.ClientError):
                if attempt == 19:
                    raise
                await asyncio.sleep(0.5)
        if not await until(lambda: name not in self._witness.objects, GONE_SECONDS):
            raise TimeoutError(f"EIP {name} is not gone {GONE_SECONDS:g} s after its deletion")

    def _address_of(self, name: str) -> str | None:
        item = self._witness.objects.get(name)
        return (item["spec"].get("v4ip") or None) if item else None

    def _is_in_use(self, address: str | None) -> bool:
        return any(item["spec"].get("v4ip") == address for item in list(self._witness.objects.values()))

    def _is_ready(self, name: str) -> bool:
        return is_ready(self._witness.objects.get(name))
