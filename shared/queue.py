"""The queue: how it is opened, what a job looks like in it, and how work is published.

A job is named after what it works on, so that rq-dashboard shows, counts and requeues what operators think in.
Job functions are named here as text and never imported: only a worker does, after its own allow-list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from shared.errors import InvalidPayloadError, TransientError
from shared.keys import Keys
from shared.models import Work, work_to_dict
from shared.records import Records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.client import Pipeline

    from shared.settings import Settings

JOB_FUNCTION = "workers.jobs.run"
"""The one function a job of ours names."""

FAILURE_SECONDS = 365 * 86400
"""How long RQ keeps a failed job."""


class RedisUnavailableError(TransientError):
    """The Redis server cannot be used as configured."""


def connect(settings: Settings) -> Redis:
    """Open the Redis server of the settings and see that it answers.

    Raises:
        InvalidPayloadError: the URL is none.
        RedisUnavailableError: nothing answers there, or it refuses us.
    """
    try:
        redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_connect_timeout=5,
            health_check_interval=15,
            # A command is not repeated here: after a lost answer only its caller knows whether it may be.
            retry=Retry(ExponentialBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidPayloadError(
            f"EIP_RECLAIMER_REDIS_URL is not valid: {error}. Example: redis://user:password@redis:6379/0"
        ) from None
    place = server_name(redis)
    try:
        redis.ping()
    except AuthenticationError as error:
        raise RedisUnavailableError(
            f"the Redis server at {place} refuses the user or password: {error}. Check EIP_RECLAIMER_REDIS_URL."
        ) from None
    except RedisError as error:
        raise RedisUnavailableError(
            f"no Redis server can be used at {place}: {error}. Start it, or correct EIP_RECLAIMER_REDIS_URL."
        ) from None
    return redis


def server_name(redis: Redis) -> str:
    """Where a connection leads, without user and password."""
    where = redis.connection_pool.connection_kwargs
    return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")


class WorkQueue:
    """Publishes work: record, pending and job in one transaction."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.keys = Keys(settings.key_prefix)
        self.records = Records(redis, self.keys, settings.history_days)
        self.name = settings.queue
        self._settings = settings
        self.queue = self.open(self.name)

    def open(self, name: str) -> Queue:
        """The RQ queue of that name."""
        return Queue(name, connection=self.redis, serializer=JSONSerializer)

    def node_queue(self, node: str) -> str:
        """Name of the queue of the workers on one node."""
        return f"{self.name}@{node}"

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


def describe(work: Work) -> str:
    """One line for people: what, where, whose, why."""
    whose = f"EIP {work.eip}" if work.eip else "no known EIP"
    match work.kind:
        case "release":
            return f"release {', '.join(map(str, work.addresses))} on {work.gateway} ({whose}, {work.reason})"
        case "confirmation":
            return f"confirm {', '.join(map(str, work.addresses))} on {work.gateway} ({whose})"
        case "audit":
            return f"audit {work.gateway} ({whose}, {work.reason})"
