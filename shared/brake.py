"""The brake: when one list says that far too many EIPs are gone, nobody acts on it (design, invariant 7).

The state is in Redis, so that every producer, the status and the operator see the same. An operator confirms what the
brake holds back at that moment, and only that: EIPs that go missing later engage it anew.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

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

    def confirmed(self, held: Collection[str]) -> bool:
        """Whether an operator confirmed all of this that the brake held back."""
        return bool(held) and all(self._redis.smismember(self._keys.brake_confirmed, list(held)))

    def engage(self, reason: str, uids: Collection[str], known: int) -> BrakeState:
        """Hold back the release of these EIPs.

        Args:
            reason: for people.
            uids: what an operator may confirm; at least one.
            known: EIPs known before the list.
        """
        before = self.state()
        state = BrakeState(reason, before.since if before else time.time(), known, len(uids))
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.brake, json.dumps(asdict(state)))
            pipe.delete(self._keys.brake_held)
            pipe.sadd(self._keys.brake_held, *uids)
            pipe.execute()
        return state

    def disengage(self) -> bool:
        """Forget the brake, because a list was in order again or was confirmed; whether it had been engaged."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._keys.brake)
            pipe.delete(self._keys.brake_held, self._keys.brake_confirmed)
            return bool(pipe.execute()[0])

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
        stored: bytes | None = self._redis.get(self._keys.brake)  # type: ignore[assignment]
        return BrakeState(**json.loads(stored)) if stored else None
