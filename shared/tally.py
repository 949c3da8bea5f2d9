"""How many pieces of work ended how, by the hour: what a picture over time needs without reading every record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

    from shared.keys import Keys
    from shared.models import Outcome

HOUR = 3600


class Tally:
    """Counts outcomes, and tells how many there were."""

    def __init__(self, redis: Redis, keys: Keys, keep_seconds: int) -> None:
        """`keep_seconds` is how long an hour is kept after the last outcome in it."""
        self._redis = redis
        self._keys = keys
        self._keep_seconds = keep_seconds

    def add(self, pipe: Pipeline, outcome: Outcome) -> None:
        """Count an outcome that is recorded now, in the caller's transaction."""
        key = self._keys.outcomes(int(time.time() // HOUR))
        pipe.hincrby(key, outcome.value, 1)
        pipe.expire(key, self._keep_seconds)

    def hours(self, first: int, last: int) -> list[dict[str, int]]:
        """Of each hour from the first to the last, both included, how many ended in each outcome.

        Args:
            first: hours since the epoch.
            last: hours since the epoch.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for hour in range(first, last + 1):
                pipe.hgetall(self._keys.outcomes(hour))
            stored: list[dict[bytes, bytes]] = pipe.execute()
        return [{outcome.decode(): int(count) for outcome, count in counted.items()} for counted in stored]
