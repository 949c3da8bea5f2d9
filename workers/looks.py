"""When a look at a gateway is the first one that counts, and when it is the last one.

An EIP that was never ready may get its address up to seconds after it went, so finding nothing proves nothing yet; and
Kube-OVN may create it anew once its `eip-add` has returned, so that finding the address proves nothing either
(kube-ovn-facts, §1). Its release is acted on at the times in the settings, counted from its deletion.
"""

from __future__ import annotations

from shared.models import Work
from shared.settings import Settings


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
