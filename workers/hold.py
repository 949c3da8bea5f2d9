"""Waiting for EIPs that have no address yet.

Kube-OVN's order of creation (kube-ovn-facts, §2) means that any unowned address of a gateway may belong to an EIP of
it whose address is not in the object yet. Releases of that gateway wait for such an EIP, but only so long: an EIP that
stays without address must not keep every leak alive. Past the limit the intents take over (`workers.intents`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from redis import Redis
from redis.client import Pipeline

from shared.keys import Keys
from shared.models import EIP


class Hold:
    """Decides whether a gateway's releases wait."""

    def __init__(self, redis: Redis, keys: Keys, limit: float) -> None:
        self._redis = redis
        self._keys = keys
        self._limit = limit

    def asks_to_wait(self, gateway: str, waiting: Iterable[EIP]) -> str | None:
        """For whom the gateway's releases wait now, in words; None when they go on.

        An EIP is waited for while it is younger than the limit, and a gateway's releases wait no longer than the limit
        in one go, however many EIPs come after one another, until `over`.
        """
        key, now = self._keys.hold(gateway), time.time()
        young = [eip.name for eip in waiting if now - eip.created < self._limit]
        if not young:
            return None
        self._redis.set(key, repr(now), nx=True, ex=int(self._limit * 10) + 1)
        since = float(self._redis.get(key) or now)
        if now - since >= self._limit:
            self._redis.delete(key)
            return None
        return f"EIP {', '.join(young)} of this gateway has no address yet"

    def over(self, pipe: Pipeline, gateway: str) -> None:
        """The gateway's releases went on: the next EIP that they wait for is a new go. In the caller's transaction."""
        pipe.delete(self._keys.hold(gateway))
