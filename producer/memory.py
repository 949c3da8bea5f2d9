"""What one producer remembers by itself, so that a Redis that came back older can be told again.

Redis is the truth about what was committed, and this the copy that outlives it: the EIPs there are as far as this
producer has seen, and the work that followed from what it saw, whichever producer was the first to publish it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from shared.difference import difference
from shared.log import get_logger, named
from shared.metrics import COMMIT_FAILURES, COMMITS
from shared.queue import count_published, describe

if TYPE_CHECKING:
    from shared.difference import Change
    from shared.inventory import Inventory
    from shared.models import EIP, Work

log = get_logger(__name__)

COMMIT_SIZE = 500
"""Changes per transaction: Redis serves nobody else meanwhile."""
REMEMBERED_WORKS = 10_000
"""Work published last, kept to be published again when Redis forgot it."""


class Memory:
    """All commits of a producer go through here, and are remembered."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._works: OrderedDict[str, Work] = OrderedDict()
        self.eips: dict[str, EIP] = {}
        """By UID, the EIPs there are."""

    def load(self) -> None:
        """Take over what Redis knows."""
        self.eips = self._inventory.all()

    def forget_eips(self) -> None:
        """Begin anew, because the API's own history did."""
        self.eips.clear()

    def known(self) -> dict[str, EIP]:
        """By UID, every EIP that Redis or we know of."""
        return {**self.eips, **self._inventory.all()}

    def commit(
        self, changes: list[Change], resource_version: int | None, *, gap: bool = False, doubtful: bool = False
    ) -> None:
        """Commit, as `Inventory.commit` does, in several transactions where it is much, and remember what followed.

        Raises:
            RedisError: perhaps not all was committed; it may be committed again.
            RedisWentBackError: what was left then was not committed.
            WrongClusterError: what was left then was not committed.
        """
        whole = len(changes) - len(changes) % COMMIT_SIZE
        for start in range(0, whole, COMMIT_SIZE):
            self._commit(changes[start : start + COMMIT_SIZE], None)
        self._commit(changes[whole:], resource_version, gap=gap, doubtful=doubtful)

    def _commit(
        self, changes: list[Change], resource_version: int | None, *, gap: bool = False, doubtful: bool = False
    ) -> None:
        try:
            result = self._inventory.commit(changes, resource_version, gap=gap, doubtful=doubtful)
        except RedisError:
            COMMIT_FAILURES.inc()
            raise
        COMMITS.inc()
        count_published(result.works)
        for work in result.works:
            log.info("published", what=describe(work), **named(work))
        ours = difference(self.eips, set(), changes, cluster=self._inventory.cluster, now=time.time())
        for uid in ours.forgotten:
            self.eips.pop(uid, None)
        self.eips.update(ours.known)
        self.remember([*ours.works, *result.works])

    def remember(self, works: list[Work]) -> None:
        """Keep published work, the last ones of it."""
        for work in works:
            self._works[work.id] = work
        while len(self._works) > REMEMBERED_WORKS:
            self._works.popitem(last=False)

    def tell_again(self, since: float) -> None:
        """Publish again what Redis forgot of the work seen since then (seconds since the epoch)."""
        recent = [work for work in self._works.values() if work.seen_at > since]
        again = self._inventory.publish_again(recent, self.eips)
        count_published(again)
        for work in again:
            log.warning("published again", **named(work))
