"""What workers mean to take away, recorded before they look for owners.

Kube-OVN puts a new EIP's address on the gateway before it writes the address into the object (kube-ovn-facts, §2), so
a worker can look for owners, rightly see none, and take an address away that is already in use. Then the producer
sees the owner appear, finds the intent, and publishes a confirmation, which puts the address back.

Nothing falls in between: the worker writes the intent and then reads owners, the producer writes owners and reads
intents in one transaction. Whoever is second sees the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline

from shared.keys import Keys
from shared.models import IPAddress, Release
from workers.gateways.interface import Address


@dataclass(frozen=True, slots=True)
class Intent:
    """Where an address was when a worker meant to take it away."""

    interface: str
    """Empty where the gateway was not looked at yet (`workers.ahead`)."""
    prefix_length: int
    work: str
    """Id of the work it was meant to be taken away for."""
    at: float
    """Seconds since the epoch."""

    def to_json(self) -> str:
        """For Redis."""
        told = {"interface": self.interface, "prefix_length": self.prefix_length, "work": self.work, "at": self.at}
        return json.dumps(told)

    @classmethod
    def read(cls, stored: bytes) -> Intent | None:
        """The inverse; None for what is none."""
        try:
            return cls(**json.loads(stored))
        except (ValueError, TypeError):
            return None


class Intents:
    """Records and finds intents."""

    def __init__(self, redis: Redis, keys: Keys, lifetime: float) -> None:
        self._redis = redis
        self._keys = keys
        self.lifetime = int(lifetime)
        """How long an intent is remembered, seconds."""

    def record(self, pipe: Pipeline, gateway: str, found: dict[str, list[Address]]) -> None:
        """Say which addresses are about to be taken away.

        Args:
            pipe: the caller's transaction.
            gateway: the gateway's name.
            found: by work id, the addresses as the gateway has them.
        """
        for work_id, addresses in found.items():
            for address in addresses:
                intent = Intent(address.interface, address.prefix_length, work_id, time.time())
                pipe.set(self._keys.intent(gateway, str(address.ip)), intent.to_json(), ex=self.lifetime)

    @staticmethod
    def unplaced(work_id: str) -> str:
        """For Redis: an intent about addresses that were not looked for yet."""
        return Intent("", 0, work_id, time.time()).to_json()

    @staticmethod
    def ask_for(pipe: Pipeline, keys: Keys, release: Release) -> None:
        """Ask in the caller's pipeline what `left_by` reads; one answer."""
        pipe.mget([keys.intent(release.gateway, str(ip)) for ip in release.addresses])

    @staticmethod
    def left_by(release: Release, stored: Sequence[bytes | None]) -> list[Intent]:
        """The intents that were recorded for that release: an owner may be without its address.

        Args:
            release: which was asked about.
            stored: the answer.
        """
        # What cannot be read, whoever wrote it, may have been one.
        intents = [Intent.read(each) or Intent("", 0, release.id, 0.0) for each in stored if each is not None]
        return [intent for intent in intents if intent.work == release.id]

    def of(self, gateway: str, address: IPAddress) -> Intent | None:
        """The last intent about an address; None when it was never meant to go, or long ago."""
        stored: bytes | None = self._redis.get(self._keys.intent(gateway, str(address)))  # type: ignore[assignment]
        return Intent.read(stored) if stored else None
