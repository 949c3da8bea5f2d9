"""Trace: the life of a release, found by its EIP, its address or its job, also long after the EIP is gone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from dashboard.store import store
from shared.errors import InvalidPayloadError
from shared.queue import describe

if TYPE_CHECKING:
    from shared.queue import WorkQueue

blueprint = Blueprint("lives", __name__)

LONGEST_TERM = 253
"""No EIP's name is longer."""
SHOWN = 25
"""Lives on one page; an address that is handed out again and again has more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a life."""

    at: float
    name: str
    details: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of one piece of work."""

    work_id: str
    description: str
    outcome: str | None
    failed: bool
    """Whether the last that happened to it was that it failed."""
    events: list[Event]


def life_of(work_queue: WorkQueue, work_id: str) -> Life:
    """The life of a piece of work, as far as what is stored of it can be read."""
    try:
        work = work_queue.records.work(work_id)
        description = describe(work) if work else ""
    except InvalidPayloadError as error:
        description = str(error)
    try:
        events = [_event(stored) for stored in work_queue.records.events(work_id)]
    except ValueError:
        events = [Event(0.0, "unreadable", [("why", "what is stored of its life is not what the product writes")])]
    outcome = work_queue.records.fields(work_id).get("outcome")
    failed = outcome is None and bool(events) and events[-1].name == "failed"
    return Life(work_id, description, outcome, failed, events)


def _event(stored: Any) -> Event:
    if not isinstance(stored, dict) or not isinstance(stored.get("at"), int | float):
        raise ValueError("no event")  # noqa: TRY004 - like text that is no JSON
    details = [(key, _text(value)) for key, value in stored.items() if key not in ("at", "event")]
    return Event(stored["at"], str(stored.get("event")), details)


def _text(value: Any) -> str:
    """A detail of an event, for people."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items()) or "none"
    return (", ".join(map(_text, value)) or "none") if isinstance(value, list) else str(value)


def _canonical(term: str) -> str:
    """An address as it is recorded, however it was written."""
    try:
        return str(ip_address(term))
    except ValueError:
        return term


@blueprint.get("/trace")
def trace() -> tuple[str, int]:
    """Search, and the lives that were found, newest first."""
    term = request.args.get("term", "").strip()[:LONGEST_TERM]
    records = store().work_queue.records
    found = records.find(_canonical(term))[::-1] if term else []
    page = render_template(
        "dashboard/trace.html",
        active_tab="trace",
        term=term,
        lives=[life_of(store().work_queue, work_id) for work_id in found[:SHOWN]],
        more=max(len(found) - SHOWN, 0),
    )
    return page, 404 if term and not found else 200
