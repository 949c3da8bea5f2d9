"""The queue: what a job looks like in it, and how work is published.

A job is named after what it works on, so that rq-dashboard shows, counts and requeues what operators think in.
Job functions are named here as text and never imported: only a worker does, after its own allow-list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from shared.keys import Keys
from shared.metrics import PUBLISHED
from shared.models import Work, work_to_dict
from shared.records import Records
from shared.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from shared.settings import Settings

JOB_FUNCTION = "workers.jobs.run"
"""The one function a job of ours names."""

FAILURE_SECONDS = 365 * 86400
"""How long RQ keeps a failed job."""


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
        return Job.create(
            JOB_FUNCTION,
            kwargs={"payload": work_to_dict(work)},
            id=work.id,
            connection=self.redis,
            serializer=JSONSerializer,
            description=describe(work),
            timeout=self._settings.job_timeout,
            result_ttl=int(self._settings.history_days * 86400),
            failure_ttl=FAILURE_SECONDS,
            origin=self.name,
        )

    def publish(self, pipe: Pipeline, work: Work, event: str, **details: Any) -> None:
        """Queue into the caller's transaction, after its `multi()`: the record, the pending entry and the job."""
        self.records.open(pipe, work, event, gateway=work.gateway, **details)
        self.add_pending(pipe, work)
        # Whoever waits for an address back is served before whoever waits for one to go.
        self.queue.enqueue_job(self.job(work), pipeline=pipe, at_front=work.kind == "confirmation")

    def add_pending(self, pipe: Pipeline, work: Work) -> None:
        """Let whoever holds the gateway's lock know of the work."""
        pipe.hset(self.keys.pending(work.gateway), work.id, work.model_dump_json())
        pipe.incr(self.keys.pending_generation(work.gateway))
        pipe.sadd(self.keys.pending_gateways, work.gateway)

    def publish_now(self, works: Sequence[Work], event: str, **details: Any) -> None:
        """Publish in a transaction of its own."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.multi()
            for work in works:
                self.publish(pipe, work, event, **details)
            pipe.execute()
        count_published(works)


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
