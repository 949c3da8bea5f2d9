"""What Linux does with addresses and routes, as a model: written from devinet.c, fib_frontend.c and addrconf.c.

It knows nothing of plans. `test_kernel_model.py` holds it against the real kernel, `test_plan.py` plans against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    IPAddress,
    Route,
    SetPromoteSecondaries,
    Snapshot,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class RefusedError(Exception):
    """The kernel would refuse."""


@dataclass
class Kernel:
    """One namespace. Interfaces are up; none has an address that nobody gave it, except lo."""

    addresses: dict[str, list[Address]]
    routes: list[Route] = field(default_factory=list)
    knobs: dict[str, bool] = field(default_factory=dict)
    promotions: int = 0

    @classmethod
    def with_interfaces(cls, names: Iterable[str]) -> Kernel:
        loopback = [
            Address("lo", ip_address("127.0.0.1"), 8, scope="host"),
            Address("lo", ip_address("::1"), 128, scope="host"),
        ]
        interfaces = {"lo": loopback, **{name: [] for name in names}}
        return cls(interfaces, knobs=dict.fromkeys(interfaces, False))

    def snapshot(self) -> Snapshot:
        return Snapshot(
            addresses=tuple(address for held in self.addresses.values() for address in held),
            routes=tuple(self.routes),
            promote_secondaries=dict(self.knobs),
        )

    def carry_out(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case SetPromoteSecondaries(interface, value):
                    self.knobs[interface] = value
                case DeleteAddress(address):
                    self.delete(address.interface, address.ip, address.prefix_length)
                case AddAddress(interface, ip, length):
                    self.add(interface, f"{ip}/{length}")
                case AddRoute(route):
                    self.add_route(route)

    # Addresses

    def add(self, interface: str, text: str) -> None:
        given = ip_interface(text)
        address = Address(interface, given.ip, given.network.prefixlen)
        if given.version == 4:
            self._add_ipv4(address)
        else:
            self._add_ipv6(address)

    def _add_ipv4(self, address: Address) -> None:
        held = self.addresses[address.interface]
        mates = [other for other in held if other.ip.version == 4 and other.network == address.network]
        if any(other.ip == address.ip for other in mates):
            return
        address = replace(address, secondary=bool(mates))
        primaries = [place for place, other in enumerate(held) if other.ip.version == 4 and not other.secondary]
        ipv4 = [place for place, other in enumerate(held) if other.ip.version == 4]
        place = (ipv4 if address.secondary else primaries)[-1:] or [-1]
        held.insert(place[0] + 1, address)
        if not mates and address.prefix_length < 32:
            self.routes.append(_connected(address))

    def _add_ipv6(self, address: Address) -> None:
        held = self.addresses[address.interface]
        if any(other.ip == address.ip for other in held):
            return  # whatever its prefix length
        first = next((place for place, other in enumerate(held) if other.ip.version == 6), len(held))
        held.insert(first, address)  # newest first
        route = _connected(address)
        if route not in self.routes:
            self.routes.append(route)

    def delete(self, interface: str, ip: IPAddress, length: int) -> None:
        for address in self.addresses[interface]:
            if address.ip == ip and address.prefix_length == length:
                if ip.version == 4:
                    self._delete_ipv4(address)
                else:
                    self._delete_ipv6(address)
                return

    def _delete_ipv4(self, address: Address) -> None:
        interface, held = address.interface, self.addresses[address.interface]
        after = held[held.index(address) + 1 :]
        secondaries = [] if address.secondary else [o for o in after if o.secondary and o.network == address.network]
        if secondaries and not (self.knobs[interface] or self.knobs.get("all")):
            for secondary in secondaries:
                held.remove(secondary)
                self._forget_sources(secondary.ip)
            secondaries = []
        place = held.index(address)
        held.remove(address)
        if not address.secondary:
            connected = self.routes.index(_connected(address)) if _connected(address) in self.routes else None
            if secondaries:
                promoted = replace(secondaries[0], secondary=False)
                self.promotions += 1
                held.remove(secondaries[0])
                later = [p for p, o in enumerate(held) if p >= place and o.ip.version == 4 and not o.secondary]
                held.insert(later[-1] + 1 if later else place, promoted)
                if connected is not None:
                    self.routes[connected] = _connected(promoted)
            elif connected is not None:
                del self.routes[connected]
        self._forget_sources(address.ip)
        if not any(other.ip.version == 4 for other in held):
            self.routes = [route for route in self.routes if route.family == 6 or route.interface != interface]

    def _forget_sources(self, ip: IPAddress) -> None:
        if ip not in self._local(4):
            self.routes = [
                route
                for route in self.routes
                if not (route.family == 4 and route.table == "main" and route.source == str(ip))
                or route.protocol == "kernel"
            ]

    def _delete_ipv6(self, address: Address) -> None:
        held = self.addresses[address.interface]
        held.remove(address)
        if not any(other.network == address.network for other in held):
            through = [
                route
                for route in self.routes
                if route.family == 6
                and route.table == "main"
                and route.gateway is None
                and (route.interface, route.destination) == (address.interface, str(address.network))
            ]
            if through:
                self.routes.remove(min(through, key=lambda route: route.metric or 0))
        if address.ip not in self._local(6):
            self.routes = [
                replace(route, source=None) if route.source == str(address.ip) else route for route in self.routes
            ]

    def _local(self, version: int) -> set[IPAddress]:
        return {o.ip for held in self.addresses.values() for o in held if o.ip.version == version}

    # Routes

    def add_route(self, route: Route) -> None:
        """Add a route as `ip route add` does.

        Raises:
            RefusedError: its source or its next hop is not one.
        """
        key = (route.family, route.destination, route.table, route.metric)
        if any((o.family, o.destination, o.table, o.metric) == key for o in self.routes):
            return
        if route.source and ip_address(route.source) not in self._local(route.family):
            raise RefusedError(f"source of {route}")
        if route.gateway and not route.onlink:
            gateway = ip_address(route.gateway)
            if not any(
                o.interface == route.interface
                and o.family == route.family
                and o.gateway is None
                and o.table == "main"
                and o.destination != "default"
                and gateway in ip_network(o.destination)
                for o in self.routes
            ):
                raise RefusedError(f"next hop of {route}")
        self.routes.append(route)


def _connected(address: Address) -> Route:
    """The route the kernel makes for an address."""
    if address.ip.version == 6:
        return Route(str(address.network), address.interface, protocol="kernel", metric=256, family=6)
    return Route(
        str(address.network), address.interface, source=str(address.ip), protocol="kernel", scope="link", family=4
    )
