"""How things are: what is told of queues, gateways, producers, workers and audits, and what of it needs a person."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.reports import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.brake import BrakeState
    from shared.failed import FailureGroup

API_SILENT_SECONDS = 600.0
"""The API sends a bookmark each minute or so, and a watch ends after EIP_RECLAIMER_WATCH_TIMEOUT."""
UNVOUCHED_SECONDS = 60.0
"""A producer that can follow the API has caught up within a few."""


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
    trouble: str | None
    """Why it cannot follow the API, in words; None where it can."""
    hindrance: str | None
    """Why it cannot list what it asks for beside that, in words; None where it can."""
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


def needs_of(
    now: float,
    queues: Iterable[QueueStatus],
    producers: Iterable[ProducerStatus],
    workers: Iterable[WorkerStatus],
    failures: Iterable[FailureGroup],
    brake: BrakeState | None,
    audits: Iterable[AuditStatus],
    unvouched_for: float,
) -> Iterable[Need]:
    """What needs a person, the worst first.

    Args:
        now: seconds since the epoch.
        queues: all of them, and so on.
        producers: likewise.
        workers: likewise.
        failures: likewise.
        brake: its state, where it is engaged.
        audits: the last one of each gateway.
        unvouched_for: seconds for which the inventory cannot be relied on (`shared.vouching`); 0 where it can.
    """
    living = [producer for producer in producers if producer.alive]
    served = {name for worker in workers if worker.alive for name in worker.queues}
    if not living:
        why = "no producer lives: before one does, what is released is not seen, and nothing is taken away"
        yield Need(why, "eip-reclaimer producer")
    elif all(producer.trouble for producer in living):
        yield Need(f"no producer can follow the Kubernetes API: {living[0].trouble}", "look at the API server")
    elif all(now - (producer.heard_at or producer.committed_at) > API_SILENT_SECONDS for producer in living):
        yield Need("no producer hears anything from the Kubernetes API", "look at the producers' logs and the API")
    elif hindrance := next((producer.hindrance for producer in living if producer.hindrance), None):
        why = f"no list can be had, so that gateways are not audited and the brake stays as it is: {hindrance}"
        yield Need(why, "look at the API server")
    if living and unvouched_for > UNVOUCHED_SECONDS:
        why = "no producer has caught up with the API: nothing is taken away before one has"
        yield Need(why, "look at the producers' logs" if brake is None else "eip-reclaimer brake show")
    if not served:
        yield Need("no worker lives: nothing is reclaimed before one does", "eip-reclaimer worker")
    for queue in queues:
        if queue.node and queue.name not in served and queue.queued + queue.scheduled:
            waiting = f"{queue.queued + queue.scheduled} jobs wait for a worker on node {queue.node}, where none lives"
            yield Need(waiting, "start one there with the netlink driver")
    if brake is not None:
        yield Need(f"the brake holds back {brake.held} releases: {brake.reason}", "eip-reclaimer brake show")
    yield from _needs_of_audits(audits)
    failed = sum(group.count for group in failures)
    if failed:
        yield Need(f"{failed} failed jobs wait for a person", "eip-reclaimer failed list")


def _needs_of_audits(audits: Iterable[AuditStatus]) -> Iterable[Need]:
    found = Counter[str]()
    hindered = 0
    for audit in audits:
        found.update(audit.findings)
        hindered += audit.hindrance is not None
    told = (
        (found[Kind.LEAKED] + found[Kind.DOUBLED], "addresses on gateways that nobody owns"),
        (found[Kind.MISSING], "addresses of EIPs that their gateway lacks"),
        (found[Kind.STUCK], "EIPs that are stuck"),
        (hindered, "gateways that could not be looked at"),
    )
    for count, what in told:
        if count:
            yield Need(f"{what}, by the last audits: {count}", "eip-reclaimer audit")
