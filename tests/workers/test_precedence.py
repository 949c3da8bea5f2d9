"""Short work goes first, long rounds give way: not to themselves, not for long, and not longer than they have to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from shared.models import Audit, Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.payloads import release
from tests.pending import leave_pending
from workers import precedence
from workers.answers import Result
from workers.reclaimer import Reclaimer
from workers.round import Round

LONG = 30.0
"""Seconds; nothing here waits for so long, unless it is wrong."""
RELEASE = parse_work(release())
AUDIT = Audit(
    id="audit-1", cluster="c1", gateway="gw1", eip=None, uid=None, namespace=None, seen_at=1000.0, reason="periodic"
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "LONGEST_CLAIM", LONG)
    monkeypatch.setattr(precedence, "LONGEST_STOP", LONG)


@contextmanager
def going_first() -> Iterator[threading.Event]:
    """Another thread that goes first, until the event is set."""
    claims, done = threading.Event(), threading.Event()

    def short() -> None:
        with precedence.first():
            claims.set()
            done.wait(LONG)

    thread = threading.Thread(target=short)
    thread.start()
    assert claims.wait(LONG)
    try:
        yield done
    finally:
        done.set()
        thread.join(LONG)


def stops() -> float:
    """How long this thread stops to give way, seconds."""
    began = time.monotonic()
    precedence.give_way()
    return time.monotonic() - began


def test_a_long_round_stops_until_the_short_work_is_done() -> None:
    precedence.last()
    with going_first() as done:
        threading.Timer(0.3, done.set).start()
        assert 0.2 < stops() < LONG / 2
        assert stops() < 0.2


def test_it_goes_on_as_soon_as_the_work_turns_out_to_be_long() -> None:
    turned_out, claims, end = threading.Event(), threading.Event(), threading.Event()

    def long_after_all() -> None:
        with precedence.first():
            claims.set()
            turned_out.wait(LONG)
            precedence.last()
            end.wait(LONG)

    thread = threading.Thread(target=long_after_all)
    thread.start()
    try:
        assert claims.wait(LONG)
        precedence.last()
        threading.Timer(0.3, turned_out.set).start()
        assert 0.2 < stops() < LONG / 2
    finally:
        turned_out.set()
        end.set()
        thread.join(LONG)


def test_work_that_claims_to_be_short_for_too_long_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "LONGEST_CLAIM", 0.3)
    precedence.last()
    with going_first():
        assert 0.1 < stops() < LONG / 2
        assert stops() < 0.1


def test_a_round_stops_for_so_long_in_all_and_the_next_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "LONGEST_STOP", 0.3)
    with going_first():
        for _ in range(2):
            precedence.last()
            assert 0.2 < stops() < LONG / 2
            assert stops() < 0.1


def test_short_work_gives_way_to_nobody() -> None:
    with going_first(), precedence.first():
        assert stops() < 0.2


def test_a_job_does_not_give_way_for_what_its_thread_did_before() -> None:
    with precedence.first():
        precedence.last()
    with going_first(), precedence.first():
        assert stops() < 0.2


def test_nobody_gives_way_to_work_that_has_failed() -> None:
    with pytest.raises(ValueError, match="for the test"), precedence.first():
        raise ValueError("for the test")
    precedence.last()
    assert stops() < 0.2


def test_among_gives_way_before_each_piece() -> None:
    precedence.last()
    with going_first() as done:
        pieces = precedence.among(iter([1, 2]))
        threading.Timer(0.3, done.set).start()
        began = time.monotonic()
        assert next(pieces) == 1
        assert 0.2 < time.monotonic() - began < LONG / 2
        assert list(pieces) == [2]


class Noting:
    """A round that does nothing but note whether it would give way."""

    def __init__(self) -> None:
        self.gives_way: list[bool] = []

    def work_off(self, _gateway: str, works: list[Work], _fence: Callable[[], None], *_rest: Any) -> dict[str, Result]:
        with going_first() as done:
            threading.Timer(0.3, done.set).start()
            self.gives_way.append(stops() > 0.2)
        return {work.id: Result(Outcome.ALREADY_ABSENT) for work in works}


@pytest.mark.server
@pytest.mark.parametrize(
    ("work", "others", "gives_way"),
    [
        (RELEASE, [], False),
        (RELEASE, [parse_work(release(id="release-other", addresses=["192.0.2.99"]))], True),
        (AUDIT, [], True),
    ],
    ids=["one release", "two releases", "an audit"],
)
def test_what_gives_way(
    work_queue: WorkQueue, settings: Settings, work: Work, others: list[Work], gives_way: bool
) -> None:
    work_queue.publish_now([work], "published")
    for other in others:
        leave_pending(work_queue, other)
    noting = Noting()
    reclaimer = Reclaimer(work_queue, cast("Round", noting), settings, work.cluster, "w1")
    with precedence.first():
        reclaimer.run(work)
    assert noting.gives_way == [gives_way]
