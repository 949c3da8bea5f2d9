"""Reads how things are from Redis in a few round trips: for the status, the metrics and the dashboard.

Whatever is missing is told as missing: an empty Redis has a status too.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.job import Job
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared.brake import Brake
from shared.failed import FailedJobs, grouped
from shared.status import (
    AuditStatus,
    GatewayStatus,
    ProducerStatus,
    QueueStatus,
    RunningJob,
    Status,
    WorkerStatus,
    needs_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.client import Pipeline

    from shared.queue import WorkQueue
    from shared.settings import Settings

PRODUCER_LATE_SECONDS = 45.0
"""A producer that lives commits every two seconds, be it nothing; one that waits for an API that does not answer, after
each try."""
IDLE_WORKER_LATE_SECONDS = 15.0
"""A worker that waits for a job says every second that it lives."""
BUSY_WORKER_GRACE_SECONDS = 15.0
"""A worker with a job says so at its start, and has ended it within EIP_RECLAIMER_JOB_TIMEOUT."""


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
            pipe.get(self._keys.unvouched)
            pipe.zrange(self._keys.following, -1, -1, withscores=True)
            pipe.time()
            cluster, known, checkpoint, unvouched, last_word, (seconds, _) = pipe.execute()
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
            needs=tuple(
                needs_of(
                    *(now, queues, producers, workers, failures, brake, audits),
                    unvouched_for=max(
                        now - float(unvouched) if unvouched else 0.0,
                        seconds - (last_word[0][1] if last_word else 0.0),
                    ),
                )
            ),
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
                    trouble=mark.get("trouble"),
                    hindrance=mark.get("hindrance"),
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
