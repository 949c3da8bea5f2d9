"""Jobs get going again: what is due, what a dead worker had, what was lost on the way."""

from __future__ import annotations

import time

import pytest
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.models import Outcome, parse_work
from shared.queue import WorkQueue
from tests.payloads import release
from tests.pending import leave_pending
from workers import recovery
from workers.jobs import ReclaimJob
from workers.lock import GatewayLock
from workers.recovery import Recovery
from workers.unbreakable import UnbreakableQueue

pytestmark = pytest.mark.server


@pytest.fixture
def recoveries(work_queue: WorkQueue) -> Recovery:
    queue = UnbreakableQueue(
        work_queue.name, connection=work_queue.redis, serializer=JSONSerializer, job_class=ReclaimJob
    )
    return Recovery(work_queue.redis, work_queue, [queue])


def published(work_queue: WorkQueue, work_id: str = "release-u1") -> Job:
    work_queue.publish_now([parse_work(release(id=work_id))], "published")
    job = work_queue.queue.fetch_job(work_id)
    assert job is not None
    return job


def taken_off(work_queue: WorkQueue, job: Job) -> None:
    """As RQ takes a job off the queue: it is in between until a worker starts it."""
    work_queue.redis.lmove(work_queue.queue.key, work_queue.queue.intermediate_queue_key, "LEFT", "RIGHT")
    assert work_queue.queue.intermediate_queue.get_job_ids() == [job.id]


def scheduled(work_queue: WorkQueue, work_id: str, at: float) -> None:
    job = published(work_queue, work_id)
    work_queue.queue.remove(job)
    job.set_status(JobStatus.SCHEDULED)
    work_queue.redis.zadd(work_queue.queue.scheduled_job_registry.key, {job.id: at})


def test_what_is_due_is_queued_and_the_rest_is_not(work_queue: WorkQueue, recoveries: Recovery) -> None:
    now = time.time()
    scheduled(work_queue, "release-2", now - 1)
    scheduled(work_queue, "release-1", now - 2)
    scheduled(work_queue, "release-3", now + 60)
    assert recoveries.promote_due() == 2
    assert work_queue.queue.get_job_ids() == ["release-1", "release-2"]
    assert work_queue.queue.scheduled_job_registry.get_job_ids() == ["release-3"]
    job = work_queue.queue.fetch_job("release-1")
    assert job is not None
    assert job.get_status() == JobStatus.QUEUED
    assert job.enqueued_at is not None
    assert recoveries.promote_due() == 0


def test_a_job_that_somebody_dropped_is_not_queued(work_queue: WorkQueue, recoveries: Recovery) -> None:
    scheduled(work_queue, "release-1", time.time() - 1)
    work_queue.redis.delete("rq:job:release-1")
    recoveries.promote_due()
    assert work_queue.queue.get_job_ids() == []
    assert work_queue.queue.scheduled_job_registry.get_job_ids() == []


def test_a_job_that_no_worker_started_is_queued_again(
    work_queue: WorkQueue, recoveries: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "STRANDED_SECONDS", 0.1)
    taken_off(work_queue, published(work_queue))
    recoveries.requeue_stranded()
    assert work_queue.queue.get_job_ids() == []
    time.sleep(0.15)
    recoveries.requeue_stranded()
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    assert work_queue.queue.intermediate_queue.get_job_ids() == []


def test_a_job_that_is_gone_is_not_queued_again(
    work_queue: WorkQueue, recoveries: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "STRANDED_SECONDS", 0)
    taken_off(work_queue, published(work_queue))
    work_queue.redis.delete("rq:job:release-u1")
    recoveries.requeue_stranded()
    recoveries.requeue_stranded()
    assert work_queue.queue.get_job_ids() == []
    assert work_queue.queue.intermediate_queue.get_job_ids() == []


def test_a_job_that_was_started_is_left_to_its_worker(
    work_queue: WorkQueue, recoveries: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "STRANDED_SECONDS", 0)
    job = published(work_queue)
    taken_off(work_queue, job)
    start(work_queue, job, 60)
    recoveries.requeue_stranded()
    recoveries.requeue_stranded()
    assert work_queue.queue.get_job_ids() == []
    assert recoveries.take_abandoned() == []


def start(work_queue: WorkQueue, job: Job, seconds: float) -> None:
    """As a worker does that says for so long that it lives."""
    job.set_status(JobStatus.STARTED)
    job.save()
    with work_queue.redis.pipeline() as pipe:
        execution = Execution.create(job, 60, pipeline=pipe)
        pipe.zadd(work_queue.queue.started_job_registry.key, {execution.composite_key: time.time() + seconds})
        pipe.execute()


def test_a_job_whose_worker_died_is_taken_once(work_queue: WorkQueue, recoveries: Recovery) -> None:
    job = published(work_queue)
    work_queue.queue.remove(job)
    start(work_queue, job, -1)
    assert [taken.id for taken in recoveries.take_abandoned()] == ["release-u1"]
    assert recoveries.take_abandoned() == []


def test_a_job_whose_gateway_nobody_has_locked_for_a_while_is_taken(
    work_queue: WorkQueue, recoveries: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "LOCKLESS_SECONDS", 0.1)
    job = published(work_queue)
    work_queue.queue.remove(job)
    start(work_queue, job, 60)
    lock = GatewayLock.try_acquire(work_queue.redis, work_queue.keys, "gw1", 30)
    assert lock is not None
    assert recoveries.take_abandoned() == []
    time.sleep(0.15)
    assert recoveries.take_abandoned() == []
    lock.release()
    # For a moment, every job is without.
    assert recoveries.take_abandoned() == []
    assert GatewayLock.try_acquire(work_queue.redis, work_queue.keys, "gw1", 0.05) is not None
    assert recoveries.take_abandoned() == []
    time.sleep(0.15)
    assert recoveries.take_abandoned() == []
    time.sleep(0.15)
    assert [taken.id for taken in recoveries.take_abandoned()] == ["release-u1"]
    assert recoveries.take_abandoned() == []


def test_pending_work_whose_job_was_lost_is_published_again(work_queue: WorkQueue, recoveries: Recovery) -> None:
    published(work_queue)
    work_queue.redis.delete("rq:job:release-u1", work_queue.queue.key)
    recoveries.requeue_orphans()
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    assert work_queue.records.events("release-u1")[-1]["event"] == "published again"


def test_a_job_that_is_in_no_list_is_queued_again(
    work_queue: WorkQueue, recoveries: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(work_queue)
    work_queue.redis.delete(work_queue.queue.key)
    recoveries.requeue_orphans()
    assert work_queue.queue.get_job_ids() == []
    monkeypatch.setattr(recovery, "ORPHANED_SECONDS", 0)
    recoveries.requeue_orphans()
    recoveries.requeue_orphans()
    assert work_queue.queue.get_job_ids() == ["release-u1"]


def test_pending_work_that_is_done_or_unreadable_is_forgotten(work_queue: WorkQueue, recoveries: Recovery) -> None:
    keys, redis = work_queue.keys, work_queue.redis
    work = parse_work(release())
    leave_pending(work_queue, work)
    with redis.pipeline() as pipe:
        work_queue.records.close(pipe, work, Outcome.RECLAIMED)
        pipe.hset(keys.pending("gw1"), "odd", "no json")
        pipe.execute()
    recoveries.requeue_orphans()
    assert not redis.exists(keys.pending("gw1"))
    assert not redis.sismember(keys.pending_gateways, "gw1")
    assert work_queue.queue.get_job_ids() == []


def test_jobs_are_read_without_unpickling(work_queue: WorkQueue, recoveries: Recovery) -> None:
    published(work_queue)
    work_queue.redis.hset("rq:job:release-u1", "data", b"\x80\x04\x95")
    recoveries.requeue_orphans()
    assert Job.fetch("release-u1", connection=work_queue.redis, serializer=JSONSerializer).id == "release-u1"
