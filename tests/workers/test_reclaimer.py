"""One job, one outcome: also when another worker takes the job's work over at the last moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis.client import Pipeline
from rq.serializers import JSONSerializer

from shared.models import Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.payloads import release
from workers.answers import Result
from workers.jobs import ReclaimJob
from workers.lock import GatewayLock
from workers.reclaimer import Reclaimer
from workers.round import Round
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server

WORK = parse_work(release())


class Counted:
    """A round that finds nothing to do, and says how often it was asked."""

    looks_at_once = True

    def __init__(self) -> None:
        self.rounds = 0

    def work_off(self, _gateway: str, works: list[Work], fence: Callable[[], None], *_rest: Any) -> dict[str, Result]:
        fence()
        self.rounds += 1
        return {work.id: Result(Outcome.ALREADY_ABSENT) for work in works}


@pytest.fixture
def rounds() -> Counted:
    return Counted()


@pytest.fixture
def reclaimer(work_queue: WorkQueue, settings: Settings, rounds: Counted) -> Reclaimer:
    return Reclaimer(work_queue, cast("Round", rounds), settings, WORK.cluster, "w1")


def outcomes(work_queue: WorkQueue) -> list[str]:
    return [event["outcome"] for event in work_queue.records.events(WORK.id) if event["event"] == "outcome"]


def conclude(work_queue: WorkQueue) -> None:
    with work_queue.redis.pipeline() as pipe:
        work_queue.records.close(pipe, WORK, Outcome.RECLAIMED)
        pipe.hdel(work_queue.keys.pending(WORK.gateway), WORK.id)
        pipe.execute()


def test_a_job_does_its_work_once(work_queue: WorkQueue, reclaimer: Reclaimer, rounds: Counted) -> None:
    work_queue.publish_now([WORK], "published")
    assert reclaimer.run(WORK).outcome is Outcome.ALREADY_ABSENT
    assert reclaimer.run(WORK).outcome is Outcome.ALREADY_ABSENT
    assert rounds.rounds == 1
    assert outcomes(work_queue) == ["already_absent"]


def test_work_that_is_done_right_before_the_lock_is_free_is_not_done_again(
    work_queue: WorkQueue, reclaimer: Reclaimer, rounds: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_queue.publish_now([WORK], "published")
    ask = GatewayLock.ask_for

    def ask_late(*args: Any, **kwargs: Any) -> GatewayLock:
        conclude(work_queue)
        return ask(*args, **kwargs)

    monkeypatch.setattr(GatewayLock, "ask_for", ask_late)
    assert reclaimer.run(WORK).outcome is Outcome.RECLAIMED
    assert rounds.rounds == 0
    assert outcomes(work_queue) == ["reclaimed"]
    assert not work_queue.redis.exists(work_queue.keys.lock(WORK.gateway))


def test_where_a_job_has_been_does_not_count_for_work_that_came_meanwhile(
    work_queue: WorkQueue, settings: Settings
) -> None:
    came = parse_work(release(id="release-u2"))
    asked: list[tuple[list[str], Any]] = []

    class Travelled:
        """The last of several nodes."""

        looks_at_once = True

        def work_off(
            self, _gateway: str, works: list[Work], fence: Callable[[], None], pods: Any, *_rest: Any
        ) -> dict[str, Result]:
            if not asked:
                work_queue.publish_now([came], "published")
            asked.append(([work.id for work in works], tuple(pods)))
            return {works[0].id: Result(Outcome.RECLAIMED)} if works[0].id == WORK.id else {}

    work_queue.publish_now([WORK], "published")
    reclaimer = Reclaimer(work_queue, cast("Round", Travelled()), settings, WORK.cluster, "w1")
    assert reclaimer.run(WORK, ["pod on the other node"]).outcome is Outcome.RECLAIMED
    assert asked == [([WORK.id], ("pod on the other node",)), ([came.id], ())]
    assert work_queue.records.outcome(came.id) is None


def test_who_takes_work_over_is_told_with_its_outcome_and_who_has_it_is_handed_the_transaction_once(
    work_queue: WorkQueue, reclaimer: Reclaimer
) -> None:
    other = parse_work(release(id="release-u2"))
    work_queue.publish_now([WORK, other], "published")
    handed: list[Pipeline] = []
    reclaimer.run(WORK, (), lambda pipe, _lock: handed.append(pipe))
    assert len(handed) == 1
    (own,) = [event for event in work_queue.records.events(WORK.id) if event["event"] == "outcome"]
    (over,) = [event for event in work_queue.records.events(other.id) if event["event"] == "outcome"]
    assert (own.get("taken_over_by"), over["taken_over_by"]) == (None, WORK.id)


def test_who_finds_the_gateway_taken_is_not_told_as_having_it(
    work_queue: WorkQueue, reclaimer: Reclaimer, settings: Settings
) -> None:
    work_queue.publish_now([WORK], "published")
    worker = ReclaimWorker(work_queue, reclaimer, settings, "w1", threading.Event())

    def events_after_a_try() -> list[str]:
        job = ReclaimJob(WORK.id, work_queue.redis, JSONSerializer)
        job.refresh()  # type: ignore[no-untyped-call]
        worker.execute_job(job, work_queue.queue)
        return [event["event"] for event in work_queue.records.events(WORK.id)]

    held = GatewayLock.try_acquire(work_queue.redis, work_queue.keys, WORK.gateway, 30)
    assert held is not None
    assert events_after_a_try() == ["published", "later"]
    held.release()
    assert events_after_a_try() == ["published", "later", "taken", "outcome"]
