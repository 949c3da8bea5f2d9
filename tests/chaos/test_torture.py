"""A short torture keeps every promise, and the referee catches a product that lacks one of its safeguards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import judge as referee
from tests.chaos.script import WEIGHTS
from tests.chaos.torture import Plan, torture

pytestmark = [pytest.mark.kernel, pytest.mark.server, pytest.mark.timeout(900)]

RACES = (
    "created again on the same gateway before the leak was mended",
    "live on another gateway while it leaked here",
    "put back by a worker",
)
"""Those that every run really meets; the report of a longer one counts the others too."""


def test_a_short_torture_breaks_no_promise(tmp_path: Path) -> None:
    verdict, facts = torture(Plan(seed=5, eips=500, gateways=10, minutes=2, pause=2.5), tmp_path)
    assert verdict.violations == []
    assert facts["eips"]["created"] == 500
    assert set(WEIGHTS) <= set(facts["faults"])
    assert all(verdict.races[race] > 0 for race in RACES), verdict.races
    assert (tmp_path / "report.html").stat().st_size > 10_000


LATE = Plan(1, 150, 5, 0.6, pause=1.5, kinds=("watches cut",), slow=1.0, late=(1.2, 2.0))
"""Each act begins later than an owner may be without its address: a race that only the next act mends is seen."""


@pytest.mark.parametrize(
    ("without", "plan", "named"),
    [
        ("owner-check", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("watches cut",), slow=1.0), referee.TAKEN),
        ("second-look", LATE, referee.ABSENT),
        ("lock", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("watches cut",), slow=1.0), referee.OVERLAP),
        ("transaction", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("producer killed",), slow=1.0), referee.LOST),
    ],
    ids=["owner-check", "second-look", "lock", "transaction"],
)
def test_the_referee_catches_a_product_without(without: str, plan: Plan, named: str, tmp_path: Path) -> None:
    verdict, _ = torture(replace(plan, without=without), tmp_path)
    assert named in {violation.kind for violation in verdict.violations}, verdict.races


def test_the_second_look_mends_the_same_races_in_time(tmp_path: Path) -> None:
    verdict, _ = torture(LATE, tmp_path)
    assert verdict.races["owner came: between look and act"] > 0, verdict.races
    assert [each for each in verdict.violations if "between look and act" in each.what] == []
