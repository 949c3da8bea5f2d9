"""The queue as workers read jobs from it: RQ's, except that a job which cannot even be read fails by itself."""

from __future__ import annotations

from typing import Any

from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.log import get_logger
from shared.metrics import JOBS_FAILED
from shared.queue import use_json

log = get_logger(__name__)


class UnbreakableQueue(Queue):
    """A queue on which no job breaks the worker that took it."""

    def read(self, job_id: str, stored: dict[bytes, bytes], job_class: type[Job]) -> tuple[Any, Queue] | None:
        """A job that was taken; None, after failing it, for one that cannot be read, and for one that is gone.

        Args:
            job_id: the job.
            stored: what Redis has of it.
            job_class: what it is read as.
        """
        if not stored:
            self.intermediate_queue.remove(job_id)
            return None
        try:
            job = job_class(job_id, connection=self.connection)
            use_json(job)
            job.restore(stored)
        except Exception as error:  # whatever a forged hash makes RQ raise
            reason = f"the job's record in Redis cannot be read ({type(error).__name__}: {error}); drop it"
            log.error("job rejected", work=job_id, reason=reason)
            JOBS_FAILED.inc()
            with self.connection.pipeline() as pipe:
                pipe.delete(Job.key_for(job_id))
                stand_in = Job.create(
                    "unreadable", id=job_id, connection=self.connection, serializer=JSONSerializer, origin=self.name
                )
                stand_in.save(pipeline=pipe)
                stand_in.set_status(JobStatus.FAILED, pipeline=pipe)
                stand_in._handle_failure(reason, pipe)  # RQ has no public way to fail a job unrun
                pipe.lrem(self.intermediate_queue_key, 1, job_id)
                pipe.execute()
            return None
        return job, self
