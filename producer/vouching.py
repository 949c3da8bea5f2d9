"""When a producer vouches for the inventory, and when it says that it follows the API (`shared.vouching`).

A commit that succeeds proves that Redis has all that this producer committed before. What is left to prove is that the
producer has seen everything that happened until some moment: then it has come to where the API's events ended, as they
were asked for then. It vouches for the inventory once that is so of a moment at which it had met this server's reign;
and it says that it follows for as long as there is such a moment that is not long ago, and past the beginning of what
it watches. A watch that broke off may have lost its connection long before.
"""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

from shared.log import get_logger
from shared.vouching import WORD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from producer.freshness import Freshness
    from shared.brake import Brake
    from shared.inventory import Inventory

log = get_logger(__name__)

PROOF_SECONDS = 20.0
"""For how long a producer says that it follows after a moment until which it has proven to have seen everything."""
PROVE_AGAIN_SECONDS = 10.0
"""How long after such a moment another is asked for, where the watch beside has not told of one by itself."""
ANSWER_SECONDS = 2.0
"""How soon a watch is answered that goes on from where one has ended, or events are missed meanwhile."""
BEHIND_SECONDS = 1.0
"""For how long a watch may lack an event that the API has."""


class Vouching:
    """Decides for one producer."""

    def __init__(self, inventory: Inventory, freshness: Freshness, brake: Brake) -> None:
        self._inventory = inventory
        self._freshness = freshness
        self._brake = brake
        self._met: tuple[str, float] | None = None
        """The reign that nobody has vouched in, and since when we know it, on the monotonic clock."""
        self._opened = Event()
        """Whether the API has answered the watch."""
        self._begun = 0.0
        """When it was asked for that, on the monotonic clock."""
        self._since: float | None = None
        """When it had, first after a watch that broke off; on the monotonic clock."""

    def begin(self) -> Callable[[], None]:
        """A watch begins; call what is returned when the API has answered it."""
        self._opened, self._begun = Event(), time.monotonic()
        return self._opened.set

    def break_off(self) -> None:
        """It broke off, so what happens is not seen now; the next commit says so."""
        self._since = None
        self._inventory.word_until = 0.0

    def is_due(self, position: int) -> bool:
        """Whether the next commit has something to say and has to be made for that.

        Args:
            position: the resourceVersion up to which everything is committed.
        """
        inventory = self._inventory
        if inventory.vouched:
            self._met = None
        elif self._met is None or self._met[0] != inventory.reign:
            self._met = (inventory.reign, time.monotonic())
        left = min(self.word_until(position) - time.monotonic(), WORD_SECONDS)
        # While lists are not believed nobody knows whether all EIPs were seen.
        if self._met is not None and self._seen_until(position) >= self._met[1] and not self._brake.held():
            inventory.vouches_for = inventory.reign
            log.info("inventory vouched for", resource_version=position, redis=inventory.reign)
            return True
        said = inventory.word_left
        return said > 0 if left <= 0 else said < WORD_SECONDS / 2 and left > said + 1

    def word_until(self, position: int) -> float:
        """Until when this producer can say, in a commit up to a resourceVersion, that it follows; monotonic clock."""
        now, opened = time.monotonic(), self._opened.is_set()
        late = not opened and (self._since is None or now - self._begun > ANSWER_SECONDS)
        if late or self._freshness.behind > BEHIND_SECONDS:
            return 0.0
        self._since = self._since or now
        seen_until = self._seen_until(position)
        if seen_until < max(now - PROVE_AGAIN_SECONDS, self._met[1] if self._met else 0.0):
            self._freshness.ask_for_end()
        return seen_until + PROOF_SECONDS

    def _seen_until(self, position: int) -> float:
        """The last moment until which nothing happened that is not in a commit up to there; on the monotonic clock."""
        seen_until = None if self._since is None else self._freshness.seen_until(position, self._since)
        return float("-inf") if seen_until is None else seen_until
