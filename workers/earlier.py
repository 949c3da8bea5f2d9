"""What earlier tries of releases left: a worker may have died with one of them after it deleted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

from workers.intents import Intents

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from redis.client import Pipeline

    from shared.models import Release
    from shared.queue import WorkQueue


@dataclass(frozen=True, slots=True)
class Earlier:
    """Ids of releases, as earlier tries left them."""

    asked: frozenset[str] = frozenset()
    """Of which it was asked for; nothing is known of others."""
    meant: frozenset[str] = frozenset()
    """Those that may have deleted something: an owner may be without its address."""
    begun: frozenset[str] = frozenset()
    """Those of them that had found an address."""
    deleted: frozenset[str] = frozenset()
    """Those that told that they deleted one."""


NOTHING = Earlier()


class EarlierTries:
    """Asks for what earlier tries left."""

    def __init__(self, work_queue: WorkQueue) -> None:
        self._work_queue = work_queue

    def ask_for(self, pipe: Pipeline, releases: Collection[Release]) -> None:
        """Ask in the caller's pipeline, which gets two answers for each of them."""
        for release in releases:
            Intents.ask_for(pipe, self._work_queue.keys, release)
            self._work_queue.records.ask_for(pipe, release.id, "deleted")

    def ask(self, releases: Collection[Release]) -> Earlier:
        """Ask now."""
        if not releases:
            return NOTHING
        with self._work_queue.redis.pipeline(transaction=False) as pipe:
            self.ask_for(pipe, releases)
            return self.answered(releases, pipe.execute())

    @staticmethod
    def answered(releases: Collection[Release], answers: Sequence[Any]) -> Earlier:
        """What Redis answered."""
        left = [Intents.left_by(release, stored) for release, stored in zip(releases, answers[::2], strict=True)]
        ids = [release.id for release in releases]
        return Earlier(
            asked=frozenset(ids),
            meant=frozenset(compress(ids, left)),
            begun=frozenset(compress(ids, (any(intent.interface for intent in each) for each in left))),
            deleted=frozenset(compress(ids, answers[1::2])),
        )
