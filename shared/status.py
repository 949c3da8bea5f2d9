"""How things are, read from Redis in a few round trips: for the status, the metrics and the dashboard.

Whatever is missing is told as missing: an empty Redis has a status too.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.job import Job
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared.brake import Brake, BrakeState
from shared.failed import FailedJobs, FailureGroup, grouped
from shared.reports import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.client import Pipeline

    from shared.queue import WorkQueue
    from shared.settings import Settings

PRODUCER_LATE_SECONDS = 15.0
"""A producer that lives commits every two seconds, seen or unseen, as long as Redis takes it."""
IDLE_WORKER_LATE_SECONDS = 15.0
"""A worker that waits for a job says every second that it lives."""
BUSY_WORKER_GRACE_SECONDS = 15.0
"""A worker with a job says so at its start, and has ended it within EIP_RECLAIMER_JOB_TIMEOUT."""
API_SILENT_SECONDS = 600.0
"""The API sends a bookmark each minute or so, and a watch ends after EIP_RECLAIMER_WATCH_TIMEOUT."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue of jobs; times are seconds since the epoch."""

    name: str
    node: str | None
    """Of a node's own queue; None for the general one."""
    queued: int
    running: int
    scheduled: int
    """Retries, and jobs that are looked at again later."""
    next_due: float | None
    """When the first of those is due; None where there is none."""
    failed: int


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker has."""

    id: str
    queue: str
    description: str
    gateway: str | None
    worker: str | None
    since: float | None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway that has pending work, or that somebody has locked."""

    name: str
    pending: int
    oldest: float | None
    """When the oldest of it was seen, seconds since the epoch; None where nothing is pending."""
    holder: str | None
    """The worker that has the gateway's lock."""
    held_for: float | None
    """Seconds until the lock frees itself, unless it is renewed."""


@dataclass(frozen=True, slots=True)
class ProducerStatus:
    """One producer; times are seconds since the epoch."""

    name: str
    committed_at: float
    """When it committed last, be it that nothing had happened."""
    resource_version: int | None
    """The position of that commit; None before its first list."""
    heard_at: float | None
    """When the API told it something last; None when it has not yet."""
    alive: bool


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker."""

    name: str
    queues: tuple[str, ...]
    state: str
    job: str | None
    """Id of the job it has."""
    heartbeat: float | None
    """When it said last that it lives, seconds since the epoch."""
    alive: bool


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """What the last audit of one gateway came to."""

    gateway: str
    at: float
    """Seconds since the epoch."""
    findings: dict[str, int]
    """How many of each kind (`shared.reports.Kind`)."""
    hindrance: str | None


@dataclass(frozen=True, slots=True)
class Need:
    """Something that does not pass by itself."""

    what: str
    do: str
    """What a person does about it; a command where there is one."""


@dataclass(frozen=True, slots=True)
class Status:
    """How things are."""

    at: float
    """Seconds since the epoch."""
    cluster: str | None
    """UID of the cluster; None when no producer has ever run."""
    known_eips: int
    resource_version: int | None
    """Up to here everything is committed."""
    advanced_at: float | None
    """When that position last moved on, seconds since the epoch."""
    queues: tuple[QueueStatus, ...]
    running: tuple[RunningJob, ...]
    gateways: tuple[GatewayStatus, ...]
    producers: tuple[ProducerStatus, ...]
    workers: tuple[WorkerStatus, ...]
    failures: tuple[FailureGroup, ...]
    brake: BrakeState | None
    audits: tuple[AuditStatus, ...]
    needs: tuple[Need, ...]
    """Empty when all is well."""

    @property
    def failed(self) -> int:
        """Failed jobs on all queues."""
        return sum(queue.failed for queue in self.queues)

    @property
    def pending(self) -> int:
        """Pieces of work that have no outcome yet, failed ones aside."""
        return sum(gateway.pending for gateway in self.gateways)

    @property
    def oldest_pending(self) -> float | None:
        """When the oldest of them was seen, seconds since the epoch."""
        return min((gateway.oldest for gateway in self.gateways if gateway.oldest is not None), default=None)


class StatusReader:
    """Reads how things are."""

    def __init__(self, work_queue: WorkQueue, settings: Settings) -> None:
        self._work_queue = work_queue
        self._redis = work_queue.redis
        self._keys = work_queue.keys
        self._settings = settings
        self._brake = Brake(work_queue, settings)
        self._failed = FailedJobs(work_queue)

    def read(self) -> Status:
        """How things are now."""
        now = time.time()
        queues = self.queues()
        running = self.running()
        gateways = self.gateways(job.gateway for job in running if job.gateway)
        producers, workers = self.producers(now), self.workers(now, running)
        failures = tuple(grouped(self._failed.all()))
        brake = self._brake.state()
        audits = self.audits()
        with self._pipeline() as pipe:
            pipe.get(self._keys.cluster)
            pipe.hlen(self._keys.inventory)
            pipe.hgetall(self._keys.checkpoint)
            cluster, known, checkpoint = pipe.execute()
        return Status(
            at=now,
            cluster=cluster.decode() if cluster else None,
            known_eips=known,
            resource_version=int(checkpoint[b"resource_version"]) if checkpoint else None,
            advanced_at=float(checkpoint[b"at"]) if checkpoint else None,
            queues=queues,
            running=running,
            gateways=gateways,
            producers=producers,
            workers=workers,
            failures=failures,
            brake=brake,
            audits=audits,
            needs=tuple(_needs(now, queues, producers, workers, failures, brake, audits)),
        )

    def queues(self) -> tuple[QueueStatus, ...]:
        """Our queues, the general one first."""
        names = self._work_queue.names()
        with self._pipeline() as pipe:
            for name in names:
                queue = self._work_queue.open(name)
                pipe.llen(queue.key)
                pipe.zcard(queue.started_job_registry.key)
                pipe.zcard(queue.scheduled_job_registry.key)
                pipe.zrange(queue.scheduled_job_registry.key, 0, 0, withscores=True)
                pipe.zcard(queue.failed_job_registry.key)
            answers = pipe.execute()
        rows = zip(names, *(answers[part::5] for part in range(5)), strict=True)
        return tuple(
            QueueStatus(
                name=name,
                node=name.partition("@")[2] or None,
                queued=queued,
                running=running,
                scheduled=scheduled,
                next_due=first[0][1] if first else None,
                failed=failed,
            )
            for name, queued, running, scheduled, first, failed in rows
        )

    def running(self) -> tuple[RunningJob, ...]:
        """The jobs that workers have, as far as RQ knows."""
        found: list[tuple[str, str]] = []
        for name in self._work_queue.names():
            registry = self._work_queue.open(name).started_job_registry
            entries: list[bytes] = self._redis.zrange(registry.key, 0, -1)  # type: ignore[assignment]
            found += [(name, registry.parse_job_id(entry.decode(errors="replace"))) for entry in entries]
        with self._pipeline() as pipe:
            for _, job_id in found:
                pipe.hmget(Job.key_for(job_id), "description", "worker_name", "started_at")
                pipe.hget(self._keys.record(job_id), "gateway")
            answers = pipe.execute(raise_on_error=False)
        jobs = []
        for (name, job_id), stored, gateway in zip(found, answers[::2], answers[1::2], strict=True):
            description, worker, since = map(_text, stored if isinstance(stored, list) else (None,) * 3)
            jobs.append(RunningJob(job_id, name, description or "", _text(gateway), worker, _moment(since)))
        return tuple(jobs)

    def gateways(self, besides: Iterable[str] = ()) -> tuple[GatewayStatus, ...]:
        """Gateways with pending work, and those of `besides`; who has pending work longest is first."""
        stored: set[bytes] = self._redis.smembers(self._keys.pending_gateways)  # type: ignore[assignment]
        names = sorted({name.decode() for name in stored} | set(besides))
        with self._pipeline() as pipe:
            for name in names:
                pipe.hgetall(self._keys.pending(name))
                pipe.get(self._keys.lock(name))
                pipe.pttl(self._keys.lock(name))
            answers = pipe.execute()
        found = []
        for name, pending, token, left in zip(names, answers[::3], answers[1::3], answers[2::3], strict=True):
            if pending or token:
                seen = [at for text in pending.values() if (at := _seen_at(text)) is not None]
                holder = token.decode().rpartition("/")[0] if token else None
                held_for = left / 1000 if token and left > 0 else None
                found.append(GatewayStatus(name, len(pending), min(seen, default=None), holder, held_for))
        return tuple(sorted(found, key=lambda gateway: (gateway.oldest is None, gateway.oldest, gateway.name)))

    def producers(self, now: float) -> tuple[ProducerStatus, ...]:
        """Producers that committed within the last day, the last one first; `now` in seconds since the epoch."""
        stored: dict[bytes, bytes] = self._redis.hgetall(self._keys.producers)  # type: ignore[assignment]
        found = []
        for name, text in stored.items():
            mark = json.loads(text)
            found.append(
                ProducerStatus(
                    name=name.decode(),
                    committed_at=mark["at"],
                    resource_version=mark.get("resource_version"),
                    heard_at=mark.get("heard_at"),
                    alive=now - mark["at"] < PRODUCER_LATE_SECONDS,
                )
            )
        return tuple(sorted(found, key=lambda producer: (-producer.committed_at, producer.name)))

    def workers(self, now: float, running: Iterable[RunningJob]) -> tuple[WorkerStatus, ...]:
        """Workers that take jobs of our queues, as far as Redis remembers.

        Args:
            now: seconds since the epoch.
            running: the jobs that workers have; RQ does not note them with a worker like ours.
        """
        having = {job.worker: job.id for job in running}
        keys: set[bytes] = set()
        for name in self._work_queue.names():
            keys |= self._redis.smembers(WORKERS_BY_QUEUE_KEY % name)  # type: ignore[arg-type]
        ordered = sorted(keys)
        with self._pipeline() as pipe:
            for key in ordered:
                pipe.hmget(key, "queues", "state", "last_heartbeat")
            answers = pipe.execute(raise_on_error=False)
        prefix = Worker.redis_worker_namespace_prefix.encode()
        found = []
        for key, stored in zip(ordered, answers, strict=True):
            # A worker that died is in the set for longer than its hash lives.
            if not isinstance(stored, list) or stored[1] is None:
                continue
            queues, state, beat = map(_text, stored)
            name, heartbeat = key.removeprefix(prefix).decode(errors="replace"), _moment(beat)
            job = having.get(name)
            late = self._settings.job_timeout + BUSY_WORKER_GRACE_SECONDS if job else IDLE_WORKER_LATE_SECONDS
            found.append(
                WorkerStatus(
                    name=name,
                    queues=tuple((queues or "").split(",")),
                    state="busy" if job else state or "unknown",
                    job=job,
                    heartbeat=heartbeat,
                    alive=heartbeat is not None and now - heartbeat < late,
                )
            )
        return tuple(found)

    def audits(self) -> tuple[AuditStatus, ...]:
        """What the last audit of each gateway came to, the oldest first."""
        found = []
        for report in self._work_queue.reports.all():
            kinds = [finding.kind.value for finding in report.findings]
            counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
            found.append(AuditStatus(report.gateway, report.at, counts, report.hindrance))
        return tuple(sorted(found, key=lambda audit: (audit.at, audit.gateway)))

    def _pipeline(self) -> Pipeline:
        return self._redis.pipeline(transaction=False)


def _needs(
    now: float,
    queues: Iterable[QueueStatus],
    producers: Iterable[ProducerStatus],
    workers: Iterable[WorkerStatus],
    failures: Iterable[FailureGroup],
    brake: BrakeState | None,
    audits: Iterable[AuditStatus],
) -> Iterable[Need]:
    """What needs a person, the worst first."""
    living = [producer for producer in producers if producer.alive]
    served = {name for worker in workers if worker.alive for name in worker.queues}
    if not living:
        yield Need("no producer lives: what is released now is not seen before one does", "eip-reclaimer producer")
    elif all(now - (producer.heard_at or producer.committed_at) > API_SILENT_SECONDS for producer in living):
        yield Need("no producer hears anything from the Kubernetes API", "look at the producers' logs and the API")
    if not served:
        yield Need("no worker lives: nothing is reclaimed before one does", "eip-reclaimer worker")
    for queue in queues:
        if queue.node and queue.name not in served and queue.queued + queue.scheduled:
            waiting = f"{queue.queued + queue.scheduled} jobs wait for a worker on node {queue.node}, where none lives"
            yield Need(waiting, "start one there with the netlink driver")
    if brake is not None:
        yield Need(f"the brake holds back {brake.held} releases: {brake.reason}", "eip-reclaimer brake show")
    found = Counter[str]()
    for audit in audits:
        found.update(audit.findings)
    leaked = found[Kind.LEAKED] + found[Kind.DOUBLED]
    if leaked:
        yield Need(f"by the last audits gateways answer for {leaked} addresses of nobody", "eip-reclaimer audit")
    if found[Kind.MISSING]:
        yield Need(f"by the last audits gateways lack {found[Kind.MISSING]} addresses of EIPs", "eip-reclaimer audit")
    failed = sum(group.count for group in failures)
    if failed:
        yield Need(f"{failed} failed jobs wait for a person", "eip-reclaimer failed list")


def _seen_at(text: bytes) -> float | None:
    """When a piece of pending work was seen; None where the entry is none of ours."""
    try:
        at: Any = json.loads(text)["seen_at"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return float(at) if isinstance(at, (int, float)) else None


def _text(stored: Any) -> str | None:
    return stored.decode(errors="replace") if isinstance(stored, bytes) else None


def _moment(stamp: str | None) -> float | None:
    """A time as RQ writes it, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(stamp).timestamp() if stamp else None
    except ValueError:
        return None
