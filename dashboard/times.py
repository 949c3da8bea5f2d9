"""How moments and durations are written for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def clock(at: float) -> str:
    """A moment, seconds since the epoch, in UTC."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, TypeError, ValueError):
        return "at an unknown time"


def duration(seconds: float) -> str:
    """In the largest unit that fits."""
    for size, unit in _UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "less than a second"


def ago(at: float) -> str:
    """How long a moment, seconds since the epoch, is past."""
    return f"{duration(max(time.time() - at, 0))} ago"
