"""What `eip-reclaimer brake` tells of what is held back."""

from __future__ import annotations

import json

import pytest

from shared.brake import Brake
from shared.difference import Seen
from shared.inventory import Inventory
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.cli.conftest import RunCommand
from tests.shared.test_difference import A, B, eip

pytestmark = pytest.mark.server


@pytest.fixture
def engaged(work_queue: WorkQueue, settings: Settings) -> Brake:
    inventory = Inventory(work_queue, "c1", "p1")
    inventory.claim_cluster()
    inventory.commit([Seen(eip("u1", A)), Seen(eip("u2", B))], 11)
    brake = Brake(work_queue, settings)
    brake.engage("one list would release 2 of 2 known EIPs", ["u1", "u2"], 2)
    return brake


def test_what_is_held_back_is_named(run: RunCommand, engaged: Brake) -> None:
    done = run("brake", "show")
    assert done.returncode == 1
    assert "held back: 2" in done.stdout
    assert f"eip-u1\tgw1\t{A}\n" in done.stdout
    assert "eip-reclaimer brake release" in done.stdout
    told = json.loads(run("brake", "show", "--json").stdout)
    assert (told["uids"], told["confirmed"]) == (["u1", "u2"], [])


def test_a_confirmation_says_of_how_many_and_is_not_asked_for_again(run: RunCommand, engaged: Brake) -> None:
    done = run("brake", "release")
    assert done.returncode == 0
    assert "the release of 2 that were held back" in done.stdout
    shown = run("brake", "show")
    assert shown.returncode == 1
    assert "all of it was confirmed" in shown.stdout
    assert "eip-reclaimer brake release" not in shown.stdout


def test_nothing_is_held_back(run: RunCommand, work_queue: WorkQueue) -> None:
    assert run("brake", "show").stdout == "the brake is not engaged\n"
    assert run("brake", "release").returncode == 0
