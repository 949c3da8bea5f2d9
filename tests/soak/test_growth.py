"""The soak's verdict names what grows, and nothing else."""

from __future__ import annotations

import random

import pytest

from tests.soak.growth import Growth, growing

SECONDS = [5.0 * number for number in range(360)]


def flat(level: float, noise: float) -> list[float]:
    chance = random.Random(1)
    return [level + chance.uniform(-noise, noise) for _ in SECONDS]


def rising(level: float, by: float) -> list[float]:
    """So much on top of a noisy level in the time that counts, which is two thirds of it."""
    step = by / (len(SECONDS) * 2 / 3)
    return [value + step * number for number, value in enumerate(flat(level, level / 50))]


@pytest.mark.parametrize(
    ("kind", "level", "by"),
    [
        ("resident memory, MB", 80, 8),
        ("redis memory, MB", 10, 5),
        ("redis keys", 2000, 300),
        ("redis entries", 2000, 300),
        ("descriptors", 20, 4),
        ("sockets", 10, 4),
        ("threads", 4, 4),
        ("namespaces", 12, 4),
        ("EIPs", 25, 15),
    ],
)
def test_what_grows_is_named_and_what_is_flat_and_noisy_is_not(kind: str, level: float, by: float) -> None:
    (growth,) = growing(SECONDS, {kind: {"this": rising(level, by), "that": flat(level, level / 10)}})
    assert (growth.kind, growth.name) == (kind, "this")
    assert growth.by == pytest.approx(by, rel=0.35)


@pytest.mark.parametrize(
    ("kind", "level", "by"),
    [
        # Much, but a small share; a large share, but little.
        ("resident memory, MB", 200, 8),
        ("resident memory, MB", 20, 3),
        ("redis keys", 10000, 600),
        ("redis keys", 10, 30),
        ("descriptors", 20, 1),
    ],
)
def test_growth_within_either_tolerance_is_none(kind: str, level: float, by: float) -> None:
    assert growing(SECONDS, {kind: {"this": rising(level, by)}}) == []


def test_a_plateau_reached_in_the_warm_up_is_not_growth() -> None:
    plateau = [min(20.0 * number, 2000.0) for number in range(len(SECONDS))]
    assert growing(SECONDS, {"redis keys": {"record": plateau}}) == []


def test_a_plateau_reached_only_later_is() -> None:
    late = [min(8.0 * number, 2000.0) for number in range(len(SECONDS))]
    assert [growth.name for growth in growing(SECONDS, {"redis keys": {"record": late}})] == ["record"]


def test_a_sawtooth_is_not_growth() -> None:
    assert (
        growing(SECONDS, {"redis entries": {"rq:finished": [900.0 + number % 8 * 25 for number in range(360)]}}) == []
    )


def test_one_outlier_is_not_growth_of_what_is_counted_in_ones() -> None:
    values = [10.0] * len(SECONDS)
    values[-3] = 40.0
    assert growing(SECONDS, {"descriptors": {"worker 0": values}}) == []


def test_tombstones_are_bounded_by_themselves_and_other_kinds_are_not_judged() -> None:
    grows = rising(1000, 5000)
    assert growing(SECONDS, {"redis entries": {"tombstones": grows}, "so far": {"EIPs created": grows}}) == []
    assert [growth.name for growth in growing(SECONDS, {"redis keys": {"tombstones": grows}})] == ["tombstones"]


def test_what_was_there_and_what_came_on_top_is_told() -> None:
    (growth,) = growing(SECONDS, {"redis keys": {"record": [float(number) for number in range(len(SECONDS))]}})
    assert growth == Growth("redis keys", "record", before=120, by=239)


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        growing(SECONDS[:4], {"redis keys": {"record": [1.0] * 4}})
