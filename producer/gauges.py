"""What a producer tells of Redis when it is asked: the queue, what is pending, the brake, the audits.

Asked over a connection of its own that does not wait long, so that a scrape comes back whatever Redis does. Several
producers tell the same; take the maximum over them.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from shared.brake import Brake, BrakeState
from shared.connection import connect
from shared.errors import ReclaimerError
from shared.metrics import (
    AUDIT_FINDINGS,
    AUDITED_GATEWAYS,
    BRAKE_ENGAGED,
    BRAKE_HELD,
    HINDERED_GATEWAYS,
    OLDEST_AUDIT,
    OLDEST_PENDING,
    PENDING,
    QUEUE_JOBS,
    REDIS_UP,
)
from shared.queue import WorkQueue
from shared.reports import Kind
from shared.status_reader import StatusReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.core import GaugeMetricFamily

    from shared.metrics import FromRedis
    from shared.settings import Settings
    from shared.status import AuditStatus, QueueStatus

PATIENCE = 1.5
"""Seconds that one answer of Redis may take here."""


class RedisGauges(Collector):
    """Reads them when the registry asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: WorkQueue | None = None
        self._since: dict[str, float] = {}
        """By id of pending work, when it was seen; asked for once."""
        self._one_at_a_time = threading.Lock()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing, so that registering asks nobody."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them, or `redis_up` 0 alone."""
        with self._one_at_a_time:
            try:
                families = self._families(self._work_queue())
            except (RedisError, ReclaimerError):
                families = []
        yield _gauge(REDIS_UP, float(bool(families)))
        yield from families

    def brake(self) -> BrakeState | None:
        """Why the brake is engaged; None when it is not, or Redis does not answer."""
        try:
            return Brake(self._work_queue(), self._settings).state()
        except (RedisError, ReclaimerError):
            return None

    def _work_queue(self) -> WorkQueue:
        if self._queue is None:
            self._queue = WorkQueue(connect(self._settings, PATIENCE), self._settings)
        return self._queue

    def _families(self, work_queue: WorkQueue) -> list[GaugeMetricFamily]:
        status = StatusReader(work_queue, self._settings)
        brake = Brake(work_queue, self._settings).state()
        pending = self._pending(work_queue)
        now = time.time()
        return [
            _by_label(QUEUE_JOBS, _jobs(status.queues())),
            _gauge(PENDING, len(pending)),
            _gauge(OLDEST_PENDING, max((now - since for since in pending.values()), default=0.0)),
            _gauge(BRAKE_ENGAGED, float(brake is not None)),
            _gauge(BRAKE_HELD, brake.held if brake else 0),
            *_audits(status.audits(), now),
        ]

    def _pending(self, work_queue: WorkQueue) -> dict[str, float]:
        """When each piece of pending work was seen; only what is new is read whole."""
        redis, keys = work_queue.redis, work_queue.keys
        gateways: set[bytes] = redis.smembers(keys.pending_gateways)  # type: ignore[assignment]
        names = [keys.pending(gateway.decode()) for gateway in gateways]
        with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hkeys(name)
            ids = dict(zip(names, pipe.execute(), strict=True))
            new = {
                name: unknown
                for name, of in ids.items()
                if (unknown := [i for i in of if i.decode() not in self._since])
            }
            for name, unknown in new.items():
                pipe.hmget(name, unknown)
            payloads = zip(new.values(), pipe.execute(), strict=True)
        for unknown, stored in payloads:
            for work_id, payload in zip(unknown, stored, strict=True):
                self._since[work_id.decode()] = _seen_at(payload)
        there = {work_id.decode() for of in ids.values() for work_id in of}
        self._since = {work_id: since for work_id, since in self._since.items() if work_id in there}
        return self._since


def _jobs(queues: Iterable[QueueStatus]) -> dict[str, float]:
    """How many jobs there are in each state, on the general queue and on nodes' own."""
    counts: Counter[str] = Counter()
    for queue in queues:
        counts.update(queued=queue.queued, started=queue.running, scheduled=queue.scheduled, failed=queue.failed)
    return {state: counts[state] for state in ("queued", "started", "scheduled", "failed")}


def _audits(audits: Sequence[AuditStatus], now: float) -> list[GaugeMetricFamily]:
    found: Counter[str] = Counter()
    for audit in audits:
        found.update(audit.findings)
    return [
        _by_label(AUDIT_FINDINGS, {str(kind): found[str(kind)] for kind in Kind}),
        _gauge(AUDITED_GATEWAYS, len(audits)),
        _gauge(HINDERED_GATEWAYS, sum(audit.hindrance is not None for audit in audits)),
        _gauge(OLDEST_AUDIT, max((now - audit.at for audit in audits), default=0.0)),
    ]


def _seen_at(payload: bytes | None) -> float:
    """When pending work was seen; now, for what cannot be read or has just gone."""
    try:
        return float(json.loads(payload or b"")["seen_at"])
    except (ValueError, TypeError, KeyError):
        return time.time()


def _gauge(definition: FromRedis, value: float) -> GaugeMetricFamily:
    family = definition.family()
    family.add_metric([], value)
    return family


def _by_label(definition: FromRedis, values: dict[str, float]) -> GaugeMetricFamily:
    family = definition.family()
    for value, number in values.items():
        family.add_metric([value], number)
    return family
