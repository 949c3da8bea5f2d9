"""The queue as workers take jobs from it: RQ's, where it would lose a job or a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text

from shared.log import get_logger
from shared.metrics import JOBS_FAILED

log = get_logger(__name__)


class UnbreakableQueue(Queue):
    """A queue that loses no job with a worker that dies, and on which one that cannot even be read fails by itself."""

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Redis | None = None) -> Any:
        """Take the next job off one of several queues, by way of its intermediate queue as RQ does where there is one.

        RQ would have the job in this process's memory alone until it is started.
        """
        assert connection is not None
        for queue_key in queue_keys:
            taken = connection.lmove(queue_key, IntermediateQueue(queue_key, connection).key)
            if taken is not None:
                return queue_key, taken
        if timeout is None:
            return None
        found: Any = connection.blpop(list(queue_keys), timeout)
        if found is None:
            raise DequeueTimeout(timeout, queue_keys)
        queue_key, job_id = as_text(found[0]), found[1]
        connection.rpush(IntermediateQueue(queue_key, connection).key, job_id)
        return queue_key, job_id

    @classmethod
    def _fetch_dequeued_job(  # type: ignore[override]
        cls, connection: Any, queue_key: str, job_id: str, **kwargs: Any
    ) -> Any:
        try:
            return super()._fetch_dequeued_job(connection, queue_key, job_id, **kwargs)
        except RedisError:
            raise
        except Exception as error:  # whatever a forged hash makes RQ raise
            reason = f"the job's record in Redis cannot be read ({type(error).__name__}: {error}); drop it"
            log.error("job rejected", work=job_id, reason=reason)
            JOBS_FAILED.inc()
            queue = cls.from_queue_key(queue_key, connection=connection, serializer=JSONSerializer)
            with connection.pipeline() as pipe:
                pipe.delete(Job.key_for(job_id))
                stand_in = Job.create(
                    "unreadable", id=job_id, connection=connection, serializer=JSONSerializer, origin=queue.name
                )
                stand_in.save(pipeline=pipe)
                stand_in.set_status(JobStatus.FAILED, pipeline=pipe)
                stand_in._handle_failure(reason, pipe)  # RQ has no public way to fail a job unrun
                pipe.lrem(queue.intermediate_queue_key, 1, job_id)
                pipe.execute()
            return None
