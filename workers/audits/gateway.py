"""The audit of one gateway, answered by the worker that has its lock.

It takes several looks: an address is a leak when it was seen unowned twice with a pause between, while no EIP of the
gateway waits for one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from shared.errors import TransientError
from shared.models import EIP, Audit, Outcome
from shared.queue import WorkQueue
from shared.reports import Finding, GatewayReport, Kind, merged
from shared.settings import Settings
from workers.answers import Answer
from workers.audits.comparison import Comparison, Expected, Suspicion, compare, findings
from workers.audits.mending import publish, release_of
from workers.audits.revived import revived
from workers.failures import NotNowError
from workers.gateways.interface import Snapshot
from workers.looks import Looks


class GatewayAudits:
    """Answers audits of single gateways."""

    def __init__(self, work_queue: WorkQueue, looks: Looks, settings: Settings, inside: Iterable[str]) -> None:
        """`inside` names the interfaces that are not external."""
        self._work_queue = work_queue
        self._looks = looks
        self._settings = settings
        self._inside = tuple(inside)

    def answer(self, work: Audit, snapshots: Mapping[str, Snapshot], expected: Expected) -> Answer:
        """Look once more: publish a release for each leak, keep what was seen, say what became of the audit.

        Args:
            work: the audit.
            snapshots: what the gateway's pods carry now, by their names.
            expected: what they should carry; looked up after that.
        """
        early = self._looks.early(work)
        if early is not None:
            return early
        comparison = compare(snapshots, expected, inside=self._inside, settings=self._settings)
        remembered = self._work_queue.records.fields(work.id)
        suspicion = self._suspicion(work, comparison, remembered)
        found = findings(work.gateway, comparison, suspicion, expected.owners, self._settings)
        found += revived(self._work_queue.records, expected.owners.eips.values())
        self._keep(work, comparison, found, snapshots, suspicion.at)
        waiting = expected.owners.waiting
        if waiting and (work.apply or not self._are_stuck(waiting)):
            return self._hindered(waiting)
        leaks = [finding for finding in found if finding.kind is Kind.LEAKED]
        leaked = [leak.address for leak in leaks if leak.address is not None]
        if work.apply:
            leaked = self._with_earlier(work, leaked, remembered)
            releases = [release_of(leak, work.cluster, eip=work.eip, namespace=work.namespace) for leak in leaks]
            publish(self._work_queue, releases, work.id)
        if suspicion.needs_another_look(self._settings.audit_pause):
            return NotNowError("what is wrong has to be seen twice", self._settings.audit_pause)
        return self._looks.concluded(
            work,
            Outcome.AUDITED,
            leaked=leaked,
            reported={f.address or f.eip: f"{f.kind.value}: {f.why}" for f in found if f.kind is not Kind.LEAKED},
        )

    def _with_earlier(self, work: Audit, leaked: list[str], remembered: Mapping[str, str]) -> list[str]:
        """What this audit releases, at this look and at those before: that may be gone by the last of them."""
        stored = remembered.get("leaked")
        earlier: list[str] = json.loads(stored) if stored else []
        together = list(dict.fromkeys([*earlier, *leaked]))
        if together != earlier:
            self._work_queue.records.note(work.id, leaked=json.dumps(together))
        return together

    def _hindered(self, waiting: Sequence[EIP]) -> Answer:
        """Any address nobody owns may be that of an EIP without one, which mostly gets it soon."""
        why = f"the gateway cannot be audited while {', '.join(eip.name for eip in waiting)} has no address yet"
        if not self._are_stuck(waiting):
            return NotNowError(why, self._settings.audit_pause)
        return TransientError(f"{why}. If that EIP never gets one, delete it, then replay this job.")

    def _are_stuck(self, waiting: Iterable[EIP]) -> bool:
        return any(time.time() - eip.created > self._settings.stuck_after for eip in waiting)

    def _suspicion(self, work: Audit, comparison: Comparison, remembered: Mapping[str, str]) -> Suspicion:
        """What this look and those before it show, remembered for the next."""
        stored = remembered.get("suspicion")
        suspicion = Suspicion(**json.loads(stored)) if stored else Suspicion()
        suspicion.look(comparison, time.time())
        self._work_queue.records.note(work.id, suspicion=json.dumps(asdict(suspicion)))
        return suspicion

    def _keep(
        self, work: Audit, comparison: Comparison, found: Sequence[Finding], pods: Iterable[str], at: float
    ) -> None:
        reports = self._work_queue.reports
        report = GatewayReport(
            gateway=work.gateway,
            at=at,
            by=work.id,
            namespace=work.namespace,
            pods=tuple(sorted(pods)),
            carried=comparison.carried,
            findings=tuple(found),
        )
        before = reports.of(work.gateway)
        # Where its pods are on several nodes, each of them saw its own part.
        reports.keep([merged(before, report) if before is not None and before.by == work.id else report])
