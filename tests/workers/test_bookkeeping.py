"""What is noted of a job that starts and that ends well is what RQ itself would note, key for key."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.utils import now
from rq.worker import WorkerStatus

from shared.models import parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.payloads import release
from tests.rq_keys import Stored, stored
from workers import bookkeeping
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server
TTL, KEPT, TIMEOUT = 45, 600, 40


class Bookkeeper:
    """Starts and finishes one job, as RQ or as we do."""

    def __init__(self, work_queue: WorkQueue, settings: Settings) -> None:
        self.redis = work_queue.redis
        self.worker = ReclaimWorker(work_queue, None, settings, "w1", threading.Event())  # type: ignore[arg-type]
        work_queue.publish_now([parse_work(release())], "published")
        with self.redis.pipeline() as pipe:
            taken = self.worker._taker.take(pipe)
        assert taken is not None
        self.job: Job = taken[0]
        self.job.timeout, self.job.result_ttl, self.job._result = TIMEOUT, KEPT, "reclaimed"

    def start(self) -> Execution:
        with self.redis.pipeline(transaction=True) as pipe:
            execution = self._start(pipe)
            pipe.execute()
        self.job.ended_at = now()
        return execution

    def finish(self, execution: Execution) -> None:
        with self.redis.pipeline(transaction=True) as pipe:
            self._finish(pipe, execution)
            pipe.execute()

    def _start(self, pipe: Pipeline) -> Execution:
        return bookkeeping.start(pipe, self.job, self.worker, TTL)

    def _finish(self, pipe: Pipeline, execution: Execution) -> None:
        bookkeeping.finish(pipe, self.job, execution, self.worker)

    def stored(self) -> Stored:
        return stored(self.redis)


class RqsOwn(Bookkeeper):
    """The same by RQ's own functions."""

    def _start(self, pipe: Pipeline) -> Execution:
        worker, job = self.worker, self.job
        execution = Execution.create(job, TTL, pipeline=pipe, worker_name=worker.name)
        worker.executions[execution.id] = execution
        worker.set_state(WorkerStatus.BUSY, pipeline=pipe)
        worker.heartbeat(TTL, pipeline=pipe)
        job.prepare_for_execution(worker.name, pipeline=pipe)
        pipe.persist(job.key)
        pipe.lrem(f"rq:queue:{job.origin}:intermediate", 1, job.id)
        return execution

    def _finish(self, pipe: Pipeline, execution: Execution) -> None:
        worker, job = self.worker, self.job
        assert job.started_at
        assert job.ended_at
        worker.increment_successful_job_count(pipe)
        worker.increment_total_working_time(job.ended_at - job.started_at, pipe)
        job._handle_success(
            KEPT,
            pipeline=pipe,
            worker_name=worker.name,
            execution_id=execution.id,
            execution_started_at=execution.created_at,
            execution_ended_at=job.ended_at,
        )
        job.cleanup(KEPT, pipeline=pipe, remove_from_queue=False)
        worker.cleanup_execution(job, pipeline=pipe, execution=execution)


@pytest.fixture
def both(
    work_queue: WorkQueue, settings: Settings
) -> Callable[[Callable[[Bookkeeper], object]], tuple[Stored, Stored]]:
    """What is stored after something was done as RQ does it, and after it was done as we do."""

    def do(what: Callable[[Bookkeeper], object]) -> tuple[Stored, Stored]:
        found = []
        for kind in (RqsOwn, Bookkeeper):
            work_queue.redis.flushdb()
            keeper = kind(work_queue, settings)
            what(keeper)
            found.append(keeper.stored())
        return found[0], found[1]

    return do


def test_a_job_that_starts(both: Callable[[Callable[[Bookkeeper], object]], tuple[Stored, Stored]]) -> None:
    theirs, ours = both(Bookkeeper.start)
    assert "rq:wip:eip-reclaimer" in theirs
    assert ours == theirs


@pytest.mark.parametrize("another", [False, True])
def test_a_job_that_ends_well(
    both: Callable[[Callable[[Bookkeeper], object]], tuple[Stored, Stored]], another: bool
) -> None:
    def start_and_finish(keeper: Bookkeeper) -> None:
        execution = keeper.start()
        if another:
            # The worker has another job in hand.
            keeper.worker.executions["another"] = execution
        keeper.finish(execution)

    theirs, ours = both(start_and_finish)
    assert "rq:finished:eip-reclaimer" in theirs
    state = theirs["rq:worker:w1"][0][b"state"]
    assert state == ("busy" if another else "idle")
    assert ours == theirs


def test_the_worker_and_its_job_know_it_too(work_queue: WorkQueue, settings: Settings) -> None:
    keeper = Bookkeeper(work_queue, settings)
    execution = keeper.start()
    assert keeper.worker.executions == {execution.id: execution}
    assert (keeper.worker.get_state(), keeper.job.worker_name) == (WorkerStatus.BUSY, "w1")
    assert keeper.job.get_status(refresh=False) == JobStatus.STARTED
    keeper.finish(execution)
    assert keeper.worker.executions == {}
    assert keeper.worker.get_state() == WorkerStatus.IDLE
    assert keeper.job.get_status(refresh=False) == JobStatus.FINISHED
    assert keeper.job.return_value() == "reclaimed"
