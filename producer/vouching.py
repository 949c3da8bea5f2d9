"""When a producer vouches for the inventory, and when it says that it follows the API (`shared.vouching`).

A commit that succeeds proves that Redis has all that this producer committed before. What is left to prove is that the
producer has seen everything that happened until it met this server's reign, or until its watch began: then it has come
to where the API's events end, as they were asked for after that.
"""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

from shared.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from producer.freshness import Freshness
    from shared.brake import Brake
    from shared.inventory import Inventory

log = get_logger(__name__)


class Vouching:
    """Decides for one producer."""

    def __init__(self, inventory: Inventory, freshness: Freshness, brake: Brake) -> None:
        self._inventory = inventory
        self._freshness = freshness
        self._brake = brake
        self._met: str | None = None
        """The reign that nobody has vouched in."""
        self._opened = Event()
        """Whether the API has answered the watch."""
        self._caught_up = False
        """Whether all was seen that happened before that, and the watch has not broken off since."""
        self._since: float | None = None
        """What happened until then has to be seen, on the monotonic clock; None while there is no watch."""

    def begin(self) -> Callable[[], None]:
        """A watch begins; call what is returned when the API has answered it."""
        self._opened = Event()
        if not self._caught_up:
            self._since = None
        return self._opened.set

    def break_off(self) -> None:
        """It broke off, so what happens is not seen now; the next commit says so."""
        self._caught_up = self._inventory.follows = False

    def is_due(self, position: int) -> bool:
        """Whether the next commit has something to say and has to be made for that.

        Args:
            position: the resourceVersion up to which everything is committed.
        """
        inventory = self._inventory
        if inventory.vouched:
            self._met = None
        elif self._met != inventory.reign:
            self._met, self._since = inventory.reign, None
        if not self._opened.is_set():
            return self._is_news(follows=False)
        if not (inventory.vouched and self._caught_up):
            self._since = self._since or time.monotonic()
            end = self._freshness.end_of_events(since=self._since)
            if end is not None and position >= end:
                self._caught_up = True
                # While lists are not believed nobody knows whether all EIPs were seen.
                if not inventory.vouched and not self._brake.held():
                    inventory.vouches_for = inventory.reign
                    log.info("inventory vouched for", resource_version=position, redis=inventory.reign)
        return self._is_news(follows=self._caught_up) or inventory.vouches_for is not None

    def _is_news(self, *, follows: bool) -> bool:
        before, self._inventory.follows = self._inventory.follows, follows
        return follows != before
