"""Side by side: each case runs all its sides in turn, several times; what counts are ratios within one turn.

A figure in seconds says something about one machine on one day; a ratio of two sides that ran right after one another
says something about the sides. So a case keeps every value, and its ratios are taken turn by turn: their median, the
lowest and the highest are shown. The order of sides changes with every turn.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.measuring import machine

if TYPE_CHECKING:
    from redis import Redis

    from benchmarks.field import Field

Series = list[float]
Run = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """What a case says in one number: `over` divided by `under`, turn by turn; one value a turn."""

    name: str
    values: Series
    target: float | None = None
    """What has to be reached; None for a number that is only told."""
    limit: float | None = None
    """What `make bench-check` allows: the target with a wide margin, since machines and days differ."""
    better: Literal["higher", "lower"] = "higher"
    unit: str = "times"

    @property
    def median(self) -> float:
        """The number of the table."""
        return statistics.median(self.values)

    def keeps(self, bound: float | None) -> bool | None:
        """Whether the median is on the right side of a bound; None where there is none."""
        if bound is None:
            return None
        return self.median >= bound if self.better == "higher" else self.median <= bound

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "name": self.name,
            "median": rounded(self.median),
            "lowest": rounded(min(self.values)),
            "highest": rounded(max(self.values)),
            "turns": len(self.values),
            "unit": self.unit,
            "target": self.target,
            "better": self.better,
            "reached": self.keeps(self.target),
            "limit": self.limit,
            "within limit": self.keeps(self.limit),
        }


@dataclass
class Measured:
    """What a case found."""

    sides: dict[str, Series] = field(default_factory=dict)
    """By side, one value per turn, or all of them where each turn has many."""
    unit: str = "s"
    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is worth knowing."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "unit": self.unit,
            "sides": {
                name: {**summary(values), "values": [rounded(each) for each in values]}
                for name, values in self.sides.items()
            },
            "ratios": [ratio.facts() for ratio in self.ratios],
            "facts": self.facts,
        }


@dataclass(frozen=True)
class Case:
    """One question, and how it is answered."""

    name: str
    question: str
    measure: Callable[[Field, bool], Measured]
    """Is given whether a quick answer is wanted: fewer turns and smaller numbers."""


def interleaved(sides: Mapping[str, Run], turns: int) -> dict[str, Series]:
    """Run all sides in turn, each turn beginning with another one; by side, one value per turn."""
    values: dict[str, Series] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(sides[name]())
            progress(f"turn {turn + 1}/{turns}  {name}: {values[name][-1]:.4g}")
    return values


def divided(over: Sequence[float], under: Sequence[float]) -> Series:
    """Turn by turn."""
    return [a / b for a, b in zip(over, under, strict=True)]


def summary(values: Series) -> dict[str, Any]:
    """What of many values is shown."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": rounded(statistics.median(ordered)),
        "p99": rounded(percentile(ordered, 99)),
        "lowest": rounded(ordered[0]),
        "highest": rounded(ordered[-1]),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * int(percent) // 100) - 1))]


def rounded(value: float) -> float:
    """Four digits that count; more would be noise."""
    return float(f"{value:.4g}")


def described(redis: Redis) -> dict[str, Any]:
    """What was measured on, and how busy it was."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _processor(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        **machine(redis),
        "architecture": platform.machine(),
        "load when it began": [round(each, 2) for each in os.getloadavg()],
    }


def processor_seconds(pid: int | None = None) -> float:
    """What a process has used so far, or the whole machine without one; of all cores together."""
    ticks = os.sysconf("SC_CLK_TCK")
    if pid is not None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks
    # user, nice, system, idle, iowait, irq, softirq, …: all but the two in which it does nothing.
    times = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(times) - times[3] - times[4]) / ticks


def million_additions() -> list[float]:
    """How fast the machine is just now: milliseconds that a million additions take, twenty times.

    Nothing else shows how much of its cores neighbours leave it.
    """
    taken = []
    for _ in range(20):
        began, total = time.perf_counter(), 0
        for number in range(1_000_000):
            total += number
        taken.append(round(1000 * (time.perf_counter() - began), 1))
    return taken


def progress(line: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"  {line}\n")
    sys.stderr.flush()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
