"""How many pieces of work ended how, by the hour: what a picture over time needs without reading every record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

    from shared.keys import Keys

HOUR = 3600


class Tally:
    """Tells how many outcomes there were; they are counted as they are recorded (`shared.records`)."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    @property
    def key(self) -> str:
        """Where an outcome that is recorded now is counted, in the transaction that records it."""
        return self._keys.outcomes(int(time.time() // HOUR))

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
