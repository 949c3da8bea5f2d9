"""Outcomes over time, as a picture that is drawn here: bars of an hour or more, stacked by outcome."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, render_template, request

from dashboard.store import store
from dashboard.times import clock
from shared.models import Outcome
from shared.tally import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

blueprint = Blueprint("outcomes", __name__)

SPANS = {"day": 24, "week": 7 * 24, "month": 30 * 24}
"""Hours of each picture one can choose."""
MOST_BARS = 60
WHOLE_HOURS = (1, 3, 6, 12, 24)
"""Hours of one bar, the least that makes no more than `MOST_BARS`."""
HEIGHT = 100.0
"""Of the picture, in units of its own."""
GAP = 0.2
"""Between bars, as a share of a bar's place."""

MEANINGS = {
    Outcome.RECLAIMED: "was there, was deleted, was seen gone",
    Outcome.ALREADY_ABSENT: "was not there: Kube-OVN had cleaned it",
    Outcome.REASSIGNED: "another EIP of the gateway owns it: untouched",
    Outcome.RESTORED: "got an owner during the deletion: put back, and seen there",
    Outcome.GATEWAY_GONE: "the gateway does not exist any more",
    Outcome.AUDITED: "a gateway was compared with the API",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One outcome in one bar."""

    outcome: str
    count: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Some hours of the picture."""

    x: float
    width: float
    label: str
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Picture:
    """Bars, in a box of `len(bars)` by `HEIGHT` units whose origin is at the top left."""

    bars: list[Bar]
    top: int
    """What the height stands for."""
    bar_hours: int
    begins: float
    ends: float
    """Seconds since the epoch."""

    @property
    def lines(self) -> list[int]:
        """Counts that are marked at the side, from the top down."""
        return [self.top, self.top // 2, 0] if self.top > 1 else [self.top, 0]


def draw(hours: Sequence[Mapping[str, int]], first: int, bar_hours: int) -> Picture:
    """A picture of how many ended in which outcome.

    Args:
        hours: of each hour, the count by outcome.
        first: the first of these hours, counted since the epoch.
        bar_hours: hours in one bar.
    """
    sums: list[Counter[str]] = []
    for begin in range(0, len(hours), bar_hours):
        counted: Counter[str] = Counter()
        for hour in hours[begin : begin + bar_hours]:
            counted.update(hour)
        sums.append(counted)
    top = _round_up(max((counted.total() for counted in sums), default=0))
    bars = []
    for number, counted in enumerate(sums):
        pieces, y = [], HEIGHT
        for outcome in Outcome:
            height = HEIGHT * counted[outcome.value] / top
            y -= height
            if height:
                pieces.append(Piece(outcome.value, counted[outcome.value], round(y, 2), round(height, 2)))
        began = (first + number * bar_hours) * HOUR
        label = f"{clock(began)[:16]} to {clock(began + bar_hours * HOUR)[11:16]}"
        bars.append(Bar(number + GAP / 2, 1 - GAP, label, pieces))
    return Picture(bars, top, bar_hours, first * HOUR, (first + len(hours)) * HOUR)


def _round_up(most: int) -> int:
    """The next count that is easy to halve and to read: 2, 4, 10, 20, 40, 100 and so on."""
    size = 1
    while True:
        for factor in (2, 4, 10):
            if factor * size >= most:
                return factor * size
        size *= 10


@blueprint.get("/outcomes")
def over_time() -> str:
    """The picture, what each outcome means, and what has no outcome yet."""
    chosen = request.args.get("span", "day")
    span = SPANS.get(chosen, SPANS["day"])
    bar_hours = next(hours for hours in WHOLE_HOURS if span / hours <= MOST_BARS)
    # Bars begin at whole hours of the day, so that they do not move with every look.
    last = (int(time.time() // HOUR) // bar_hours + 1) * bar_hours - 1
    first = last - span + 1
    work_queue = store().work_queue
    hours = work_queue.records.tally.hours(first, last)
    total: Counter[str] = Counter()
    for hour in hours:
        total.update(hour)
    queue = work_queue.queue
    return render_template(
        "dashboard/outcomes.html",
        active_tab="outcomes",
        picture=draw(hours, first, bar_hours),
        totals=[(outcome.value, total[outcome.value], MEANINGS[outcome]) for outcome in MEANINGS],
        spans=SPANS,
        chosen=chosen if chosen in SPANS else "day",
        unfinished=[
            ("queued", queue.count),
            ("started", queue.started_job_registry.get_job_count(cleanup=False)),
            ("scheduled", queue.scheduled_job_registry.get_job_count(cleanup=False)),
            ("failed", queue.failed_job_registry.get_job_count(cleanup=False)),
        ],
        history_days=store().settings.history_days,
    )
