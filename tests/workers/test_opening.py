"""A job that was waited for is opened as it is taken; whatever is wrong with it, its gateway is free again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.models import Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.payloads import release
from tests.waiting import eventually
from workers.answers import Result
from workers.failures import GatewayBusyError
from workers.jobs import ReclaimJob
from workers.reclaimer import Reclaimer
from workers.round import Round
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server

WORK = parse_work(release())


class Looking:
    """A round that does nothing, and tells how Redis was while it was at work."""

    def __init__(self, work_queue: WorkQueue) -> None:
        self._work_queue = work_queue
        self.seen: list[dict[str, Any]] = []
        self.fails: list[Exception] = []

    def work_off(self, gateway: str, works: list[Work], fence: Callable[[], None], _pods: Any) -> dict[str, Result]:
        fence()
        redis, keys = cast("Any", self._work_queue.redis), self._work_queue.keys
        lock = redis.get(keys.lock(gateway))
        self.seen.append(
            {
                "gateway": gateway,
                "works": [work.id for work in works],
                "holder": lock.decode().split("/")[0] if lock else None,
                "started": self._work_queue.queue.started_job_registry.get_job_ids(),
                "in between": self._work_queue.queue.intermediate_queue.get_job_ids(),
                "status": [(redis.hget(f"rq:job:{work.id}", "status") or b"").decode() for work in works],
            }
        )
        if self.fails:
            raise self.fails.pop()
        return {work.id: Result(Outcome.ALREADY_ABSENT) for work in works}

    def rest(self) -> None:
        pass


@pytest.fixture
def looking(work_queue: WorkQueue) -> Looking:
    return Looking(work_queue)


@pytest.fixture
def worker(work_queue: WorkQueue, settings: Settings, looking: Looking) -> ReclaimWorker:
    reclaimer = Reclaimer(work_queue, cast("Round", looking), settings, WORK.cluster, "w1")
    return ReclaimWorker(work_queue, reclaimer, settings, "w1", threading.Event())


@contextmanager
def waiting(worker: ReclaimWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """A worker that waits for its next job; of each that it takes then, the gateway that it was opened with."""
    opened: list[str | None] = []
    execute, wait, waits = worker.execute_job, worker._taker._blocking, threading.Event()

    def note(job: ReclaimJob, queue: Any) -> None:
        opened.append(job.opened.gateway if job.opened is not None else None)
        execute(job, queue)

    def blocking(seconds: float) -> Any:
        waits.set()
        return wait(seconds)

    monkeypatch.setattr(worker, "execute_job", note)
    monkeypatch.setattr(worker._taker, "_blocking", blocking)
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        assert waits.wait(10)
        yield opened
    finally:
        worker._stop.set()
        thread.join(10)
        assert not thread.is_alive()


def status(work_queue: WorkQueue, job_id: str) -> JobStatus | None:
    return Job.fetch(job_id, connection=work_queue.redis, serializer=JSONSerializer).get_status()


def nothing_is_left(work_queue: WorkQueue, *gateways: str) -> bool:
    """Whether the gateways are free, and nothing is noted as running or in between."""
    keys = [key for gateway in gateways for key in (work_queue.keys.lock(gateway), work_queue.keys.taken(gateway))]
    queue = work_queue.queue
    executions = [*work_queue.redis.scan_iter("rq:execution*"), *work_queue.redis.scan_iter("rq:worker:*:executions")]
    noted = [*queue.started_job_registry.get_job_ids(cleanup=False), *queue.intermediate_queue.get_job_ids()]
    return not work_queue.redis.exists(*keys) and not noted and not executions


def test_it_has_started_and_has_its_gateway_and_what_is_pending_there(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = parse_work(release(id="release-other", addresses=["192.0.2.99"]))
    with work_queue.redis.pipeline() as pipe:
        work_queue.records.open(pipe, other, "published")
        work_queue.add_pending(pipe, other)
        pipe.execute()
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([WORK], "published")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1"]
    (seen,) = looking.seen
    assert seen["gateway"] == "gw1"
    assert seen["works"] == [WORK.id, other.id]
    assert seen["holder"] == "w1"
    assert seen["started"] == [WORK.id]
    assert seen["in between"] == []
    assert seen["status"][0] == "started"
    events = [event["event"] for event in work_queue.records.events(WORK.id)]
    assert events == ["published", "taken", "outcome"]
    (taken,) = (event for event in work_queue.records.events(WORK.id) if event["event"] == "taken")
    assert (taken["worker"], taken["attempt"]) == ("w1", 1)
    assert nothing_is_left(work_queue, "gw1")


def test_what_was_tried_before_is_opened_by_its_worker(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking.fails.append(GatewayBusyError("for the test", 0.1))
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([WORK], "published")
        eventually(lambda: len(opened) == 2, "the next try")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1", None]
    events = [event["event"] for event in work_queue.records.events(WORK.id)]
    assert events.count("taken") == 1
    assert nothing_is_left(work_queue, "gw1")


def test_where_the_work_was_done_already_its_job_ends_with_that(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with work_queue.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            work_queue.publish(pipe, WORK, "published")
            work_queue.records.close(pipe, WORK, Outcome.RECLAIMED)
            pipe.execute()
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1"]
    assert looking.seen == []
    assert nothing_is_left(work_queue, "gw1")


def test_a_job_that_cannot_be_read_leaves_nothing_behind(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with work_queue.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            work_queue.publish(pipe, WORK, "published")
            pipe.hset(f"rq:job:{WORK.id}", "created_at", "yesterday")
            pipe.execute()
        failed = work_queue.queue.failed_job_registry
        eventually(lambda: failed.get_job_ids() == [WORK.id], "the job to fail")
        eventually(lambda: nothing_is_left(work_queue, "gw1"), "the gateway to be free", seconds=5)
    assert opened == []
    assert looking.seen == []


def test_a_job_of_another_cluster_lets_go_of_the_gateway(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = parse_work(release(cluster="another"))
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([foreign], "published")
        eventually(lambda: status(work_queue, foreign.id) == JobStatus.FAILED, "the job to fail")
        eventually(lambda: nothing_is_left(work_queue, "gw1"), "the gateway to be free", seconds=5)
    assert opened == ["gw1"]
    assert looking.seen == []


def test_a_job_that_names_another_gateway_than_its_record_works_under_its_own_lock(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with work_queue.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            work_queue.publish(pipe, WORK, "published")
            pipe.hset(work_queue.keys.record(WORK.id), "gateway", "gw9")
            pipe.execute()
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
        eventually(lambda: nothing_is_left(work_queue, "gw1", "gw9"), "the gateways to be free", seconds=5)
    assert opened == ["gw9"]
    (seen,) = looking.seen
    assert (seen["gateway"], seen["holder"]) == ("gw1", "w1")


@pytest.mark.parametrize("record", [None, json.dumps("no hash")])
def test_a_job_without_a_record_of_ours_is_opened_by_its_worker(
    work_queue: WorkQueue,
    worker: ReclaimWorker,
    looking: Looking,
    monkeypatch: pytest.MonkeyPatch,
    record: str | None,
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with work_queue.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            work_queue.publish(pipe, WORK, "published")
            pipe.delete(work_queue.keys.record(WORK.id))
            if record is not None:
                pipe.set(work_queue.keys.record(WORK.id), record)
            pipe.execute()
        eventually(lambda: opened == [None], "the job to be taken")
        if record is None:
            eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
