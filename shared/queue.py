"""The queue: what a job looks like in it, and how work is published.

A job is named after what it works on, so that rq-dashboard shows, counts and requeues what operators think in.
Job functions are named here as text and never imported: only a worker does, after its own allow-list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.keys import Keys
from shared.metrics import PUBLISHED
from shared.models import Work, work_to_dict
from shared.records import Records
from shared.reports import Reports
from shared.scripts import TRY, Script

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from shared.settings import Settings

JOB_FUNCTION = "workers.jobs.run"
"""The one function a job of ours names."""

FAILURE_SECONDS = 365 * 86400
"""How long RQ keeps a failed job."""


_ENQUEUE = Script(
    TRY
    + """
local queues, queue, job, pending, generation = unpack(KEYS)
local work, payload, push = unpack(ARGV)
try(redis.call, 'HSET', pending, work, payload)
try(redis.call, 'INCRBY', generation, 1)
try(redis.call, 'SADD', queues, queue)
try(redis.call, 'HSET', job, unpack(ARGV, 4))
try(redis.call, push, queue, work)
return failure
"""
)
"""Whoever holds the gateway's lock is let know of the work, and it gets a job as RQ enqueues one."""


class WorkQueue:
    """Publishes work: record, pending and job in one transaction."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.keys = Keys(settings.key_prefix)
        self.records = Records(redis, self.keys, settings.history_days)
        self.reports = Reports(redis, self.keys)
        self.name = settings.queue
        self._settings = settings
        self.queue = self.open(self.name)

    def open(self, name: str) -> Queue:
        """The RQ queue of that name."""
        return Queue(name, connection=self.redis, serializer=JSONSerializer)

    def node_queue(self, node: str) -> str:
        """Name of the queue of the workers on one node."""
        return f"{self.name}@{node}"

    def names(self) -> list[str]:
        """Names of all our queues that ever had a job: the general one, then those of nodes."""
        prefix = Queue.redis_queue_namespace_prefix + self.node_queue("")
        stored: set[bytes] = self.redis.smembers(Queue.redis_queues_keys)  # type: ignore[assignment]
        keys = [key.decode(errors="replace") for key in stored]
        return [self.name, *sorted(self.node_queue(key[len(prefix) :]) for key in keys if key.startswith(prefix))]

    def job(self, work: Work) -> Job:
        """The RQ job that carries a piece of work."""
        job = Job.create(
            JOB_FUNCTION,
            kwargs={"payload": work_to_dict(work)},
            id=work.id,
            connection=self.redis,
            description=describe(work),
            timeout=self._settings.job_timeout,
            result_ttl=int(self._settings.history_days * 86400),
            failure_ttl=FAILURE_SECONDS,
            origin=self.name,
            status=JobStatus.QUEUED,
        )
        use_json(job)
        job.enqueued_at = job.created_at
        return job

    def publish(self, pipe: Pipeline, work: Work, event: str, **details: Any) -> None:
        """Queue into the caller's transaction, after its `multi()`: the record, the pending entry and the job."""
        self.records.open(pipe, work, event, gateway=work.gateway, **details)
        job, keys, gateway = self.job(work), self.keys, work.gateway
        theirs = [Queue.redis_queues_keys, self.queue.key, job.key]
        ours = [keys.pending(gateway), keys.pending_generation(gateway)]
        # Whoever waits for an address back is served before whoever waits for one to go.
        push = "LPUSH" if work.kind == "confirmation" else "RPUSH"
        fields = [told for field in job.to_dict().items() for told in field]
        _ENQUEUE.join(pipe, [*theirs, *ours], [work.id, work.model_dump_json(), push, *fields])
        # No script: a server that takes no writes refuses the transaction for it, before any of it is done.
        pipe.sadd(keys.pending_gateways, gateway)

    def publish_now(self, works: Sequence[Work], event: str, **details: Any) -> None:
        """Publish in a transaction of its own."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            for work in works:
                self.publish(pipe, work, event, **details)
            pipe.execute()
        count_published(works)


def use_json(job: Job) -> None:
    """Let the job be written and read as JSON. RQ's constructor takes a serializer too, and takes long to check it."""
    job.serializer = JSONSerializer


def count_published(works: Iterable[Work]) -> None:
    """Count work whose publishing was committed."""
    for work in works:
        PUBLISHED.labels(work.kind).inc()


def describe(work: Work) -> str:
    """One line for people: what, where, whose, why."""
    whose = f"EIP {work.eip}" if work.eip else "no known EIP"
    match work.kind:
        case "release":
            return f"release {', '.join(map(str, work.addresses))} on {work.gateway} ({whose}, {work.reason})"
        case "confirmation":
            return f"confirm {', '.join(map(str, work.addresses))} on {work.gateway} ({whose})"
        case "audit":
            return f"audit {work.gateway} ({f'{whose}, ' if work.eip else ''}{work.reason})"
