"""What goes wrong and when: a script of faults, from a seed alone.

The same seed, length and sizes give the same script, fault by fault. Faults of one kind do not overlap with
themselves, and the last tenth of the time is left for the last ones to end.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "worker killed",
    "worker stopped",
    "producer killed",
    "producer stopped",
    "all producers stopped",
    "redis killed",
    "redis rolled back",
    "redis stopped",
    "api down",
    "api slow",
    "api refuses",
    "api lists too little",
    "watches cut",
    "history compacted",
    "pod replaced",
    "gateway without pods",
    "commands go wrong",
    "controller killed",
]

WEIGHTS: dict[Kind, float] = {
    "worker killed": 4,
    "worker stopped": 3,
    "producer killed": 3,
    "producer stopped": 2,
    "all producers stopped": 1,
    "redis killed": 1,
    "redis rolled back": 1,
    "redis stopped": 1,
    "api down": 1,
    "api slow": 1,
    "api refuses": 2,
    "api lists too little": 1,
    "watches cut": 2,
    "history compacted": 1,
    "pod replaced": 2,
    "gateway without pods": 1,
    "commands go wrong": 3,
    "controller killed": 1,
}
"""How often each kind strikes, against the others. Each strikes once before any strikes twice."""

SECONDS: dict[Kind, tuple[float, float]] = {
    "worker killed": (0, 3),
    "worker stopped": (0.2, 45),
    "producer killed": (0, 3),
    "producer stopped": (0.5, 20),
    "all producers stopped": (1, 8),
    "redis killed": (0, 4),
    "redis rolled back": (0, 2),
    "redis stopped": (0.5, 8),
    "api down": (0.5, 15),
    "api slow": (2, 15),
    "api refuses": (0.5, 15),
    "api lists too little": (2, 10),
    "watches cut": (0, 0),
    "history compacted": (0, 0),
    "pod replaced": (0, 0),
    "gateway without pods": (1, 20),
    "commands go wrong": (0, 0),
    "controller killed": (0, 3),
}
"""How long each kind lasts: until what was ended is started again, or what was set is taken back."""

REFUSALS = (429, 500, 403, 503)
CUTS = ("end", "drop", "mid-line")
COMMAND_FAULTS = ("HANG", "HANG_AFTERWARDS", "DIE_AT_ONCE", "DIE_HALF_WAY", "GARBAGE", "FAIL")


@dataclass(frozen=True)
class Fault:
    """One fault: `at` and `seconds` in seconds, the former from the beginning; `target` counts what it strikes."""

    at: float
    kind: Kind
    seconds: float = 0.0
    target: int = 0
    detail: Any = None

    @property
    def over(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def script(
    seed: int,
    seconds: float,
    *,
    producers: int,
    workers: int,
    gateways: int,
    pause: float = 4.0,
    weights: dict[Kind, float] | None = None,
) -> list[Fault]:
    """The faults of a run in the order they begin.

    Args:
        seed: what chance is made of.
        seconds: how long the run is.
        producers: how many there are to strike; `workers` and `gateways` alike.
        workers: see there.
        gateways: see there.
        pause: mean seconds between two faults.
        weights: how often each kind strikes; all of them as in `WEIGHTS` without.
    """
    chance = random.Random(seed)
    weights = weights or WEIGHTS
    targets = {"worker": workers, "producer": producers, "pod": gateways, "gateway": gateways, "commands": gateways}
    first = list(weights)
    chance.shuffle(first)
    busy: dict[tuple[Kind, int], float] = {}
    faults: list[Fault] = []
    at = pause
    while at < seconds * 0.9:
        kind = first[-1] if first else chance.choices(list(weights), list(weights.values()))[0]
        target = chance.randrange(targets.get(kind.split()[0], 1))
        shortest, longest = SECONDS[kind]
        # Short ones are many, and each has its long one now and then.
        lasts = shortest + (longest - shortest) * chance.random() ** 2
        fault = Fault(round(at, 2), kind, round(lasts, 2), target, _detail(kind, chance))
        lane = (_lane(kind), target)
        if busy.get(lane, 0.0) <= at and fault.over <= seconds:
            busy[lane] = fault.over + 0.5
            faults.append(fault)
            if first:
                first.pop()
        at += chance.expovariate(1 / pause)
    return faults


def _lane(kind: Kind) -> Kind:
    """What cannot be struck twice at the same time, by one of the kinds that strike it."""
    lanes: dict[str, Kind] = {
        "worker": "worker killed",
        "producer": "producer killed",
        "redis": "redis killed",
        "pod": "pod replaced",
        "gateway": "pod replaced",
    }
    return lanes.get(kind.split()[0], kind)


def _detail(kind: Kind, chance: random.Random) -> Any:
    match kind:
        case "api refuses":
            return chance.choice(REFUSALS)
        case "api slow":
            return round(chance.uniform(0.2, 2), 2)
        case "api lists too little":
            return chance.choice((0.0, 0.3, 0.9))
        case "watches cut":
            return chance.choice(CUTS)
        case "commands go wrong":
            return [chance.choice(COMMAND_FAULTS), chance.randint(1, 3)]
        case "redis rolled back":
            return round(chance.uniform(1, 20), 1)
        case _:
            return None
