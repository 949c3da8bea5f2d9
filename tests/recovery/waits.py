"""How long the jobs of killed workers waited, and whether that was within a limit each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any


@dataclass
class Waits:
    """What a kind of kill cost: seconds each, None where the job was lost."""

    seconds: list[float | None] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    """Where the dead worker's job was, by Redis, how often."""

    def count(self, place: str) -> None:
        self.found[place] = self.found.get(place, 0) + 1


def judged(limit: float, waits: Waits) -> dict[str, Any]:
    """What a case came to; `kept` says whether it was within its limit each time."""
    known = [seconds for seconds in waits.seconds if seconds is not None]
    hundredths = quantiles(known, n=100, method="inclusive") if len(known) > 1 else (known or [0.0]) * 99
    return {
        "kept": bool(known) and len(known) == len(waits.seconds) and max(known) <= limit,
        "limit": limit,
        "count": len(waits.seconds),
        "lost": len(waits.seconds) - len(known),
        "median": round(hundredths[49], 3),
        "p95": round(hundredths[94], 3),
        "longest": max(known, default=None),
        "found": dict(sorted(waits.found.items())),
        "seconds": waits.seconds,
    }
