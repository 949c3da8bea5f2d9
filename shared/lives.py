"""The life of each piece of work, told from its record, and how it stands now: for the command and the dashboard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus

from shared.errors import InvalidPayloadError
from shared.failed import FailedJobs, NoFailedJobError
from shared.models import Outcome, Work, work_to_dict
from shared.queue import describe

if TYPE_CHECKING:
    from shared.queue import WorkQueue

CONFIRMATION_MEANING: dict[str, str] = {
    Outcome.ALREADY_ABSENT: "no EIP owns it any more",
    Outcome.REASSIGNED: "the EIP has its address",
    Outcome.RESTORED: "the EIP was without its address: put back, and seen there",
}
"""The same of a confirmation, which sees that an EIP has what a worker meant to take away."""
UNKNOWN = "no outcome that the product writes"
MEANING: dict[str, str] = {
    Outcome.RECLAIMED: "it was there, was deleted, and was seen gone",
    Outcome.ALREADY_ABSENT: "it was not there",
    Outcome.GATEWAY_GONE: "the gateway does not exist any more",
    Outcome.REASSIGNED: "another EIP of this gateway owns it: untouched",
    Outcome.RESTORED: "it got an owner during the deletion: put back, and seen there",
    Outcome.AUDITED: "the gateway was compared with the API; each leak found is a release of its own",
}
"""What each outcome says, for people."""

SEEN = {
    "release": {
        "deleted": "the API told that the EIP was deleted",
        "missing": "a list of the API lacked the EIP",
        "moved": "the EIP got another gateway or address",
        "leaked": "an audit saw it unowned",
    },
    "audit": {
        "deleted": "the API told that an EIP was deleted whose address nobody knows",
        "missing": "a list of the API lacked an EIP whose address nobody knows",
        "gap": "events of the API were missed",
        "periodic": "it was time",
        "requested": "somebody asked",
    },
}
CONFIRMED = "the EIP came to own what a worker meant to take away, or had"


@dataclass(frozen=True, slots=True)
class Life:
    """What became of one piece of work."""

    id: str
    description: str
    """What it is, or why that cannot be read."""
    work: dict[str, Any] | None
    """Its payload, as JSON types; None where it cannot be read."""
    events: list[dict[str, Any]]
    """Oldest first; each with `at` (seconds since the epoch), `event` and details. The first one is `seen`."""
    outcome: str | None
    state: str
    """`ended`, `queued`, `running`, `waiting`, `failed`, `dropped` or `lost`."""
    says: str
    """The same in words, with what to do about it."""


class Lives:
    """Tells lives."""

    def __init__(self, work_queue: WorkQueue) -> None:
        self._work_queue = work_queue
        self._redis = work_queue.redis
        self._failed = FailedJobs(work_queue)

    def of(self, work_id: str) -> Life:
        """The life of one piece of work, which has a record."""
        records = self._work_queue.records
        outcome = records.field(work_id, "outcome") or None
        try:
            events = [_checked(event) for event in records.events(work_id)]
        except ValueError:
            why = "what is stored of its life is not what the product writes"
            events = [{"at": 0.0, "event": "unreadable", "why": why}]
        work, description = None, ""
        try:
            work = records.work(work_id)
        except InvalidPayloadError as error:
            description = str(error)
        if work is not None:
            events = [{"at": work.seen_at, "event": "seen", "what": _seen(work)}, *events]
        state, says = ("ended", _meaning(work, outcome)) if outcome else self._state(work_id, work, events)
        return Life(
            id=work_id,
            description=describe(work) if work else description,
            work=work_to_dict(work) if work else None,
            # Two processes tell of it, each on its own clock and in its own time.
            events=sorted(events, key=lambda event: event["at"]),
            outcome=outcome,
            state=state,
            says=says,
        )

    def _state(self, work_id: str, work: Work | None, events: list[dict[str, Any]]) -> tuple[str, str]:
        """How work stands that has no outcome."""
        stored: list[bytes | None] = self._redis.hmget(  # type: ignore[assignment]
            Job.key_for(work_id), ["status", "origin", "worker_name", "started_at"]
        )
        status, origin, worker, started = (text.decode(errors="replace") if text else "" for text in stored)
        match status:
            case JobStatus.QUEUED:
                return "queued", self._place(work_id, origin)
            case JobStatus.STARTED:
                return "running", f"worker {worker} has it{_since(started)}"
            case JobStatus.SCHEDULED:
                return "waiting", self._due(work_id, origin)
            case JobStatus.FAILED:
                return "failed", self._failure(work_id)
            case _:
                return self._without_job(work_id, work, events)

    def _without_job(self, work_id: str, work: Work | None, events: list[dict[str, Any]]) -> tuple[str, str]:
        if events and events[-1]["event"] == "dropped":
            return "dropped", f"{events[-1].get('by', 'somebody')} dropped it: nobody works on it any more"
        if work and self._redis.hexists(self._work_queue.keys.pending(work.gateway), work_id):
            return "waiting", "its job was lost; workers look for such work every 10 s, and publish it again"
        return "lost", "its job is gone from Redis: nobody works on it. An audit of the gateway finds what it left"

    def _place(self, work_id: str, queue: str) -> str:
        key = self._work_queue.open(queue).key
        place: int | None = self._redis.lpos(key, work_id)  # type: ignore[assignment]
        if place is None:
            return f"a worker is just taking it off {queue}"
        return f"number {place + 1} of {self._redis.llen(key)} in queue {queue}"

    def _due(self, work_id: str, queue: str) -> str:
        at: float | None = self._redis.zscore(self._work_queue.open(queue).scheduled_job_registry.key, work_id)
        if at is None:
            return "it is due now"
        seconds = at - time.time()
        return f"it is due in {seconds:.1f} s" if seconds > 0 else "it is due now"

    def _failure(self, work_id: str) -> str:
        try:
            self._failed.of(work_id)
        except NoFailedJobError as error:
            return str(error)
        return f"once its cause is mended: eip-reclaimer failed replay {work_id}"


def _meaning(work: Work | None, outcome: str) -> str:
    of_its_own = CONFIRMATION_MEANING if work is not None and work.kind == "confirmation" else {}
    return {**MEANING, **of_its_own}.get(outcome, UNKNOWN)


def _checked(event: Any) -> dict[str, Any]:
    if not isinstance(event, dict) or not isinstance(event.get("at"), int | float):
        raise ValueError("no event")  # noqa: TRY004 - like text that is no JSON
    return {**event, "event": str(event.get("event"))}


def _seen(work: Work) -> str:
    """What the work is due to, in words."""
    return CONFIRMED if work.kind == "confirmation" else SEEN[work.kind][work.reason]


def _since(stamp: str) -> str:
    try:
        return f" for {max(0.0, time.time() - datetime.fromisoformat(stamp).timestamp()):.1f} s"
    except ValueError:
        return ""
