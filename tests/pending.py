"""Work that is pending for its gateway while there is no job for it."""

from __future__ import annotations

from rq.job import Job

from shared.models import Work
from shared.queue import WorkQueue


def leave_pending(work_queue: WorkQueue, work: Work) -> None:
    """Publish the work, and take its job away before anybody sees it."""
    with work_queue.redis.pipeline(transaction=True) as pipe:
        pipe.multi()
        work_queue.publish(pipe, work, "published")
        pipe.lrem(work_queue.queue.key, 0, work.id)
        pipe.delete(Job.key_for(work.id))
        pipe.execute()
