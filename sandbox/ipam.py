"""Which addresses of a subnet are in use, and which one is handed out next.

One `SubnetPool` per Subnet object. An owner is any string (the controller takes an EIP's UID and an IP object's
name), holds at most one address per family, and keeps it when it asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Reuse = Literal["lowest", "last", "newest"]


class AddressUnavailableError(Exception):
    """The address is taken, outside the subnet or excluded, or the subnet has none left."""


@dataclass
class SubnetPool:
    """The addresses of one Subnet object.

    `reuse` says when a released address is handed out again: `lowest` always takes the lowest free one, so a
    released address comes back soon; `last` takes it only when no address is left that was never used, the
    longest released first; `newest` takes the one released last, so that it comes back at once.
    """

    name: str
    networks: tuple[IPNetwork, ...]
    gateways: frozenset[IPAddress] = frozenset()
    excluded: tuple[tuple[IPAddress, IPAddress], ...] = ()
    reuse: Reuse = "lowest"
    held: dict[IPAddress, str] = field(default_factory=dict)
    released: list[IPAddress] = field(default_factory=list)

    @classmethod
    def from_subnet(cls, subnet: Mapping[str, Any], reuse: Reuse = "lowest") -> SubnetPool:
        """Build the pool of a Subnet object: `cidrBlock`, `gateway` and `excludeIps` of its spec."""
        spec = subnet["spec"]
        return cls(
            name=subnet["metadata"]["name"],
            networks=tuple(ip_network(cidr) for cidr in split_families(spec["cidrBlock"])),
            gateways=frozenset(ip_address(ip) for ip in split_families(spec.get("gateway", ""))),
            excluded=tuple(_range(text) for text in spec.get("excludeIps") or ()),
            reuse=reuse,
        )

    def network_of(self, ip: IPAddress) -> IPNetwork:
        """The subnet's CIDR that an address belongs to.

        Raises:
            AddressUnavailableError: it is in none of them.
        """
        for network in self.networks:
            if ip.version == network.version and ip in network:
                return network
        raise AddressUnavailableError(f"{ip} is not in subnet {self.name}")

    def addresses_of(self, owner: str) -> tuple[IPAddress, ...]:
        """What an owner holds, IPv4 first."""
        return tuple(sorted((ip for ip, holder in self.held.items() if holder == owner), key=_order))

    def allocate(self, owner: str, wanted: Iterable[IPAddress] = ()) -> tuple[IPAddress, ...]:
        """Give an owner one address of each family: the wanted one where there is one, else the next free one.

        Raises:
            AddressUnavailableError: nothing was taken.
        """
        by_version = {ip.version: ip for ip in (*self.addresses_of(owner), *wanted)}
        for network in self.networks:
            if network.version not in by_version:
                by_version[network.version] = self._next_free(network)
        for ip in by_version.values():
            self._check(ip, owner)
        for ip in by_version.values():
            self.hold(owner, ip)
        return self.addresses_of(owner)

    def hold(self, owner: str, ip: IPAddress) -> None:
        """Note that an owner has an address already, wherever it came from: an excluded one is held as well."""
        self.held[ip] = owner
        if ip in self.released:
            self.released.remove(ip)

    def hand_over(self, former: str, owner: str) -> None:
        """Let one owner take the place of another."""
        for ip in self.addresses_of(former):
            self.held[ip] = owner

    def release(self, owner: str, *, again: bool = True) -> tuple[IPAddress, ...]:
        """Take back all that an owner holds; what that was. `again` puts it among what `reuse` is about."""
        addresses = self.addresses_of(owner)
        for ip in addresses:
            del self.held[ip]
            if again:
                self.released.append(ip)
        return addresses

    def highest_free(self, version: int) -> IPAddress:
        """The free address farthest from those that EIPs get; where a gateway's base address goes.

        Raises:
            AddressUnavailableError: the subnet has none left.
        """
        network = next(network for network in self.networks if network.version == version)
        return self._first(reversed(_Hosts(network)))

    def is_reserved(self, ip: IPAddress) -> bool:
        """Whether the subnet keeps an address for itself: its gateway, or one of `excludeIps`."""
        return ip in self.gateways or any(
            first.version == ip.version and int(first) <= int(ip) <= int(last) for first, last in self.excluded
        )

    def _check(self, ip: IPAddress, owner: str) -> None:
        self.network_of(ip)
        if ip in self.gateways:
            raise AddressUnavailableError(f"{ip} is the gateway of subnet {self.name}")
        if self.held.get(ip, owner) != owner:
            raise AddressUnavailableError(f"{ip} of subnet {self.name} is taken")

    def _next_free(self, network: IPNetwork) -> IPAddress:
        again = [ip for ip in self.released if ip in network]
        if self.reuse == "lowest":
            return self._first(_Hosts(network))
        if self.reuse == "newest":
            return self._first(chain(reversed(again), _Hosts(network)))
        try:
            return self._first(_Hosts(network), besides=set(again))
        except AddressUnavailableError:
            return self._first(again)

    def _first(self, candidates: Iterable[IPAddress], besides: set[IPAddress] | None = None) -> IPAddress:
        for ip in candidates:
            if ip not in self.held and not self.is_reserved(ip) and not (besides and ip in besides):
                return ip
        raise AddressUnavailableError(f"subnet {self.name} has no address left")


class _Hosts:
    """The host addresses of a network in order, from either end, never listed out: an IPv6 one has 2^64."""

    def __init__(self, network: IPNetwork) -> None:
        self.network = network

    def __iter__(self) -> Iterator[IPAddress]:
        return (self.network[n] for n in range(1, self.network.num_addresses - 1))

    def __reversed__(self) -> Iterator[IPAddress]:
        return (self.network[n] for n in range(self.network.num_addresses - 2, 0, -1))


def split_families(text: str) -> list[str]:
    """Kube-OVN writes both families of one thing as `v4,v6`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _range(text: str) -> tuple[IPAddress, IPAddress]:
    """An entry of `excludeIps`: one address, or `first..last`."""
    first, _, last = text.partition("..")
    return ip_address(first), ip_address(last or first)


def _order(ip: IPAddress) -> tuple[int, int]:
    return ip.version, int(ip)
