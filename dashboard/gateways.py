"""Gateways: what each carries and who owns it, what the last audit found, and the button that mends it.

A page is made of three things in Redis: the reports of audits, the inventory of EIPs, and the pending work with its
locks. The button publishes an audit of one gateway; looking, deciding and releasing are the worker's, guards and all.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from pydantic import ValidationError

from dashboard.store import store
from shared.inventory import Inventory
from shared.log import get_logger
from shared.models import EIP, Audit
from shared.reports import Finding, GatewayReport, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from werkzeug.wrappers import Response

    from shared.queue import WorkQueue

log = get_logger(__name__)

blueprint = Blueprint("gateways", __name__)

MEANINGS: dict[Kind, tuple[str, str]] = {
    Kind.LEAKED: ("danger", "on the gateway, and no EIP of it owns it"),
    Kind.DOUBLED: ("danger", "two gateways answer for it"),
    Kind.MISSING: ("danger", "an EIP owns it, and the gateway does not have it"),
    Kind.STUCK: ("warning", "an EIP that Kube-OVN does not get done with"),
    Kind.REVIVED: ("warning", "an EIP that came back under its name right after its deletion"),
    Kind.UNDECIDED: ("info", "may be that of an EIP that has no address yet"),
    Kind.PROTECTED: ("secondary", "owned by no EIP, and never taken away"),
}
"""By kind, worst first: Bootstrap's colour for it, and what it means."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a gateway, as a page shows it."""

    ip: str
    prefix_length: int | None
    interface: str
    owner: str | None
    kind: Kind | None
    """What was found about it."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway, as a page shows it."""

    name: str
    report: GatewayReport | None
    eips: tuple[EIP, ...]
    """Of the inventory."""
    pending: tuple[str, ...]
    """Ids of the work that waits for it."""
    holder: str | None
    """The worker that holds it now."""

    @property
    def findings(self) -> list[Finding]:
        """Worst first."""
        order = list(MEANINGS)
        found = self.report.findings if self.report else ()
        return sorted(found, key=lambda each: (order.index(each.kind), each.address or "", each.eip or ""))

    @property
    def counts(self) -> list[tuple[Kind, int]]:
        """How many of each kind were found, worst first."""
        counted = Counter(finding.kind for finding in self.findings)
        return [(kind, counted[kind]) for kind in MEANINGS if counted[kind]]

    @property
    def audit(self) -> str | None:
        """Id of an audit that waits for it."""
        return next((work_id for work_id in self.pending if work_id.startswith("audit-")), None)

    @property
    def addresses(self) -> list[Address]:
        """What it carries as far as an audit saw it; without one, what its EIPs say."""
        if self.report is None or (self.report.hindrance and not self.report.carried):
            return [Address(ip, None, "", eip.name, None) for eip in self.eips for ip in eip.addresses]
        kinds = {finding.address: finding.kind for finding in reversed(self.findings)}
        return [
            Address(each.ip, each.prefix_length, each.interface, each.owner, kinds.get(each.ip))
            for each in self.report.carried
        ]


def all_gateways(work_queue: WorkQueue) -> tuple[list[Gateway], str | None]:
    """Every gateway that anything is known of, those with findings first; and what could not be read."""
    unreadable = None
    reports: dict[str, GatewayReport] = {}
    eips: dict[str, list[EIP]] = {}
    try:
        reports = {report.gateway: report for report in work_queue.reports.all()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unreadable = f"The reports of audits cannot be read ({type(error).__name__}). Audit the gateways again."
    try:
        for eip in Inventory(work_queue, "", "").all().values():
            eips.setdefault(eip.gateway, []).append(eip)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unreadable = f"The inventory of EIPs cannot be read ({type(error).__name__}). A producer's next list mends it."
    waiting: set[bytes] = work_queue.redis.smembers(work_queue.keys.pending_gateways)  # type: ignore[assignment]
    work = _work_of(work_queue, {*reports, *eips, *(name.decode(errors="replace") for name in waiting)})
    gateways = [
        Gateway(name, reports.get(name), tuple(sorted(eips.get(name, ()), key=lambda eip: eip.name)), pending, holder)
        for name, (pending, holder) in work.items()
        if name in reports or name in eips or pending
    ]
    return sorted(gateways, key=lambda each: (not each.counts, each.name)), unreadable


def _work_of(work_queue: WorkQueue, names: Iterable[str]) -> Mapping[str, tuple[tuple[str, ...], str | None]]:
    """By gateway, the ids of pending work, and the worker that holds its lock."""
    listed = sorted(names)
    with work_queue.redis.pipeline(transaction=False) as pipe:
        for name in listed:
            pipe.hkeys(work_queue.keys.pending(name))
            pipe.get(work_queue.keys.lock(name))
        answers: list[Any] = pipe.execute()
    found = {}
    for name, pending, token in zip(listed, answers[::2], answers[1::2], strict=True):
        ids = tuple(sorted(work_id.decode(errors="replace") for work_id in pending))
        # A lock's token is its holder's name and a random part.
        found[name] = ids, token.decode(errors="replace").rpartition("/")[0] if token else None
    return found


def request_audit(work_queue: WorkQueue, gateway: str, asked_from: str) -> Audit:
    """Publish an audit of a gateway.

    Args:
        work_queue: where to.
        gateway: its name.
        asked_from: for the trace, where somebody asked from.

    Raises:
        ValueError: there is no such gateway's name, or nobody has told which cluster this Redis is for.
    """
    cluster: bytes | None = work_queue.redis.get(work_queue.keys.cluster)  # type: ignore[assignment]
    if cluster is None:
        raise ValueError("no producer has worked with this Redis yet. Start `eip-reclaimer producer` first")
    now = time.time()
    try:
        audit = Audit(
            id=f"audit-requested-{int(now)}-{sha256(gateway.encode(errors='replace')).hexdigest()[:12]}",
            cluster=cluster.decode(),
            gateway=gateway,
            eip=None,
            uid=None,
            seen_at=now,
            reason="requested",
        )
    except ValidationError:
        raise ValueError("that is not the name of a gateway") from None
    work_queue.publish_now([audit], "published", why=f"requested in the dashboard, from {asked_from}")
    return audit


@blueprint.get("/gateways")
def overview() -> str:
    """Every gateway, worst first."""
    gateways, unreadable = all_gateways(store().work_queue)
    totals = Counter(finding.kind for gateway in gateways for finding in gateway.findings)
    return render_template(
        "dashboard/gateways.html",
        active_tab="gateways",
        gateways=gateways,
        totals=[(kind, totals[kind]) for kind in MEANINGS if totals[kind]],
        meanings=MEANINGS,
        unreadable=unreadable,
        audit_interval=store().settings.audit_interval,
    )


@blueprint.post("/gateways/audit")
def audit_now() -> Response:
    """Have a gateway audited, and with that mended."""
    name = request.form.get("gateway", "")
    if any(gateway.audit for gateway in all_gateways(store().work_queue)[0] if gateway.name == name):
        flash(f"{name} is being audited already.")
        return redirect(url_for("gateways.overview"), 303)
    try:
        audit = request_audit(store().work_queue, name, request.remote_addr or "?")
    except ValueError as error:
        abort(400, f"Nothing was done: {error}.")
    log.info("audit requested", gateway=name, job=audit.id, place=request.remote_addr)
    flash(f"An audit of {name} is published: a worker takes off what is leaked there, and this page follows.")
    return redirect(url_for("gateways.overview"), 303)
