"""A job whose work another took over ends with it, as RQ would end it."""

from __future__ import annotations

import time

import pytest
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.models import Outcome, parse_work
from shared.queue import WorkQueue
from tests.payloads import release
from workers.ending import end_job

pytestmark = pytest.mark.server
KEPT = 7 * 86400


@pytest.fixture
def job(work_queue: WorkQueue) -> Job:
    work_queue.publish_now([parse_work(release()), parse_work(release(id="release-u2"))], "published")
    found = work_queue.queue.fetch_job("release-u1")
    assert found is not None
    return found


def end(work_queue: WorkQueue) -> bool:
    with work_queue.redis.pipeline(transaction=True) as pipe:
        end_job(pipe, "release-u1", Outcome.RECLAIMED, worker="w1", keep_seconds=KEPT)
        return bool(pipe.execute()[-1])


def expect_finished(work_queue: WorkQueue) -> None:
    job = Job.fetch("release-u1", connection=work_queue.redis, serializer=JSONSerializer)
    assert job.get_status() == JobStatus.FINISHED
    assert job.worker_name == "w1"
    assert job.ended_at is not None
    assert abs(job.ended_at.timestamp() - time.time()) < 10
    assert job.return_value() == "reclaimed"
    result = job.latest_result()
    assert result is not None
    assert (result.type, result.worker_name) == (result.Type.SUCCESSFUL, "w1")
    assert work_queue.queue.finished_job_registry.get_job_ids() == ["release-u1"]
    for key in (job.key, f"rq:results:{job.id}"):
        assert 0 < work_queue.redis.ttl(key) <= KEPT


def test_one_that_waits_in_its_queue_is_finished(work_queue: WorkQueue, job: Job) -> None:
    assert end(work_queue)
    expect_finished(work_queue)
    assert work_queue.queue.get_job_ids() == ["release-u2"]


def test_one_that_waits_for_its_time_is_finished(work_queue: WorkQueue, job: Job) -> None:
    registry = work_queue.queue.scheduled_job_registry
    work_queue.queue.remove(job)
    job.set_status(JobStatus.SCHEDULED)
    work_queue.redis.zadd(registry.key, {job.id: time.time() + 60})
    assert end(work_queue)
    expect_finished(work_queue)
    assert registry.get_job_ids() == []


def test_one_that_a_worker_has_just_taken_is_left_to_it(work_queue: WorkQueue, job: Job) -> None:
    work_queue.redis.lmove(work_queue.queue.key, work_queue.queue.intermediate_queue_key)
    assert not end(work_queue)
    assert job.get_status() == JobStatus.QUEUED
    assert work_queue.queue.finished_job_registry.get_job_ids() == []


@pytest.mark.parametrize("status", [JobStatus.STARTED, JobStatus.FAILED, JobStatus.FINISHED])
def test_one_that_neither_waits_nor_is_queued_stays_as_it_is(
    work_queue: WorkQueue, job: Job, status: JobStatus
) -> None:
    job.set_status(status)
    assert not end(work_queue)
    assert job.get_status() == status


def test_one_that_is_gone_stays_gone(work_queue: WorkQueue, job: Job) -> None:
    work_queue.redis.delete(job.key)
    assert not end(work_queue)
    assert not work_queue.redis.exists(job.key)
