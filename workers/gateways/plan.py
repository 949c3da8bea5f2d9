"""The decision: these addresses, this target, these flags — which steps in which order.

Pure functions over snapshots. What they know about Linux (measured on 6.18; `devinet.c`, `fib_frontend.c` and
`addrconf.c` of the kernel's sources are where to look):

- Deleting an IPv4 primary takes the secondaries of its subnet along, unless promote_secondaries is set on the interface
  or for `all`; then the next one is promoted and only the connected route's source changes.
- With its last IPv4 address an interface loses every IPv4 route through it, of every table.
- With an IPv4 address that is nowhere any more go the routes of table `main` that name it as their source, on any
  interface. Routes of other tables stay, and so do IPv6 routes, which only forget the source.
- With the last IPv6 address of a prefix goes the *first* route to that prefix through the interface: a static one,
  where its metric is lower than the connected route's.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from shared.errors import PermanentError
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    IPAddress,
    IPNetwork,
    Route,
    SetPromoteSecondaries,
    Snapshot,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

UNTOUCHABLE_INTERFACES = ("lo",)

BRIDGE_SECONDS = 60
"""How long the kernel keeps an address's second entry when nobody lives to take it away again."""


def plan_deletion(
    snapshot: Snapshot,
    targets: Collection[IPAddress],
    untouchable_interfaces: Collection[str] = UNTOUCHABLE_INTERFACES,
) -> list[Step]:
    """The steps that take the targets off every interface that may be touched, and nothing else with them.

    Secondaries go before primaries, so that at most one address per subnet is promoted. The knob is set before any
    primary goes, also where no secondary is known: one may be added between the reading and the deletion. Around a
    promotion the remaining addresses of the subnet are on the interface twice, so that nobody's packets are dropped.

    Returns:
        Nothing, when no target is there.

    Raises:
        PermanentError: a route would be lost that cannot be put back as it was.
    """
    doomed = _doomed(snapshot, targets, untouchable_interfaces)
    primaries = [address for address in doomed if address.ip.version == 4 and not address.secondary]
    others = [address for address in doomed if address.ip.version == 6 or address.secondary]
    promoting = [
        interface
        for interface in dict.fromkeys(address.interface for address in primaries)
        if not (snapshot.promote_secondaries.get(interface) or snapshot.promote_secondaries.get("all"))
    ]
    bridges = _bridges(snapshot, doomed, primaries)
    return [
        *(SetPromoteSecondaries(interface, value=True) for interface in promoting),
        *(DeleteAddress(address) for address in others),
        *(AddAddress(each.interface, each.ip, each.prefix_length, BRIDGE_SECONDS) for each in bridges),
        *(DeleteAddress(address) for address in primaries),
        *(DeleteAddress(address) for address in bridges),
        *(AddRoute(route) for route in _routes_to_put_back(snapshot, doomed)),
        *(SetPromoteSecondaries(interface, value=False) for interface in promoting),
    ]


def plan_restoration(snapshot: Snapshot, addresses: Iterable[Address]) -> list[Step]:
    """The steps that put addresses back on their interfaces, with their prefix lengths, where they are missing."""
    present = {(address.interface, address.ip, address.prefix_length) for address in snapshot.addresses}
    return [
        AddAddress(address.interface, address.ip, address.prefix_length)
        for address in dict.fromkeys(addresses)
        if (address.interface, address.ip, address.prefix_length) not in present
    ]


def missing_after(
    before: Snapshot,
    after: Snapshot,
    targets: Collection[IPAddress],
    untouchable_interfaces: Collection[str] = UNTOUCHABLE_INTERFACES,
) -> list[str]:
    """How two snapshots differ from "the targets are gone and everything else is still there".

    What appeared in between is nobody's loss and not reported; nor are a connected route's source and the connected
    route of a subnet that has no address left.

    Returns:
        One sentence per difference for a person to read; empty is the proof.
    """
    doomed = set(_doomed(before, targets, untouchable_interfaces))
    kept = [address for address in before.addresses if address not in doomed]
    present = {_identity(address) for address in after.addresses}
    differences = [f"{address} is still there" for address in _doomed(after, targets, untouchable_interfaces)]
    differences += [f"{address} is gone" for address in kept if _identity(address) not in present]
    differences += _missing_routes(before.routes, after.routes, kept, {address.ip for address in doomed})
    touched = {address.interface for address in before.addresses}
    differences += [
        f"promote_secondaries of {interface} was {int(value)} and is {int(after.promote_secondaries[interface])}"
        for interface, value in before.promote_secondaries.items()
        if interface in touched and after.promote_secondaries.get(interface, value) != value
    ]
    return differences


def _doomed(snapshot: Snapshot, targets: Collection[IPAddress], untouchable: Collection[str]) -> list[Address]:
    wanted = frozenset(targets)
    return [address for address in snapshot.addresses if address.ip in wanted and address.interface not in untouchable]


def _bridges(snapshot: Snapshot, doomed: Collection[Address], primaries: Iterable[Address]) -> list[Address]:
    """Second entries for the addresses that stay when these primaries go, of those that have none yet."""
    subnets = {(primary.interface, primary.network) for primary in primaries if primary.prefix_length < 32}
    if not subnets:
        return []
    present = {(address.interface, address.ip, address.prefix_length) for address in snapshot.addresses}
    going = set(doomed)
    return [
        Address(address.interface, address.ip, 32)
        for address in snapshot.addresses
        if (address.interface, address.network) in subnets
        and address not in going
        and (address.interface, address.ip, 32) not in present
    ]


def _identity(address: Address) -> tuple[object, ...]:
    """All of it but whether it is a secondary."""
    return address.interface, address.ip, address.prefix_length, address.scope, address.peer


def _routes_to_put_back(snapshot: Snapshot, doomed: Sequence[Address]) -> list[Route]:
    """The routes that the kernel may drop along with the doomed addresses, in an order in which it takes them back."""
    going = set(doomed)
    kept = [address for address in snapshot.addresses if address not in going]
    kept_ips = {str(address.ip) for address in kept}
    doomed_ips = {str(address.ip) for address in doomed}
    emptied = {address.interface for address in doomed if address.ip.version == 4} - {
        address.interface for address in kept if address.ip.version == 4
    }
    abandoned = {
        (address.interface, str(address.network))
        for address in doomed
        if address.ip.version == 6
        and not any(other.interface == address.interface and other.network == address.network for other in kept)
    }
    lost = []
    for route in snapshot.routes:
        if route.protocol == "kernel":
            continue
        if route.family == 4:
            is_lost = route.interface in emptied or (route.source in doomed_ips and route.table == "main")
        else:
            is_lost = (route.interface, route.destination) in abandoned
        if is_lost:
            if route.unsupported:
                raise _cannot_come_back(route, doomed_ips, ", ".join(route.unsupported))
            gone = route.source in doomed_ips and route.source not in kept_ips
            lost.append(replace(route, source=None) if gone else route)
    if not lost:
        return []
    lost.sort(key=lambda route: route.gateway is not None)  # a next hop is looked up among the routes already there
    on_link = [(address.interface, address.network) for address in kept] + [
        (route.interface, ip_network(route.destination))
        for route in lost
        if route.gateway is None and route.destination != "default"
    ]
    return [
        route if _reachable(route, on_link) else _as_onlink(route, kept_ips=kept_ips, doomed_ips=doomed_ips)
        for route in lost
    ]


def _as_onlink(route: Route, *, kept_ips: set[str], doomed_ips: set[str]) -> Route:
    """The route for a next hop that no network reaches any more."""
    if route.gateway in kept_ips:
        # The kernel takes its own address for a next hop only while a network of the interface has it.
        raise _cannot_come_back(route, doomed_ips, "its next hop is an address of the pod itself")
    return replace(route, onlink=True)


def _cannot_come_back(route: Route, doomed_ips: set[str], why: str) -> PermanentError:
    return PermanentError(
        f"{', '.join(sorted(doomed_ips))} cannot be taken off without losing the route {route}, which "
        f"cannot be put back as it was ({why}): remove the address by hand, `ip addr del`, and add the route again"
    )


def _reachable(route: Route, on_link: Iterable[tuple[str, IPNetwork]]) -> bool:
    """Whether the kernel would take the next hop without being told that it is on the link."""
    if route.gateway is None or route.onlink:
        return True
    gateway = ip_address(route.gateway)
    return gateway.version == 6 or any(
        interface == route.interface and gateway in network for interface, network in on_link
    )


def _missing_routes(
    before: Iterable[Route], after: Iterable[Route], kept: Iterable[Address], gone: Collection[IPAddress]
) -> list[str]:
    networks = {(address.interface, address.network) for address in kept}
    connected = {(interface, str(network)) for interface, network in networks}
    sources = {str(ip) for ip in gone}
    present: dict[Route, list[Route]] = {}
    for route in after:
        present.setdefault(replace(route, source=None, onlink=False), []).append(route)
    differences = []
    for route in before:
        candidates = present.get(replace(route, source=None, onlink=False), [])
        if route.protocol == "kernel":
            if not candidates and (route.interface, route.destination) in connected:
                differences.append(f"the connected route {route} is gone")
        elif not candidates:
            differences.append(f"the route {route} is gone")
        elif not any(
            (found.source == route.source or (route.source in sources and found.source is None))
            and (found.onlink or not route.onlink)
            for found in candidates
        ):
            differences.append(f"the route {route} has another source or is no longer onlink")
    return differences
