"""The brake: when one list says that far too many EIPs are gone, nobody acts on it (design, invariant 7).

What it holds back is in Redis, so that every producer, the status and the operator see the same. An operator confirms
what is held back at that moment, and only that: EIPs that go missing later are held back anew.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import WatchError

if TYPE_CHECKING:
    from collections.abc import Collection

    from shared.queue import WorkQueue
    from shared.settings import Settings

CONFIRMATION_SECONDS = 3600
"""A confirmation that no producer made use of by then was about a situation that has passed."""


@dataclass(frozen=True, slots=True)
class BrakeState:
    """Why the brake is engaged."""

    reason: str
    since: float
    """Seconds since the epoch."""
    known: int
    """EIPs known before the list."""
    held: int
    """EIPs whose release is held back."""


class Brake:
    """Decides whether one list may release what it would, and remembers that it may not."""

    def __init__(self, work_queue: WorkQueue, settings: Settings) -> None:
        self._redis = work_queue.redis
        self._keys = work_queue.keys
        self._minimum = settings.brake_minimum
        self._percent = settings.brake_percent

    def too_many(self, released: int, known: int) -> bool:
        """Whether one list may not release so many EIPs, out of so many that are known."""
        return released > max(self._minimum, known * self._percent / 100)

    def confirmed(self, uids: Collection[str]) -> set[str]:
        """Those of these that an operator confirmed while the brake held them back."""
        listed = list(uids)
        answers = self._redis.smismember(self._keys.brake_confirmed, listed) if listed else []
        return {uid for uid, answer in zip(listed, answers, strict=True) if answer}

    def held(self) -> set[str]:
        """What the brake holds back, by UID."""
        uids: set[bytes] = self._redis.smembers(self._keys.brake_held)  # type: ignore[assignment]
        return {uid.decode() for uid in uids}

    def engage(self, reason: str, uids: Collection[str], known: int) -> bool:
        """Hold back the release of these EIPs too; whether nothing was held back before.

        Args:
            reason: for people.
            uids: what an operator may confirm; at least one.
            known: EIPs known before the list.
        """
        before = self.state()
        stored = {"reason": reason, "since": before.since if before else time.time(), "known": known}
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.brake, json.dumps(stored))
            pipe.sadd(self._keys.brake_held, *uids)
            pipe.execute()
        return before is None

    def settle(self, uids: Collection[str]) -> bool:
        """Hold these back no longer: they are there after all, or released; whether that disengages the brake."""
        if not uids:
            return False
        while True:
            with self._redis.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(self._keys.brake_held)  # type: ignore[no-untyped-call]
                    held: set[bytes] = pipe.smembers(self._keys.brake_held)  # type: ignore[assignment]
                    last = bool(held) and held <= {uid.encode() for uid in uids}
                    pipe.multi()
                    pipe.srem(self._keys.brake_held, *uids)
                    pipe.srem(self._keys.brake_confirmed, *uids)
                    if last:
                        pipe.delete(self._keys.brake)
                    pipe.execute()
                except WatchError:
                    continue
            return last

    def confirm(self) -> BrakeState | None:
        """An operator's word that what is held back now may be released; None when nothing is."""
        state = self.state()
        if state is not None:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.sunionstore(self._keys.brake_confirmed, [self._keys.brake_held])
                pipe.expire(self._keys.brake_confirmed, CONFIRMATION_SECONDS)
                pipe.execute()
        return state

    def state(self) -> BrakeState | None:
        """Why the brake is engaged; None when it is not."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._keys.brake)
            pipe.scard(self._keys.brake_held)
            stored, held = pipe.execute()
        return BrakeState(**json.loads(stored), held=held) if stored else None
