"""The jobs that failed, in RQ's FailedJobRegistry of each of our queues: what a person asks of them, and does.

They are read as plain data, never as RQ would: whoever can write to Redis can leave a job there that RQ cannot load,
and such a one has to be seen and dropped like any other. A replay is RQ's own requeue, the one that `rq requeue` and
rq-dashboard's button are.
"""

from __future__ import annotations

import binascii
import json
import time
import zlib
from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from shared.errors import ReclaimerError
from shared.queue import FAILURE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rq.registry import FailedJobRegistry

    from shared.queue import WorkQueue

BATCH = 500
"""Jobs asked for in one go."""
MAX_TEXT_BYTES = 1_000_000
"""A traceback is never so long; what unpacks to more was forged."""

_DROP = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
for index = 4, #KEYS do redis.call('DEL', KEYS[index]) end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RPUSH', KEYS[3], ARGV[2]) else redis.call('DEL', KEYS[3]) end
return 1
"""
"""The job goes and its record says so, where it has one; or somebody requeued or dropped it in the same moment, and
nothing is done."""


class NoFailedJobError(ReclaimerError):
    """No failed job has that id, or none any more."""


class NotReplayedError(ReclaimerError):
    """The failed job could not be queued again; it is where it was."""


@dataclass(frozen=True, slots=True)
class FailedJob:
    """One job that waits for a person."""

    id: str
    queue: str
    """The queue it failed on, and is replayed to."""
    failed_at: float
    """Seconds since the epoch."""
    reason: str
    """In one line, with what to do about it."""
    cause: str | None
    """The class of the error, where that tells causes apart."""
    attempts: int | None
    """How often it was tried, where that is known."""
    description: str
    gateway: str | None
    """None where it is about none that we know of."""
    readable: bool
    """Whether RQ can load it as far as is seen here; otherwise it can only be dropped."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which failed jobs are meant; what is None selects all."""

    gateway: str | None = None
    reason: str | None = None
    """Part of the reason, or the class of the error; upper and lower case are the same."""
    older_than: float | None = None
    newer_than: float | None = None
    """Seconds since it failed."""

    def matches(self, job: FailedJob, now: float) -> bool:
        """Whether a job is meant; `now` in seconds since the epoch."""
        age = now - job.failed_at
        wanted = (self.reason or "").casefold()
        return (
            (self.gateway is None or job.gateway == self.gateway)
            and (wanted in job.reason.casefold() or wanted == (job.cause or "").casefold())
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
        )


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs of one cause."""

    cause: str | None
    """As in `FailedJob`."""
    reason: str
    """That of the job that failed last."""
    count: int
    oldest: float
    newest: float
    """When they failed, seconds since the epoch."""
    gateways: tuple[str, ...]


class FailedJobs:
    """Finds, replays and drops failed jobs."""

    def __init__(self, work_queue: WorkQueue) -> None:
        self._work_queue = work_queue
        self._redis = work_queue.redis
        self._drop = work_queue.redis.register_script(_DROP)

    def count(self) -> int:
        """How many there are, on all queues."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in self._work_queue.names():
                pipe.zcard(self._registry(name).key)
            return sum(pipe.execute())

    def all(self, selection: Selection | None = None) -> list[FailedJob]:
        """Those that are meant, the one that failed last at the end."""
        now = time.time()
        found = []
        for name in self._work_queue.names():
            entries: list[tuple[bytes, float]] = self._redis.zrange(self._registry(name).key, 0, -1, withscores=True)  # type: ignore[assignment]
            for start in range(0, len(entries), BATCH):
                found += self._read(name, entries[start : start + BATCH])
        meant = [job for job in found if selection is None or selection.matches(job, now)]
        return sorted(meant, key=lambda job: (job.failed_at, job.id))

    def of(self, job_id: str) -> FailedJob:
        """One failed job.

        Raises:
            NoFailedJobError: there is none of that id; says what became of it.
        """
        for name in self._work_queue.names():
            score: float | None = self._redis.zscore(self._registry(name).key, _raw(job_id))
            if score is not None:
                return self._read(name, [(_raw(job_id), score)])[0]
        raise NoFailedJobError(self._why_not(job_id))

    def explanation(self, job_id: str) -> str:
        """All that was noted when the job failed, a traceback where there is one; empty when nothing was."""
        try:
            return _explanation(self._redis.xrevrange(_results_key(job_id), count=1))
        except RedisError:
            return ""

    def replay(self, job_id: str, by: str) -> None:
        """Queue a failed job again, as `rq requeue` does; its trace tells who did.

        Args:
            job_id: the job.
            by: who replays it, for people.

        Raises:
            NoFailedJobError: there is none of that id.
            NotReplayedError: it is there, and RQ cannot queue it.
        """
        failed = self.of(job_id)
        if not failed.readable:
            raise NotReplayedError(f"{job_id}: {failed.reason}. Drop it: eip-reclaimer failed drop {job_id}")
        registry = self._registry(failed.queue)
        # Before it is queued: a worker may be done with it at once, and what is done is not written to any more.
        self._trace(job_id, "replayed", by=by)
        try:
            self._requeue(registry, failed)
        except ReclaimerError as error:
            self._trace(job_id, "not replayed", why=str(error))
            raise

    def drop(self, job_id: str, by: str) -> None:
        """Forget a failed job for good; what is recorded of it stays, and tells who did.

        Args:
            job_id: the job.
            by: who drops it, for people.

        Raises:
            NoFailedJobError: there is none of that id.
        """
        failed = self.of(job_id)
        keys = self._work_queue.keys
        jobs_own = (
            _raw(Job.key_for(job_id)),
            _results_key(job_id),
            _raw(ExecutionRegistry.key_template.format(job_id)),
            _raw(Job.dependents_key_for(job_id)),
        )
        event = json.dumps({"at": time.time(), "event": "dropped", "by": by, "reason": failed.reason})
        dropped = self._drop(
            keys=[
                self._registry(failed.queue).key,
                _raw(keys.record(job_id)),
                _raw(keys.trace(job_id)),
                *jobs_own,
            ],
            args=[_raw(job_id), event],
        )
        if not dropped:
            raise NoFailedJobError(self._why_not(job_id))

    def _requeue(self, registry: FailedJobRegistry, failed: FailedJob) -> None:
        try:
            job = Job.fetch(failed.id, connection=self._redis, serializer=JSONSerializer)
            # Whatever its record says: it is replayed where it was found.
            job.origin = failed.queue
            registry.requeue(job)
        except InvalidJobOperation:
            raise NoFailedJobError(self._why_not(failed.id)) from None
        except NoSuchJobError:
            raise NotReplayedError(
                f"{failed.id}: its data is gone from Redis. Drop it: eip-reclaimer failed drop {failed.id}"
            ) from None
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except Exception as error:  # whatever a forged hash, or a key of another type, makes RQ raise
            # RQ may have taken it out of the registry before.
            self._redis.zadd(registry.key, {_raw(failed.id): failed.failed_at + FAILURE_SECONDS}, nx=True)
            raise NotReplayedError(
                f"{failed.id}: RQ cannot queue it ({type(error).__name__}: {error}). "
                f"Drop it: eip-reclaimer failed drop {failed.id}"
            ) from None

    def _trace(self, job_id: str, event: str, **details: str) -> None:
        """Tell it in the job's life, where it has one: a forged job is none of ours."""
        if self._redis.exists(_raw(self._work_queue.keys.record(job_id))):
            self._work_queue.records.tell(event, {job_id: details})

    def _why_not(self, job_id: str) -> str:
        """What is true of a job that is not failed."""
        try:
            status: bytes | None = self._redis.hget(_raw(Job.key_for(job_id)), "status")  # type: ignore[assignment]
        except RedisError:
            status = None
        if status is not None:
            return f"{job_id} is not failed, it is {status.decode(errors='replace')}: eip-reclaimer trace {job_id}"
        return f"no failed job has the id {job_id}: eip-reclaimer failed list"

    def _registry(self, name: str) -> FailedJobRegistry:
        registry: FailedJobRegistry = self._work_queue.open(name).failed_job_registry
        return registry

    def _read(self, queue: str, entries: list[tuple[bytes, float]]) -> list[FailedJob]:
        with self._redis.pipeline(transaction=False) as pipe:
            for raw, _ in entries:
                job_id = _text(raw)
                pipe.hmget(_raw(Job.key_for(job_id)), "description", "ended_at", "meta", "data")
                pipe.xrevrange(_results_key(job_id), count=1)
                pipe.hget(_raw(self._work_queue.keys.record(job_id)), "gateway")
            # A forged job's keys may be of any type.
            answers = pipe.execute(raise_on_error=False)
        parts = zip(entries, answers[::3], answers[1::3], answers[2::3], strict=True)
        return [
            _failed_job(queue, _text(raw), score, stored, results, gateway)
            for (raw, score), stored, results, gateway in parts
        ]


def grouped(jobs: Iterable[FailedJob]) -> list[FailureGroup]:
    """Failed jobs by their cause, the commonest first."""
    by_cause: dict[str, list[FailedJob]] = {}
    for job in jobs:
        by_cause.setdefault(job.cause or job.reason, []).append(job)
    groups = [
        FailureGroup(
            cause=same[-1].cause,
            reason=max(same, key=lambda job: job.failed_at).reason,
            count=len(same),
            oldest=min(job.failed_at for job in same),
            newest=max(job.failed_at for job in same),
            gateways=tuple(sorted({job.gateway for job in same if job.gateway})),
        )
        for same in by_cause.values()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.reason))


def _failed_job(queue: str, job_id: str, score: float, stored: Any, results: Any, gateway: Any) -> FailedJob:
    """A failed job from what Redis answered, each an exception where a key is of another type."""
    description, ended_at, packed_meta, data = stored if isinstance(stored, list) else (None,) * 4
    meta = _json(packed_meta)
    meta = meta if isinstance(meta, dict) else {}
    explanation = "" if isinstance(results, Exception) else _explanation(results)
    last_error = meta.get("last_error")
    reason = _headline(explanation) or (last_error if isinstance(last_error, str) else "")
    if data is None:
        reason = "the job's data is gone from Redis, or is none" + (f"; it had failed with: {reason}" if reason else "")
    cause, attempts = meta.get("cause"), meta.get("attempts_made")
    return FailedJob(
        id=job_id,
        queue=queue,
        failed_at=_failed_at(results, ended_at, score),
        reason=reason or "no reason was noted",
        cause=cause if isinstance(cause, str) else None,
        attempts=attempts if isinstance(attempts, int) else None,
        description=_text(description) if description else "",
        gateway=_text(gateway) if isinstance(gateway, bytes) else None,
        readable=data is not None,
    )


def _explanation(results: Any) -> str:
    """The text of the last of a job's results; empty where it has none that can be read."""
    try:
        packed = results[0][1][b"exc_string"]
        return zlib.decompressobj().decompress(b64decode(packed), MAX_TEXT_BYTES).decode(errors="replace")
    except (LookupError, TypeError, zlib.error, binascii.Error):
        return ""


def _headline(explanation: str) -> str:
    """The line of it that says why: ours is the first, that of a bare traceback is the last."""
    lines = [line for line in explanation.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _failed_at(results: Any, ended_at: Any, score: float) -> float:
    """When it failed; where that cannot be read, from when RQ will forget it."""
    try:
        return int(results[0][0].split(b"-")[0]) / 1000
    except (LookupError, TypeError, ValueError, AttributeError):
        pass
    try:
        return datetime.fromisoformat(ended_at.decode()).timestamp()
    except (TypeError, ValueError, AttributeError):
        return min(max(score - FAILURE_SECONDS, 0), time.time())


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _text(raw: bytes) -> str:
    """Bytes of Redis as text that can be turned back, whatever they are."""
    return raw.decode(errors="surrogateescape")


def _results_key(job_id: str) -> bytes:
    return _raw(Result.get_key(job_id))  # type: ignore[no-untyped-call]


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
