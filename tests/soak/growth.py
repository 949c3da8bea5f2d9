"""What grows without bound: the verdict over series of samples.

A series that rises while the product warms up and then stays where it is, however noisily, does not grow. What is
counted in ones (descriptors, sockets, threads, namespaces) is compared by its medians at the beginning and at the end
of the time that counts; of what is measured in many, a straight line through that time says how much came on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

WARM_UP = 1 / 3
"""The share of the time that does not count."""
WINDOW = 1 / 5
"""The share of the time that counts, of which medians are taken, at either end."""


@dataclass(frozen=True)
class Tolerance:
    """Growth is found where there is more of it than both of these allow."""

    absolute: float
    share: float = 0.0
    """Of what there was when the warm-up was over."""
    by_line: bool = True
    """Measured by a straight line; otherwise by medians."""


COUNTED = Tolerance(absolute=2, by_line=False)
TOLERANCES: dict[str, Tolerance] = {
    "resident memory, MB": Tolerance(absolute=4, share=0.05),
    "descriptors": COUNTED,
    "sockets": COUNTED,
    "threads": COUNTED,
    "namespaces": COUNTED,
    "redis memory, MB": Tolerance(absolute=4, share=0.05),
    "redis keys": Tolerance(absolute=50, share=0.1),
    "redis entries": Tolerance(absolute=100, share=0.1),
    "EIPs": Tolerance(absolute=10, share=0.2),
}
"""By kind of series; of other kinds nothing is asked."""
BOUNDED_BY_THEMSELVES = {("redis entries", "tombstones")}
"""What grows for longer than any run, and then no more: `shared.inventory.TOMBSTONE_SECONDS`."""

Series = Mapping[str, Mapping[str, Sequence[float]]]
"""By kind and name, one value for each time a sample was taken."""


@dataclass(frozen=True)
class Growth:
    """A series that grows."""

    kind: str
    name: str
    before: float
    """What there was when the warm-up was over."""
    by: float
    """What came on top until the end."""


def growing(seconds: Sequence[float], series: Series) -> list[Growth]:
    """The series that grew by more than their kind may.

    Args:
        seconds: when samples were taken, ascending.
        series: the samples.
    """
    found = []
    for kind, named in series.items():
        for name, values in named.items():
            tolerance = TOLERANCES.get(kind)
            if tolerance is None or (kind, name) in BOUNDED_BY_THEMSELVES:
                continue
            before, by = grown(seconds, values, by_line=tolerance.by_line)
            if by > max(tolerance.absolute, tolerance.share * before):
                found.append(Growth(kind, name, round(before, 2), round(by, 2)))
    return found


def grown(seconds: Sequence[float], values: Sequence[float], *, by_line: bool) -> tuple[float, float]:
    """What there was after the warm-up, and what came on top from then on.

    Raises:
        ValueError: there are too few samples for a verdict.
    """
    start = seconds[0] + (seconds[-1] - seconds[0]) * WARM_UP if seconds else 0.0
    counted = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= start]
    if len(counted) < 5:
        raise ValueError(f"{len(counted)} samples after the warm-up are too few for a verdict")
    if by_line:
        slope, height = np.polyfit([at for at, _ in counted], [value for _, value in counted], 1)
        first, last = counted[0][0], counted[-1][0]
        return float(height + slope * first), float(slope * (last - first))
    window = max(1, int(len(counted) * WINDOW))
    before = median(value for _, value in counted[:window])
    return before, median(value for _, value in counted[-window:]) - before
