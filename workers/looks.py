"""When a look at a gateway is the last one.

An EIP that was never ready may get its address up to seconds after it went, so finding nothing proves nothing yet
(kube-ovn-facts, §1): its release is looked at again after the times in the settings, counted from its deletion.
"""

from __future__ import annotations

from shared.models import Work
from shared.settings import Settings


def next_look(work: Work, settings: Settings, now: float) -> float | None:
    """Seconds until the work has to be looked at again; None when this look was the last.

    Args:
        work: what is looked at.
        settings: the times of further looks.
        now: seconds since the epoch.
    """
    match work.kind:
        case "release" if not work.was_ready:
            due = settings.look_again_after
        case "audit" if work.reason != "requested":
            due = settings.look_again_after
        case _:
            due = ()
    return next((work.seen_at + after - now for after in due if work.seen_at + after > now), None)
