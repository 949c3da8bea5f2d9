"""A job that was waited for is opened as it is taken; whatever is wrong with it, its gateway is free again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED

from shared.models import Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from tests.payloads import release
from tests.pending import leave_pending
from tests.waiting import eventually
from workers import taking
from workers.ahead import Ahead
from workers.answers import Result
from workers.failures import GatewayBusyError
from workers.jobs import ReclaimJob
from workers.lock import GatewayLock
from workers.opening import Opener
from workers.reclaimer import Reclaimer
from workers.round import Round
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server

WORK = parse_work(release())


class Looking:
    """A round that does nothing, and tells how Redis was while it was at work."""

    asks_ahead = True
    looks_at_once = True

    def __init__(self, work_queue: WorkQueue) -> None:
        self._work_queue = work_queue
        self.seen: list[dict[str, Any]] = []
        self.fails: list[Exception] = []
        self.asked: list[list[str]] = []

    def work_off(self, gateway: str, works: list[Work], fence: Callable[[], None], *_rest: Any) -> dict[str, Result]:
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

    def request(self, ahead: Ahead) -> None:
        self.asked.append(list(ahead.known))

    def rest(self, _unused_for: float = 0.0) -> None:
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
    execute, wait, look, waits = worker.execute_job, worker._taker._blocking, worker._taker._ends, threading.Event()

    def note(job: ReclaimJob, queue: Any) -> None:
        opened.append(job.opened.gateway if job.opened is not None else None)
        execute(job, queue)

    def blocking(seconds: float) -> Any:
        waits.set()
        return wait(seconds)

    def ends() -> Any:
        waits.set()
        return look()

    monkeypatch.setattr(worker, "execute_job", note)
    monkeypatch.setattr(worker._taker, "_blocking", blocking)
    monkeypatch.setattr(worker._taker, "_ends", ends)
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        assert waits.wait(10)
        yield opened
    finally:
        worker._stop.set()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def publishing(work_queue: WorkQueue) -> Iterator[Pipeline]:
    """The transaction that publishes the work, for what else is to be so by then."""
    with work_queue.redis.pipeline(transaction=True) as pipe:
        pipe.multi()
        work_queue.publish(pipe, WORK, "published")
        yield pipe
        pipe.execute()


def keep_busy(work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A job of a gateway that another worker has; those that come later wait behind it, and it is looked at once."""
    monkeypatch.setattr("workers.taking.BUSY_PAUSE", 60.0)
    busy = parse_work(release(id="release-busy", gateway="gw9"))
    work_queue.publish_now([busy], "published")
    assert GatewayLock.try_acquire(work_queue.redis, work_queue.keys, busy.gateway, 60)
    return busy


def status(work_queue: WorkQueue, job_id: str) -> JobStatus | None:
    return Job.fetch(job_id, connection=work_queue.redis, serializer=JSONSerializer).get_status()


def nothing_is_left(work_queue: WorkQueue, *gateways: str) -> bool:
    """Whether the gateways are free, nothing is meant to be taken off any, or noted as running or in between."""
    keys = [key for gateway in gateways for key in (work_queue.keys.lock(gateway), work_queue.keys.taken(gateway))]
    queue = work_queue.queue
    executions = [*work_queue.redis.scan_iter("rq:execution*"), *work_queue.redis.scan_iter("rq:worker:*:executions")]
    noted = [*queue.started_job_registry.get_job_ids(cleanup=False), *queue.intermediate_queue.get_job_ids()]
    meant = list(work_queue.redis.scan_iter(work_queue.keys.intent("*", "*")))
    return not work_queue.redis.exists(*keys) and not noted and not executions and not meant


def test_it_has_started_and_has_its_gateway_and_what_is_pending_there(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = parse_work(release(id="release-other", addresses=["192.0.2.99"]))
    leave_pending(work_queue, other)
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([WORK], "published")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1"]
    # It is not alone.
    assert looking.asked == []
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
        with publishing(work_queue) as pipe:
            work_queue.records.close(pipe, WORK, Outcome.RECLAIMED)
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1"]
    assert looking.seen == []
    assert nothing_is_left(work_queue, "gw1")


def test_a_job_that_cannot_be_read_leaves_nothing_behind(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.hset(f"rq:job:{WORK.id}", "created_at", "yesterday")
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
    assert looking.asked == [["10.1.69.205"]]
    assert looking.seen == []


def test_a_job_that_names_another_gateway_than_its_record_works_under_its_own_lock(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.hset(work_queue.keys.record(WORK.id), "gateway", "gw9")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
        eventually(lambda: nothing_is_left(work_queue, "gw1", "gw9"), "the gateways to be free", seconds=5)
    assert opened == ["gw9"]
    (seen,) = looking.seen
    assert (seen["gateway"], seen["holder"]) == ("gw1", "w1")


def test_a_gateway_that_is_no_text_locks_nobody_out(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.hset(work_queue.keys.record(WORK.id), "gateway", b"gw\xff")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
        worker._recovery.take_abandoned()
        eventually(lambda: nothing_is_left(work_queue, "gw1"), "the gateway to be free", seconds=5)
    assert opened == ["gw\ufffd"]
    (seen,) = looking.seen
    assert (seen["gateway"], seen["holder"]) == ("gw1", "w1")


@pytest.mark.parametrize("key", ["pending", "generation"])
def test_what_cannot_be_read_beside_a_job_is_its_own_trouble(
    work_queue: WorkQueue, worker: ReclaimWorker, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    keys = work_queue.keys
    spoilt = {"pending": keys.pending("gw1"), "generation": keys.pending_generation("gw1")}
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.delete(spoilt[key])
            pipe.sadd(spoilt[key], "not ours")
        eventually(lambda: opened == [None], "the job to be taken")
        eventually(lambda: not worker.executions, "its end")
        assert not worker._broken.is_set()
    assert work_queue.redis.type(spoilt[key]) == b"set"


@pytest.mark.parametrize("waited_for", [True, False])
@pytest.mark.parametrize("key", ["trace", "tally", "index"])
def test_a_job_whose_life_cannot_be_told_is_done_all_the_same(
    work_queue: WorkQueue, worker: ReclaimWorker, monkeypatch: pytest.MonkeyPatch, key: str, waited_for: bool
) -> None:
    keys, records = work_queue.keys, work_queue.records
    spoilt = {"trace": keys.trace(WORK.id), "tally": records.tally.key, "index": keys.index(str(WORK.eip))}[key]
    if not waited_for:
        monkeypatch.setattr(worker._taker, "_opener", None)
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.set(spoilt, "not ours")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
        assert opened == ["gw1" if waited_for else None]
        assert not worker._broken.is_set()
    assert records.outcome(WORK.id) is not None
    assert work_queue.redis.get(spoilt) == b"not ours"
    assert nothing_is_left(work_queue, "gw1")


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_generation_that_is_no_number_leaves_no_gateway_locked(
    work_queue: WorkQueue, worker: ReclaimWorker, monkeypatch: pytest.MonkeyPatch, waited_for: bool
) -> None:
    if not waited_for:
        monkeypatch.setattr(worker._taker, "_opener", None)
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.set(work_queue.keys.pending_generation("gw1"), "many")
        eventually(lambda: opened == ["gw1" if waited_for else None], "the job to be taken")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.SCHEDULED, "its next try")
        assert not worker._broken.is_set()
    assert nothing_is_left(work_queue, "gw1")


def test_one_that_comes_behind_those_of_busy_gateways_is_opened_too(
    work_queue: WorkQueue, worker: ReclaimWorker, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = keep_busy(work_queue, monkeypatch)
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([WORK], "published")
        eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
    assert opened == ["gw1"]
    assert looking.asked == [["10.1.69.205"]]
    (seen,) = looking.seen
    assert (seen["works"], seen["holder"], seen["in between"]) == ([WORK.id], "w1", [])
    assert work_queue.queue.get_job_ids() == [busy.id]
    assert nothing_is_left(work_queue, "gw1")


@pytest.mark.parametrize("behind_busy", [True, False])
@pytest.mark.parametrize("had_run", [True, False])
def test_a_job_whose_answer_was_lost_is_queued_again_as_soon_as_redis_is_back(
    work_queue: WorkQueue,
    worker: ReclaimWorker,
    looking: Looking,
    monkeypatch: pytest.MonkeyPatch,
    had_run: bool,
    behind_busy: bool,
) -> None:
    if behind_busy:
        keep_busy(work_queue, monkeypatch)
    run = taking._UNLESS_BUSY.run
    lost: list[Any] = []

    def lose(*asked: Any) -> Any:
        if lost:
            return run(*asked)
        lost.append(run(*asked) if had_run else None)
        raise RedisConnectionError("lost for the test")

    monkeypatch.setattr(taking._UNLESS_BUSY, "run", lose)
    with waiting(worker, monkeypatch) as opened:
        work_queue.publish_now([WORK], "published")
        if had_run:
            eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end", seconds=10)
        else:
            eventually(lambda: lost and worker._taker._unanswered is None, "the worker to go on")
            if behind_busy:
                eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end", seconds=10)
            else:
                assert work_queue.queue.intermediate_queue.get_job_ids() == [WORK.id]
    if had_run:
        assert opened == [None]
        assert len(looking.seen) == 1
        assert nothing_is_left(work_queue, "gw1")
        job = Job.fetch(WORK.id, connection=work_queue.redis, serializer=JSONSerializer)
        assert "attempts" not in job.meta


def test_a_job_that_cannot_be_read_and_lost_its_worker_fails_with_a_reason(
    work_queue: WorkQueue, worker: ReclaimWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between: it was opened, and nobody has read it."""
    monkeypatch.setattr("workers.recovery.LOCKLESS_SECONDS", 0.0)
    queue = worker._taker._queues[-1]
    offer = Opener(worker, work_queue, load_settings(), 40).offer(WORK.id, queue)
    work_queue.publish_now([WORK], "published")
    work_queue.redis.lmove(queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT")
    work_queue.redis.hset(f"rq:job:{WORK.id}", "created_at", "yesterday")
    arguments = [*worker._taker._args, WORK.id, "moved", *offer.arguments]
    taking._UNLESS_BUSY.run(work_queue.redis, [queue.key, queue.intermediate_queue_key, WORKERS_SUSPENDED], arguments)
    assert queue.started_job_registry.get_job_ids(cleanup=False) == [WORK.id]
    work_queue.redis.delete(work_queue.keys.lock("gw1"))
    assert worker._recovery.take_abandoned() == []
    assert queue.started_job_registry.get_job_ids(cleanup=False) == []
    job = Job.fetch(WORK.id, connection=work_queue.redis, serializer=JSONSerializer)
    assert job.get_status() == JobStatus.FAILED
    result = job.latest_result()
    assert result is not None
    assert "cannot be read" in str(result.exc_string)


@pytest.mark.parametrize("record", [None, json.dumps("no hash")])
def test_a_job_without_a_record_of_ours_is_opened_by_its_worker(
    work_queue: WorkQueue,
    worker: ReclaimWorker,
    looking: Looking,
    monkeypatch: pytest.MonkeyPatch,
    record: str | None,
) -> None:
    with waiting(worker, monkeypatch) as opened:
        with publishing(work_queue) as pipe:
            pipe.delete(work_queue.keys.record(WORK.id))
            if record is not None:
                pipe.set(work_queue.keys.record(WORK.id), record)
        eventually(lambda: opened == [None], "the job to be taken")
        if record is None:
            eventually(lambda: status(work_queue, WORK.id) == JobStatus.FINISHED, "the job to end")
