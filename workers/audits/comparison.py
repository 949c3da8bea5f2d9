"""What one gateway carries, against what should be there: a difference, decided from data alone.

Only what Kube-OVN could have put on the gateway is a candidate for release (design, "An audit proposes only …"); what
is doubtful about an address keeps it where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from shared.kube.objects import Subnet
from shared.models import EIP, IPAddress
from shared.reports import Carried, Finding, Kind
from shared.settings import Settings
from workers.gateways.interface import Address, Snapshot
from workers.guards import why_protected
from workers.owners import Owners


@dataclass(frozen=True, slots=True)
class Expected:
    """What a gateway should carry, and what of it may never be taken away."""

    owners: Owners
    own: Collection[IPAddress]
    """The base addresses of the gateway's pods."""
    subnets: Collection[Subnet]
    """The gateway's external subnets."""


@dataclass(frozen=True, slots=True)
class Unowned:
    """An address on a gateway that no EIP of it owns."""

    address: Address
    subnet: str
    doubt: str | None
    """Why it is only reported; None when it is a candidate for release."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An address that an EIP owns, and that pods of the gateway lack."""

    ip: str
    eip: EIP
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference, at one moment."""

    carried: tuple[Carried, ...]
    unowned: dict[str, Unowned]
    """By address."""
    missing: dict[str, Missing]
    """By address."""

    @property
    def candidates(self) -> list[str]:
        """Unowned addresses that nothing is doubtful about."""
        return [ip for ip, item in self.unowned.items() if item.doubt is None]


def compare(
    snapshots: Mapping[str, Snapshot], expected: Expected, *, inside: Iterable[str], settings: Settings
) -> Comparison:
    """Compare what a gateway's pods carry with what should be there.

    Args:
        snapshots: what each active pod carries, by its name.
        expected: what should be there; looked up after the snapshots were taken, so that what comes meanwhile has an
            owner.
        inside: interfaces that are not external.
        settings: for what the operator protects.
    """
    skipped = set(inside)
    places: dict[str, dict[str, Address]] = {}
    """By address, where each pod has it."""
    for pod, snapshot in snapshots.items():
        for address in snapshot.addresses:
            if address.interface not in skipped and address.scope == "global":
                places.setdefault(str(address.ip), {})[pod] = address
    carried, unowned = [], {}
    for ip, by_pod in places.items():
        address = next(iter(by_pod.values()))
        subnet = next((subnet for subnet in expected.subnets if subnet.network_of(address.ip)), None)
        if subnet is None:
            continue
        owner = expected.owners.name_of(address.ip)
        carried.append(Carried(ip, address.prefix_length, address.interface, tuple(sorted(by_pod)), owner, subnet.name))
        if owner is None:
            unowned[ip] = Unowned(address, subnet.name, _doubt(address, subnet, expected, settings))
    missing = {
        ip: Missing(ip, eip, tuple(sorted(lacking)))
        for eip in expected.owners.eips.values()
        if eip.placed and not eip.terminating
        for ip in eip.addresses
        if (lacking := set(snapshots) - set(places.get(ip, ())))
    }
    return Comparison(tuple(carried), unowned, missing)


def _doubt(address: Address, subnet: Subnet, expected: Expected, settings: Settings) -> str | None:
    network = subnet.network_of(address.ip)
    protected = why_protected(address.ip, own=expected.own, subnets=expected.subnets, settings=settings)
    if protected is not None:
        return protected
    if network is not None and address.prefix_length != network.prefixlen:
        return f"its prefix length is {address.prefix_length}, not that of subnet {subnet.name}"
    if subnet.excludes(address.ip):
        return f"subnet {subnet.name} excludes it from what Kube-OVN hands out"
    return None


@dataclass(slots=True)
class Suspicion:
    """Since when things are seen that may come from looking at two sides at two moments: what is real stays.

    One look that does not show a thing drops it.
    """

    since: dict[str, float] = field(default_factory=dict)
    """Seconds since the epoch, by what it is."""
    at: float = 0.0
    """When the last look was, seconds since the epoch."""

    def look(self, comparison: Comparison, now: float) -> None:
        """Take another look in."""
        seen = [*map(_unowned, comparison.candidates), *map(_missing, comparison.missing.values())]
        self.since = {what: self.since.get(what, now) for what in seen}
        self.at = now

    def unowned_since(self, ip: str) -> float:
        """When a candidate of the last look was first seen unowned."""
        return self.since[_unowned(ip)]

    def missing_since(self, missing: Missing) -> float:
        """When what the last look showed missing was first seen so."""
        return self.since[_missing(missing)]

    def is_confirmed(self, since: float, pause: float) -> bool:
        """Whether what was first seen then was seen again at least a pause (seconds) later."""
        return self.at - since >= pause

    def needs_another_look(self, pause: float) -> bool:
        """Whether something was seen once only."""
        return not all(self.is_confirmed(since, pause) for since in self.since.values())


def _unowned(ip: str) -> str:
    return f"unowned {ip}"


def _missing(missing: Missing) -> str:
    # Another EIP that takes the address over in between is another case.
    return f"missing {missing.ip} {missing.eip.uid}"


def findings(
    gateway: str, comparison: Comparison, suspicion: Suspicion, owners: Owners, settings: Settings
) -> list[Finding]:
    """What the last look at a gateway comes to, in the light of those before it.

    Args:
        gateway: the gateway's name.
        comparison: the last look.
        suspicion: which has taken that look in.
        owners: who owned what at that look.
        settings: the pause between two looks; when an EIP is stuck.
    """
    found = []
    for ip, item in comparison.unowned.items():
        kind, why, since = Kind.PROTECTED, item.doubt or "", suspicion.at
        if item.doubt is None:
            since = suspicion.unowned_since(ip)
            kind, why = Kind.LEAKED, "on the gateway, and no EIP of it owns it"
            if owners.waiting:
                names = ", ".join(eip.name for eip in owners.waiting)
                kind, why = Kind.UNDECIDED, f"no EIP owns it, but it may be that of EIP {names}, which has none yet"
            elif not suspicion.is_confirmed(since, settings.audit_pause):
                kind, why = Kind.UNDECIDED, "no EIP owns it, but it was seen so once only: audit again"
        found.append(Finding(kind, gateway, ip, None, why, since, mendable=kind is Kind.LEAKED, subnet=item.subnet))
    for ip, missing in comparison.missing.items():
        since = suspicion.missing_since(missing)
        if suspicion.is_confirmed(since, settings.audit_pause):
            why = f"not on pod {', '.join(missing.pods)}; Kube-OVN puts it back when its controller restarts"
            found.append(Finding(Kind.MISSING, gateway, ip, missing.eip.name, why, since))
    return found + stuck(gateway, owners.eips.values(), suspicion.at, settings)


def stuck(gateway: str, eips: Iterable[EIP], now: float, settings: Settings) -> list[Finding]:
    """EIPs that Kube-OVN does not get on with; nothing of theirs is touched, but somebody should know."""
    found = []
    for eip in eips:
        address = ",".join(eip.addresses) or None
        if eip.terminating_since is not None and now - eip.terminating_since > settings.stuck_after:
            why = "terminating for long: is Kube-OVN's controller up? Its address stays until the object is gone"
            found.append(Finding(Kind.STUCK, gateway, address, eip.name, why, eip.terminating_since))
        elif not eip.terminating and not eip.addresses and now - eip.created > settings.stuck_after:
            why = "without an address for long; while it waits, nothing unowned on the gateway is released"
            found.append(Finding(Kind.STUCK, gateway, None, eip.name, why, eip.created))
    return found
