from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, get_args

import pytest

from tests.chaos.script import SECONDS, WEIGHTS, Fault, Kind, script

if TYPE_CHECKING:
    from collections.abc import Iterable

SEEDS = range(20)
MINUTES = 45
STRIKES_THE_SAME = (
    {"worker killed", "worker stopped"},
    {"producer killed", "producer stopped"},
    {"redis killed", "redis rolled back", "redis stopped"},
    {"pod replaced", "gateway without pods"},
)


def faults(seed: int, minutes: float = MINUTES, weights: dict[Kind, float] | None = None) -> list[Fault]:
    return script(seed, minutes * 60, producers=3, workers=6, gateways=20, weights=weights)


def on_one_lane(one: Fault, other: Fault) -> bool:
    kinds = {one.kind, other.kind}
    return one.target == other.target and (len(kinds) == 1 or any(kinds <= lane for lane in STRIKES_THE_SAME))


def kinds(found: Iterable[Fault]) -> list[Kind]:
    return [fault.kind for fault in found]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_script_each_time(seed: int) -> None:
    assert faults(seed) == faults(seed)


def test_each_seed_gives_a_script_of_its_own() -> None:
    assert len({tuple(map(repr, faults(seed))) for seed in SEEDS}) == len(SEEDS)


def test_every_kind_has_a_weight_and_a_length() -> None:
    assert set(WEIGHTS) == set(SECONDS) == set(get_args(Kind))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_strikes_once_before_any_strikes_twice(seed: int) -> None:
    found = kinds(faults(seed))
    assert len(found) > 3 * len(WEIGHTS)
    assert set(found[: len(WEIGHTS)]) == set(WEIGHTS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("minutes", [1, 3, MINUTES])
def test_every_fault_ends_within_the_run(seed: int, minutes: float) -> None:
    found = faults(seed, minutes)
    assert found
    assert all(fault.at > 0 and fault.at + fault.seconds <= minutes * 60 for fault in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_fault_begins_in_the_last_tenth_of_the_run(seed: int) -> None:
    assert max(fault.at for fault in faults(seed)) <= MINUTES * 60 * 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_come_in_order_and_last_as_long_as_their_kind_may(seed: int) -> None:
    found = faults(seed)
    assert found == sorted(found, key=lambda fault: fault.at)
    assert all(SECONDS[fault.kind][0] <= fault.seconds <= SECONDS[fault.kind][1] for fault in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_struck_while_it_is_struck_already(seed: int) -> None:
    pairs = [(one, other) for one, other in combinations(faults(seed), 2) if on_one_lane(one, other)]
    assert pairs
    assert [(one, other) for one, other in pairs if other.at < one.at + one.seconds] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_there_is_is_struck_and_all_of_it(seed: int) -> None:
    struck: dict[str, set[int]] = {}
    for fault in faults(seed, 10 * MINUTES):
        struck.setdefault(fault.kind, set()).add(fault.target)
    sizes = {"worker": 6, "producer": 3, "pod": 20, "gateway": 20, "commands": 20}
    assert struck == {kind: set(range(sizes.get(kind.split()[0], 1))) for kind in WEIGHTS}


def test_only_kinds_that_have_a_weight_strike() -> None:
    found = kinds(faults(1, weights={"worker killed": 1, "api slow": 99}))
    assert set(found[:2]) == set(found) == {"worker killed", "api slow"}
    assert found.count("api slow") > found.count("worker killed") > 0


def test_a_run_that_is_over_before_the_first_fault_has_none() -> None:
    assert script(1, 4.0, producers=1, workers=1, gateways=1) == []
