"""Jobs that failed, as workers leave them, for tests of what a person does about them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from shared.models import parse_work
from tests.payloads import release

if TYPE_CHECKING:
    from shared.queue import WorkQueue


def fail(
    work_queue: WorkQueue,
    work_id: str,
    reason: str,
    *,
    cause: str | None = None,
    gateway: str = "gw1",
    age: float = 0,
    queue: str | None = None,
) -> Job:
    """Publish a release, and fail its job so many seconds ago."""
    work = parse_work(release(id=work_id, uid=work_id, gateway=gateway))
    work_queue.publish_now([work], "published")
    job = work_queue.queue.fetch_job(work_id)
    assert job is not None
    work_queue.queue.remove(job)
    return fail_job(work_queue, job, reason, meta={"cause": cause, "attempts_made": 3}, age=age, queue=queue)


def fail_job(
    work_queue: WorkQueue,
    job: Job,
    reason: str,
    *,
    meta: dict[str, Any] | None = None,
    age: float = 0,
    queue: str | None = None,
) -> Job:
    """Fail a job that nobody has, as a worker does."""
    at = work_queue.open(queue or work_queue.name)
    job.origin = at.name
    job.meta = {"last_error": reason, **(meta or {})}
    with work_queue.redis.pipeline(transaction=True) as pipe:
        pipe.sadd(at.redis_queues_keys, at.key)
        job.save(pipeline=pipe)
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        job._handle_failure(f"{reason}\n\nTraceback (most recent call last):\n  …", pipe)
        pipe.hdel(work_queue.keys.pending("gw1"), job.id)
        if age:
            key = Result.get_key(job.id)  # type: ignore[no-untyped-call]
            pipe.delete(key)
            stored: Any = Result(
                job.id, Result.Type.FAILED, work_queue.redis, exc_string=reason, serializer=JSONSerializer
            )
            pipe.xadd(key, stored.serialize(), id=f"{int((time.time() - age) * 1000)}-1")
        pipe.execute()
    return job
