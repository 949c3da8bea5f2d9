"""What must never be taken away, whoever asks for it: decided from data alone, before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from shared.kube.objects import Subnet
from shared.models import IPAddress
from shared.settings import Settings


def why_protected(
    address: IPAddress, *, own: Collection[IPAddress], subnets: Iterable[Subnet], settings: Settings
) -> str | None:
    """Why an address is not an EIP that could be released; None for one that is.

    Args:
        address: the address in question.
        own: the base addresses of the gateway's pods.
        subnets: the gateway's external subnets.
        settings: for what the operator protects.
    """
    if settings.protects(address):
        return "it is listed in EIP_RECLAIMER_PROTECTED_ADDRESSES"
    if address in own:
        return "it is the gateway pod's own address"
    for subnet in subnets:
        role = subnet.own_address(address)
        if role is not None:
            return f"it is {role}"
    return None
