"""The audit: what a gateway carries, against what should be there; the cleaning is a step of its own.

It proposes only what Kube-OVN could have put on the gateway (design, "An audit proposes only …"); what it doubts
about it reports and leaves alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from shared.errors import TransientError
from shared.kube.objects import Subnet
from shared.models import EIP, Audit, IPAddress, Outcome, Release
from shared.queue import WorkQueue
from shared.settings import Settings
from workers.answers import Answer
from workers.cluster import Owners
from workers.failures import NotNowError
from workers.gateways.interface import Address, Snapshot
from workers.guards import why_protected
from workers.looks import Looks

STUCK_SECONDS = 300.0
"""An EIP that has no address for so long waits for a person, and whoever waits for it should know."""


@dataclass(frozen=True, slots=True)
class Unowned:
    """An address on a gateway that no EIP of it owns."""

    address: Address
    subnet: str
    doubt: str | None
    """Why it is only reported; None when it is proposed for release."""


class GatewayAudits:
    """Answers audits of single gateways."""

    def __init__(self, work_queue: WorkQueue, looks: Looks, settings: Settings, inside: Iterable[str]) -> None:
        """`inside` names the interfaces that are not external."""
        self._work_queue = work_queue
        self._looks = looks
        self._settings = settings
        self._inside = tuple(inside)

    def answer(
        self,
        work: Audit,
        snapshots: Sequence[Snapshot],
        subnets: Collection[Subnet],
        own: Collection[IPAddress],
        owners: Owners,
    ) -> Answer:
        """Publish a release for each leak that was seen twice, and say what became of the audit.

        Args:
            work: the audit.
            snapshots: what the gateway's pods carry now.
            subnets: the gateway's external subnets.
            own: the base addresses of the gateway's pods.
            owners: who owns what on the gateway.
        """
        early = self._looks.early(work)
        if early is not None:
            return early
        if owners.waiting:
            return self._hindered(owners.waiting)
        found = {
            str(item.address.ip): item
            for snapshot in snapshots
            for item in unowned(
                snapshot,
                owned=owners.by_address,
                own=own,
                subnets=subnets,
                inside=self._inside,
                settings=self._settings,
            )
        }
        reported = {ip: item.doubt for ip, item in found.items() if item.doubt is not None}
        now = time.time()
        suspects = self._suspects(work, [ip for ip, item in found.items() if item.doubt is None], now)
        leaks = [ip for ip, since in suspects.items() if now - since >= self._settings.audit_pause]
        releases = [self._leak(work, found[ip].address, found[ip].subnet, suspects[ip]) for ip in leaks]
        new = [release for release in releases if self._work_queue.records.work(release.id) is None]
        self._work_queue.publish_now(new, "published", why=f"found by {work.id}")
        if len(leaks) < len(suspects):
            return NotNowError("unowned addresses have to be seen twice", self._settings.audit_pause)
        return self._looks.concluded(work, Outcome.AUDITED, leaked=leaks, reported=reported)

    def _hindered(self, waiting: Sequence[EIP]) -> Answer:
        """Any address nobody owns may be that of an EIP without one, which mostly gets it soon."""
        why = f"the gateway cannot be audited while {', '.join(eip.name for eip in waiting)} has no address yet"
        if all(time.time() - eip.created < STUCK_SECONDS for eip in waiting):
            return NotNowError(why, self._settings.audit_pause)
        return TransientError(f"{why}. If that EIP never gets one, delete it; then requeue this job.")

    def _suspects(self, work: Audit, unowned_ips: Iterable[str], now: float) -> dict[str, float]:
        """Since when each address that is unowned now was seen so, without a look in between that said otherwise."""
        stored = json.loads(self._work_queue.records.fields(work.id).get("suspects", "{}"))
        suspects = {ip: stored.get(ip, now) for ip in unowned_ips}
        self._work_queue.records.note(work.id, suspects=json.dumps(suspects))
        return suspects

    @staticmethod
    def _leak(work: Audit, address: Address, subnet: str, since: float) -> Release:
        # Named after the leak, so that it stays one release however often it is seen before it is worked off.
        place = sha256(f"{work.gateway} {address.ip}".encode()).hexdigest()[:12]
        return Release(
            id=f"leak-{place}-{int(since)}",
            cluster=work.cluster,
            gateway=work.gateway,
            eip=work.eip,
            uid=None,
            namespace=work.namespace,
            seen_at=since,
            addresses=(address.ip,),
            subnet=subnet,
            reason="leaked",
            was_ready=True,
        )


def unowned(
    snapshot: Snapshot,
    *,
    owned: Collection[str],
    own: Collection[IPAddress],
    subnets: Collection[Subnet],
    inside: Iterable[str],
    settings: Settings,
) -> list[Unowned]:
    """The addresses of one gateway pod that nobody owns, each with why it is only reported, if so.

    Args:
        snapshot: what the pod carries.
        owned: addresses that EIPs of the gateway own.
        own: the base addresses of the gateway's pods.
        subnets: the gateway's external subnets.
        inside: interfaces that are not external.
        settings: for what the operator protects.
    """
    found = []
    skipped = set(inside)
    for address in snapshot.addresses:
        subnet = next((subnet for subnet in subnets if subnet.network_of(address.ip)), None)
        if address.interface in skipped or address.scope != "global" or str(address.ip) in owned or subnet is None:
            continue
        found.append(Unowned(address, subnet.name, _doubt(address, subnet, own, subnets, settings)))
    return found


def _doubt(
    address: Address, subnet: Subnet, own: Collection[IPAddress], subnets: Iterable[Subnet], settings: Settings
) -> str | None:
    network = subnet.network_of(address.ip)
    protected = why_protected(address.ip, own=own, subnets=subnets, settings=settings)
    if protected is not None:
        return protected
    if network is not None and address.prefix_length != network.prefixlen:
        return f"its prefix length is {address.prefix_length}, not that of subnet {subnet.name}"
    if subnet.excludes(address.ip):
        return f"subnet {subnet.name} excludes it from what Kube-OVN hands out"
    return None
