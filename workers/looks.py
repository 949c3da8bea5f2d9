"""When a look at a gateway is the first one that counts, and when it is the last one.

An EIP that was never ready may get its address up to seconds after it went, so finding nothing proves nothing yet; and
Kube-OVN may create it anew once its `eip-add` has returned, so that finding the address proves nothing either
(kube-ovn-facts, §1). Its release is acted on at the times in the settings, counted from its deletion.
"""

from __future__ import annotations

import time
from typing import Any

from shared.models import Outcome, Work
from shared.records import Records
from shared.settings import Settings
from workers.answers import Answer, Result
from workers.failures import NotNowError


class Looks:
    """Turns what one look at a gateway found into an answer."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records = records
        self._settings = settings

    def early(self, work: Work) -> NotNowError | None:
        """Why the work may not change anything yet; None when it may."""
        wait = not_before(work, self._settings, time.time())
        if wait is None:
            return None
        return NotNowError("the EIP was never ready, Kube-OVN may be at it still", max(wait, 0.1))

    def concluded(self, work: Work, outcome: Outcome, *, earlier: bool | None = None, **details: Any) -> Answer:
        """The outcome, unless the work has to be looked at again.

        Args:
            work: what was looked at.
            outcome: what the look found.
            earlier: whether an earlier look has deleted something; None where its record has to be asked.
            details: for people.
        """
        wait = next_look(work, self._settings, time.time())
        if wait is not None:
            why = f"the EIP was never ready, its address may still come; now: {outcome.value}"
            return NotNowError(why, max(wait, 0.1))
        if outcome is Outcome.ALREADY_ABSENT and (earlier if earlier is not None else self._deleted_before(work)):
            return Result(Outcome.RECLAIMED, {"why": "deleted at an earlier look, still gone", **details})
        return Result(outcome, details)

    def _deleted_before(self, work: Work) -> bool:
        return bool(self._records.field(work.id, "deleted"))


def not_before(work: Work, settings: Settings, now: float) -> float | None:
    """Seconds until the work may change anything; None when it may.

    Args:
        work: what is looked at.
        settings: the times of looks.
        now: seconds since the epoch.
    """
    first = next(iter(_times(work, settings)), None)
    return None if first is None or now >= work.seen_at + first else work.seen_at + first - now


def next_look(work: Work, settings: Settings, now: float) -> float | None:
    """Seconds until the work has to be looked at again; None when this look was the last.

    Args:
        work: what is looked at.
        settings: the times of looks.
        now: seconds since the epoch.
    """
    return next((work.seen_at + at - now for at in _times(work, settings) if work.seen_at + at > now), None)


def _times(work: Work, settings: Settings) -> tuple[float, ...]:
    match work.kind:
        case "release" if not work.was_ready:
            return settings.look_again_after
        case "audit" if work.reason in ("deleted", "missing", "gap"):
            return settings.look_again_after
        case _:
            return ()
