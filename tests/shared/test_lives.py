"""How work stands that has not ended, and what to do about it."""

from __future__ import annotations

import time

import pytest
from rq.job import Job, JobStatus

from shared.failed import FailedJobs
from shared.lives import MEANING, SEEN, Lives
from shared.models import Audit, Outcome, Release, parse_work
from shared.queue import WorkQueue
from tests.failing import fail
from tests.payloads import release

pytestmark = pytest.mark.server


@pytest.fixture
def lives(work_queue: WorkQueue) -> Lives:
    return Lives(work_queue)


def published(work_queue: WorkQueue, *work_ids: str) -> list[Job]:
    for work_id in work_ids:
        work_queue.publish_now([parse_work(release(id=work_id))], "published")
    return [job for work_id in work_ids if (job := work_queue.queue.fetch_job(work_id)) is not None]


def test_queued(lives: Lives, work_queue: WorkQueue) -> None:
    published(work_queue, "release-1", "release-2")
    life = lives.of("release-2")
    assert (life.state, life.says) == ("queued", "number 2 of 2 in queue eip-reclaimer")
    work_queue.redis.lmove(work_queue.queue.key, "elsewhere", "RIGHT", "LEFT")
    assert lives.of("release-2").says == "a worker is just taking it off eip-reclaimer"


def test_running(lives: Lives, work_queue: WorkQueue) -> None:
    (job,) = published(work_queue, "release-1")
    with work_queue.redis.pipeline() as pipe:
        job.prepare_for_execution("w1", pipeline=pipe)
        pipe.execute()
    life = lives.of("release-1")
    assert life.state == "running"
    assert life.says.startswith("worker w1 has it for ")


def test_waiting_for_its_next_try(lives: Lives, work_queue: WorkQueue) -> None:
    (job,) = published(work_queue, "release-1")
    job.set_status(JobStatus.SCHEDULED)
    registry = work_queue.queue.scheduled_job_registry.key
    work_queue.redis.zadd(registry, {"release-1": time.time() + 100})
    life = lives.of("release-1")
    assert life.state == "waiting"
    assert life.says.startswith(("it is due in 100.", "it is due in 99."))
    work_queue.redis.zadd(registry, {"release-1": time.time() - 1})
    assert lives.of("release-1").says == "it is due now"


def test_failed_and_dropped(lives: Lives, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", "no pod")
    life = lives.of("release-1")
    assert (life.state, life.outcome) == ("failed", None)
    assert life.says == "once its cause is mended: eip-reclaimer failed replay release-1"
    FailedJobs(work_queue).drop("release-1", "ops@jump-host")
    life = lives.of("release-1")
    assert (life.state, life.says) == ("dropped", "ops@jump-host dropped it: nobody works on it any more")


def test_jobs_that_are_gone(lives: Lives, work_queue: WorkQueue) -> None:
    published(work_queue, "release-1")
    work_queue.redis.delete("rq:job:release-1")
    assert lives.of("release-1").state == "waiting"
    work_queue.redis.delete(work_queue.keys.pending("gw1"))
    life = lives.of("release-1")
    assert life.state == "lost"
    assert "An audit of the gateway finds what it left" in life.says


def test_a_record_that_cannot_be_read_still_has_a_life(lives: Lives, work_queue: WorkQueue) -> None:
    published(work_queue, "release-1")
    work_queue.redis.hset(work_queue.keys.record("release-1"), "payload", "odd")
    life = lives.of("release-1")
    assert (life.work, life.state) == (None, "queued")
    assert life.description.startswith("payload rejected: ")


def test_there_are_words_for_all_outcomes_and_reasons() -> None:
    assert set(MEANING) == set(Outcome)
    for kind, model in (("release", Release), ("audit", Audit)):
        assert set(SEEN[kind]) == set(model.model_fields["reason"].annotation.__args__)  # type: ignore[union-attr]
