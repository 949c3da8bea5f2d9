"""The brake: whether it holds back releases, which, and the button that lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, flash, redirect, render_template, request, url_for

from dashboard.store import store
from shared.brake import Brake, BrakeState
from shared.inventory import Inventory
from shared.log import get_logger

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from shared.models import EIP

log = get_logger(__name__)

blueprint = Blueprint("brake", __name__)

SHOWN = 200
"""EIPs that are named; more are counted."""


def _brake() -> Brake:
    return Brake(store().work_queue, store().settings)


def state_or_none() -> BrakeState | None:
    """Why the brake is engaged; None when it is not, or when what is stored about it cannot be read."""
    try:
        return _brake().state()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _held() -> list[EIP]:
    """What is held back, as far as it is known; by gateway and name."""
    held = _brake().held()
    known = Inventory(store().work_queue, "", "").all() if held else {}
    return sorted((known[uid] for uid in held if uid in known), key=lambda eip: (eip.gateway, eip.name))


@blueprint.get("/brake")
def show() -> str:
    """Whether it is engaged, since when, why, and for what."""
    state = _brake().state()
    held = _held() if state else []
    confirmed = bool(held) and _brake().confirmed([eip.uid for eip in held]) >= {eip.uid for eip in held}
    return render_template(
        "dashboard/brake.html",
        active_tab="brake",
        state=state,
        held=held[:SHOWN],
        more=max(len(held) - SHOWN, 0),
        confirmed=confirmed,
        settings=store().settings,
    )


@blueprint.post("/brake/release")
def release() -> Response:
    """Confirm that what is held back now is to be released."""
    state = _brake().confirm()
    if state is None:
        flash("The brake is not engaged: there was nothing to release.")
    else:
        log.warning("brake released", held=state.held, reason=state.reason, place=request.remote_addr)
        flash(f"Confirmed: {state.held} EIPs are truly gone. A producer releases them with its next list.")
    return redirect(url_for("brake.show"), 303)
