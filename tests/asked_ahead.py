"""Rounds that are asked ahead, as those of a worker are that has waited for their job; tests' workers run bursts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shared.errors import TransientError
from shared.scripts import Script
from workers.ahead import ASK_AHEAD, Ahead, asking
from workers.intents import Intents
from workers.round import Known, Round

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pytest

    from shared.kube.api import Object
    from shared.models import Work
    from shared.queue import WorkQueue

_ASK = Script(ASK_AHEAD + "return ask_ahead(ARGV[1], ARGV[2], ARGV[3], {}, unpack(ARGV, 4))")


class NotedAhead(Ahead):
    """Tells whether something was decided on it."""

    was_read = False

    def answer(self) -> list[Object] | None:
        items = super().answer()
        self.was_read = items is not None
        return items


def ask_ahead(work_queue: WorkQueue, work: Work) -> NotedAhead | None:
    """Ask Redis ahead for a piece of work, as it is asked when a job is opened."""
    redis, keys, asked_at = work_queue.redis, work_queue.keys, time.monotonic()
    intent = Intents.unplaced(work.id)
    arguments = asking(keys, Intents(redis, keys, 3600), intent)
    answer = _ASK.run(redis, [], [work.id, work.gateway, work.model_dump_json(), *arguments])
    return NotedAhead(redis, keys, work.gateway, intent, asked_at, answer) if answer else None


def let_rounds_be_asked_ahead(monkeypatch: pytest.MonkeyPatch) -> list[NotedAhead]:
    """Let the first look of each round about one piece of work be asked ahead where that can be; what was asked then."""
    work_off, asked = Round.work_off, []

    def ask_first(
        self: Round, gateway: str, works: Sequence[Work], fence: Any, pods_done: Collection[str], known: Known
    ) -> Any:
        ahead = ask_ahead(self._work_queue, works[0]) if len(works) == 1 else None
        if ahead is None:
            return work_off(self, gateway, works, fence, pods_done, known)
        asked.append(ahead)
        try:
            # As of one that has been at the gateway before.
            self._cluster.gateway_names()
            with suppress(TransientError):
                ahead.request(self._cluster)
            return work_off(self, gateway, works, fence, pods_done, Known(ahead))
        finally:
            ahead.drop()

    monkeypatch.setattr(Round, "work_off", ask_first)
    # A busy machine takes its time for a look. Nothing comes to a gateway meanwhile but what tests put there.
    monkeypatch.setattr("workers.ahead.AHEAD_SECONDS", 10.0)
    return asked
