"""Every metric there is, defined in this one place; it is counted where things happen.

Each process exposes what its part counts: `PRODUCER_REGISTRY` or `WORKER_REGISTRY`, each with what both count and what
the process itself costs. No label has a value that the world chooses (no gateway, EIP or address): `CATALOGUE` says
which values there can be. They are exposed from the beginning, so that a rate is right from the first one on.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily

from shared.models import Outcome
from shared.reports import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

disable_created_metrics()  # type: ignore[no-untyped-call]

PREFIX = "eip_reclaimer_"
Where = Literal["both", "producer", "worker"]

_SHARED = CollectorRegistry()
_ONLY_PRODUCER = CollectorRegistry()
_ONLY_WORKER = CollectorRegistry()
PRODUCER_REGISTRY = CollectorRegistry()
"""What a producer exposes."""
WORKER_REGISTRY = CollectorRegistry()
"""What a worker exposes."""
for _joined, _own in ((PRODUCER_REGISTRY, _ONLY_PRODUCER), (WORKER_REGISTRY, _ONLY_WORKER)):
    _joined.register(_SHARED)
    _joined.register(_own)
_REGISTRIES: dict[Where, CollectorRegistry] = {
    "both": _SHARED,
    "producer": _ONLY_PRODUCER,
    "worker": _ONLY_WORKER,
}


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric as it is exposed; a counter's name ends in `_total`, an info's in `_info`."""

    name: str
    type: Literal["counter", "gauge", "histogram", "info"]
    where: Where
    meaning: str
    labels: dict[str, tuple[str, ...]]
    """By label, every value that it can have; of an info's labels the values are the build's."""


CATALOGUE: dict[str, Definition] = {}
"""Every metric of ours by its name."""


def _counter(where: Where, name: str, meaning: str, **labels: Iterable[str]) -> Counter:
    definition = _define(where, f"{name}_total", "counter", meaning, labels)
    made = Counter(PREFIX + name, meaning, tuple(labels), registry=_REGISTRIES[where])
    _expose_all(made, definition)
    return made


def _gauge(where: Where, name: str, meaning: str) -> Gauge:
    _define(where, name, "gauge", meaning, {})
    return Gauge(PREFIX + name, meaning, registry=_REGISTRIES[where])


def _histogram(where: Where, name: str, meaning: str, buckets: Sequence[float], **labels: Iterable[str]) -> Histogram:
    definition = _define(where, name, "histogram", meaning, labels)
    made = Histogram(PREFIX + name, meaning, tuple(labels), buckets=buckets, registry=_REGISTRIES[where])
    _expose_all(made, definition)
    return made


def _define(
    where: Where,
    name: str,
    kind: Literal["counter", "gauge", "histogram", "info"],
    meaning: str,
    labels: dict[str, Iterable[str]],
) -> Definition:
    values = {label: tuple(map(str, allowed)) for label, allowed in labels.items()}
    definition = Definition(PREFIX + name, kind, where, meaning, values)
    CATALOGUE[definition.name] = definition
    return definition


def _expose_all(made: Counter | Histogram, definition: Definition) -> None:
    if len(definition.labels) == 1:
        for value in next(iter(definition.labels.values())):
            made.labels(value)


@dataclass(frozen=True, slots=True)
class FromRedis:
    """A gauge whose value a producer reads from Redis when it is asked."""

    name: str
    meaning: str
    label: str | None

    def family(self) -> GaugeMetricFamily:
        """An empty one, to be filled."""
        return GaugeMetricFamily(self.name, self.meaning, labels=[self.label] if self.label else [])


def _from_redis(name: str, meaning: str, **labels: Iterable[str]) -> FromRedis:
    definition = _define("producer", name, "gauge", meaning, labels)
    return FromRedis(definition.name, meaning, next(iter(labels), None))


# What both count.

API_ERROR_CODES = ("401", "403", "404", "409", "410", "429", "4xx", "5xx", "unreachable", "broken", "malformed")

BUILD = Info(PREFIX + "build", "The version that runs.", registry=_SHARED)
_define("both", "build_info", "info", "The version that runs.", {"version": (), "python": ()})
API_ERRORS = _counter(
    "both",
    "api_errors",
    "Requests to the Kubernetes API that failed, by status code; `unreachable`, `broken` off, or `malformed` answers.",
    code=API_ERROR_CODES,
)
PUBLISHED = _counter(
    "both",
    "jobs_published",
    "Pieces of work made into jobs, also those published again.",
    kind=("release", "confirmation", "audit"),
)
KUBERNETES_EVENTS = _counter(
    "both",
    "kubernetes_events",
    "What became of Kubernetes Events: created, an earlier one updated, held back by the rate limit, dropped because "
    "too many wait, or failed at the API.",
    result=("created", "updated", "throttled", "dropped", "failed"),
)

# What a producer counts.

WATCH_EVENTS = _counter(
    "producer",
    "watch_events",
    "Events that the watch told, by type.",
    type=("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "other"),
)
WATCH_RESTARTS = _counter(
    "producer",
    "watch_restarts",
    "Why the watch was opened anew: its request `ended` as it should, its `history` was gone (410), the `api` failed, "
    "it had `stalled`, `redis` failed or came back older, or the `brake` forbade to follow.",
    reason=("ended", "history", "api", "stalled", "redis", "brake"),
)
WATCH_HEARD = _gauge(
    "producer", "watch_heard_timestamp_seconds", "When the watch told something last, bookmarks included."
)
WATCH_VERSION = _gauge("producer", "watch_resource_version", "The resourceVersion that the watch has come to.")
WATCH_BEHIND = _gauge(
    "producer", "watch_behind_seconds", "For how long the API has had events that the watch does not tell; 0 is well."
)
LISTS = _counter("producer", "lists", "Lists of all EIPs that were taken.")
COMMITS = _counter("producer", "commits", "Transactions that Redis took.")
COMMIT_FAILURES = _counter("producer", "commit_failures", "Commits that Redis did not take; they are repeated.")
UNCOMMITTED = _gauge("producer", "uncommitted_changes", "Changes seen that Redis has not taken yet.")
KNOWN = _gauge("producer", "known_eips", "EIPs there are, as this producer knows.")

REDIS_UP = _from_redis("redis_up", "1 when Redis answered this scrape, else 0, and no other value from it is there.")
QUEUE_JOBS = _from_redis(
    "queue_jobs",
    "Jobs in RQ: waiting to be taken, started, scheduled for a later try, or failed for good.",
    state=("queued", "started", "scheduled", "failed"),
)
PENDING = _from_redis("pending_works", "Pieces of work that have no outcome yet and have not failed.")
OLDEST_PENDING = _from_redis("oldest_pending_age_seconds", "Since when the oldest of them waits; 0 for none.")
BRAKE_ENGAGED = _from_redis("brake_engaged", "1 while the brake holds anything back.")
BRAKE_HELD = _from_redis("brake_held_eips", "EIPs whose release the brake holds back.")
AUDIT_FINDINGS = _from_redis("audit_findings", "What the last audit of each gateway found, by kind.", kind=Kind)
AUDITED_GATEWAYS = _from_redis("audited_gateways", "Gateways that were ever audited.")
HINDERED_GATEWAYS = _from_redis("hindered_gateways", "Those of them whose last audit could not look.")
OLDEST_AUDIT = _from_redis(
    "oldest_audit_age_seconds", "How long ago the gateway was audited whose last audit is the oldest; 0 for none."
)

# What a worker counts.

ERRORS = {
    "ApiUnavailableError": "transient",
    "GatewayUnreachableError": "transient",
    "HistoryGoneError": "transient",
    "JobTimeoutException": "transient",
    "LockLostError": "transient",
    "NoActivePodError": "transient",
    "TransientError": "transient",
    "VerificationError": "transient",
    "WorkerDied": "transient",
    "unexpected": "transient",
    "DeserializationError": "permanent",
    "InvalidPayloadError": "permanent",
    "PermanentError": "permanent",
    "ProtectedAddressError": "permanent",
}
"""By class, whether it may pass by itself."""
_QUICK = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)

EVENT_TO_GONE = _histogram(
    "worker",
    "event_to_gone_seconds",
    "From the event of a release to its address seen gone, where it was there. An EIP that was never `ready` is looked "
    "at again up to EIP_RECLAIMER_LOOK_AGAIN_AFTER later, which counts.",
    (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 86400),
    ready=("yes", "no"),
)
OUTCOMES = _counter("worker", "outcomes", "Pieces of work that ended, by outcome.", outcome=Outcome)
JOB_ERRORS = _counter(
    "worker",
    "job_errors",
    "What ended a run of a job without an outcome, by its class, and whether it may pass by itself: `unexpected` for "
    "what nobody foresaw, `other` for a class without its own name here.",
    error=(*ERRORS, "other"),
    kind=("transient", "permanent"),
)
for _error, _kind in ERRORS.items():
    JOB_ERRORS.labels(_error, _kind)
JOBS_STARTED = _counter("worker", "jobs_started", "Runs of jobs that were begun.")
JOBS_FAILED = _counter("worker", "jobs_failed", "Jobs that failed for good and wait for a person.")
JOB_RETRIES = _counter("worker", "job_retries", "Tries that failed and are repeated later.")
JOBS_POSTPONED = _counter("worker", "jobs_postponed", "Runs that cost no try: not now, or on another node.")
JOB_SECONDS = _histogram("worker", "job_duration_seconds", "How long one run of a job took.", _QUICK)
LOCK_CONTENTION = _counter("worker", "lock_contention", "Tries for a gateway's lock that another worker had.")
LOCK_LOSSES = _counter("worker", "lock_losses", "Locks that ran out before the work under them was done.")
TAKEOVERS = _counter("worker", "takeovers", "Jobs taken from a worker that died or was stopped for too long.")
DELETED = _counter("worker", "addresses_deleted", "Addresses taken off gateway pods and seen gone.")
RESTORED = _counter("worker", "addresses_restored", "Addresses put back on gateway pods and seen there.")


def count_watch_event(kind: str) -> None:
    """Count an event of this type that the watch told."""
    known = CATALOGUE[f"{PREFIX}watch_events_total"].labels["type"]
    WATCH_EVENTS.labels(kind if kind in known else "other").inc()


def count_job_error(error: str, *, transient: bool) -> None:
    """Count what ended a run of a job, by the name of its class."""
    JOB_ERRORS.labels(error if error in ERRORS else "other", "transient" if transient else "permanent").inc()


def count_api_error(status: int) -> None:
    """Count a request that the API answered with this status code."""
    code = str(status)
    if code not in API_ERROR_CODES:
        code = f"{status // 100}xx" if 400 <= status < 600 else "malformed"
    API_ERRORS.labels(code).inc()


def _version() -> str:
    try:
        return version("eip-reclaimer")
    except PackageNotFoundError:
        return "unknown"


BUILD.info({"version": _version(), "python": platform.python_version()})
ProcessCollector(registry=_SHARED)
PlatformCollector(registry=_SHARED)
GCCollector(registry=_SHARED)
