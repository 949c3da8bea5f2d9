"""When a producer vouches for the inventory (`shared.vouching`): it has caught up with the API, and Redis with it.

A commit that succeeds proves that Redis has all that this producer committed before. What is left to prove is that the
producer has seen everything that happened until it met this server's reign: then it has come to where the API's events
end, as they were asked for after that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shared.log import get_logger

if TYPE_CHECKING:
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
        self._met: tuple[str, float] | None = None
        """The reign that nobody has vouched in, and since when we know it, on the monotonic clock."""

    def is_due(self, position: int) -> bool:
        """Whether the next commit vouches for the inventory and has to be made for that.

        Args:
            position: the resourceVersion up to which everything is committed.
        """
        inventory = self._inventory
        if inventory.vouched:
            self._met = None
            return False
        if self._met is None or self._met[0] != inventory.reign:
            self._met = (inventory.reign, time.monotonic())
        end = self._freshness.end_of_events(since=self._met[1])
        # While lists are not believed nobody knows whether all EIPs were seen.
        if end is None or position < end or self._brake.held():
            return False
        inventory.vouches_for = inventory.reign
        log.info("inventory vouched for", resource_version=position, redis=inventory.reign)
        return True
