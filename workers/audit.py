"""The audit: what a gateway carries, against what should be there; the cleaning is a step of its own.

It proposes only what Kube-OVN could have put on the gateway (design, "An audit proposes only …"); what it doubts
about it reports and leaves alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared.kube.objects import Subnet
from shared.models import IPAddress
from shared.settings import Settings
from workers.gateways.interface import Address, Snapshot
from workers.guards import why_protected


@dataclass(frozen=True, slots=True)
class Unowned:
    """An address on a gateway that no EIP of it owns."""

    address: Address
    subnet: str
    doubt: str | None
    """Why it is only reported; None when it is proposed for release."""


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
