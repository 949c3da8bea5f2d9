"""Who owns what on a gateway, as the API's objects and the inventory tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.errors import MalformedObjectError
from shared.kube.api import Object
from shared.kube.objects import claimed_texts, read_eip
from shared.log import get_logger
from shared.models import EIP, IPAddress

log = get_logger(__name__)

UNREADABLE = "an EIP that cannot be read"


@dataclass(slots=True)
class Owners:
    """Who owns what on one gateway, at one moment."""

    by_address: dict[str, str] = field(default_factory=dict)
    """Address → who owns it, in words."""
    eips: dict[str, EIP] = field(default_factory=dict)
    """By UID, the gateway's EIPs that the API lists and that can be read."""
    known: dict[str, str] = field(default_factory=dict)
    """Address → UID of its owner, where only the inventory tells of one."""
    vouched: bool = True
    """Whether the inventory can be relied on (`shared.vouching`): else an owner may be known to nobody."""
    asked_ahead: bool = False
    """Whether they were asked for ahead of the look, so that it is not known yet where the addresses were."""
    _names: dict[str, str] = field(default_factory=dict)

    def of(self, address: IPAddress) -> str | None:
        """Who owns the address, in words; None for nobody."""
        return self.by_address.get(str(address))

    def name_of(self, address: IPAddress) -> str | None:
        """The EIP that owns the address, by its name where that is known; None for nobody."""
        return self._names.get(str(address)) or self.of(address)

    @property
    def waiting(self) -> list[EIP]:
        """EIPs of the gateway that have no address yet."""
        return [eip for eip in self.eips.values() if not eip.addresses and not eip.terminating]

    @property
    def placed(self) -> set[str]:
        """Addresses that Kube-OVN has put on the gateway for an owner that the API lists."""
        return {address for eip in self.eips.values() if eip.placed for address in eip.addresses}

    def add(self, eip: EIP) -> None:
        """Count an EIP of the gateway in."""
        self.eips[eip.uid] = eip
        for address in eip.addresses:
            self.by_address[address] = f"terminating EIP {eip.name}" if eip.terminating else f"EIP {eip.name}"
            self._names[address] = eip.name

    def add_known(self, address: str, uid: str) -> None:
        """Count in an owner that only the inventory tells of."""
        self.known[address] = uid
        self.by_address[address] = f"known EIP with UID {uid}"

    def add_unreadable(self, addresses: Iterable[str]) -> None:
        """Count in what an object that cannot be read claims."""
        for address in addresses:
            self.by_address.setdefault(address, UNREADABLE)


class Ownership:
    """Who owns what on every gateway, as one list of EIPs tells."""

    def __init__(self, items: Iterable[Object]) -> None:
        self._gateways: dict[str, Owners] = {}
        self._unreadable: set[str] = set()
        for item in items:
            try:
                eip = read_eip(item)
            except MalformedObjectError as error:
                # What cannot be read may still be an owner, and on any gateway.
                log.error("object cannot be read", reason=str(error))
                self._unreadable |= claimed_texts(item)
            else:
                self._gateways.setdefault(eip.gateway, Owners()).add(eip)

    def of(self, gateway: str) -> Owners:
        """Who owns what on one of them."""
        owners = self._gateways.setdefault(gateway, Owners())
        owners.add_unreadable(self._unreadable)
        return owners

    def eips(self) -> list[EIP]:
        """All that can be read."""
        return [eip for owners in self._gateways.values() for eip in owners.eips.values()]
