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


@pytest.mark.parametrize(
    ("without", "plan", "named"),
    [
        ("owner-check", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("watches cut",), slow=1.0), referee.TAKEN),
        # Nobody but the second look puts an address back while no producer runs; few gateways, so that an address comes
        # back soon where it was.
        ("second-look", Plan(1, 500, 4, 2, pause=0.5, kinds=("all producers stopped",), slow=1.0), referee.ABSENT),
        ("lock", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("watches cut",), slow=1.0), referee.OVERLAP),
        ("transaction", Plan(1, 150, 5, 0.6, pause=1.5, kinds=("producer killed",), slow=1.0), referee.LOST),
    ],
    ids=["owner-check", "second-look", "lock", "transaction"],
)
def test_the_referee_catches_a_product_without(without: str, plan: Plan, named: str, tmp_path: Path) -> None:
    verdict, _ = torture(replace(plan, without=without), tmp_path)
    assert named in {violation.kind for violation in verdict.violations}
