"""Trace: the life of a release, found by its EIP, its address or its job, also long after the EIP is gone."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from dashboard.store import store
from shared.lives import Lives

if TYPE_CHECKING:
    from shared.lives import Life

blueprint = Blueprint("lives", __name__)

LONGEST_TERM = 253
"""No EIP's name is longer."""
SHOWN = 25
"""Lives on one page; an address that is handed out again and again has more."""


def _shown(life: Life) -> dict[str, Any]:
    """A life, with its events as (when, what, details as text)."""
    events = [
        (event["at"], event["event"], {key: _text(event[key]) for key in event if key not in ("at", "event")})
        for event in life.events
    ]
    return {"life": life, "events": events}


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
    work_queue = store().work_queue
    found = work_queue.records.find(_canonical(term))[::-1] if term else []
    page = render_template(
        "dashboard/trace.html",
        active_tab="trace",
        term=term,
        lives=[_shown(Lives(work_queue).of(work_id)) for work_id in found[:SHOWN]],
        more=max(len(found) - SHOWN, 0),
    )
    return page, 404 if term and not found else 200
