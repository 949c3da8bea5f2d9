"""The words of iproute2: what `ip -j` prints, as a `Snapshot`; a `Step`, as a line of the script `gateway.sh`.

Names and numbers are those of rtnetlink(7), so that both drivers say the same of the same kernel. `ip -N` prints
numbers, because names depend on the image's /etc/iproute2; names are understood too.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from shared.errors import PermanentError
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    Route,
    SetPromoteSecondaries,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
PROTOCOLS = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp"}
TABLES = {253: "default", 254: "main", 255: "local"}

INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}", re.ASCII)
"""The interface names that are passed on; the kernel allows more (IFNAMSIZ, no slash, no space)."""

_SUPPORTED = {
    "type", "dst", "gateway", "via", "dev", "protocol", "scope", "prefsrc", "table", "metric", "flags", "pref",
}  # fmt: skip


def word(words: Mapping[int, str], value: int | str) -> str:
    """The name of a number, or the number itself where it has none; a name stays one."""
    text = str(value)
    return words.get(int(text), text) if text.isdigit() else text


def number(words: Mapping[int, str], name: str) -> int:
    """The number of a name.

    Raises:
        PermanentError: the name is not one of rtnetlink's own.
    """
    if name.isdigit():
        return int(name)
    for value, known in words.items():
        if known == name:
            return value
    raise PermanentError(f"{name!r} is no number and no name of rtnetlink's: such a route is put back by hand")


def addresses_of(links: Iterable[Mapping[str, Any]]) -> list[Address]:
    """The addresses that `ip -j addr show` printed, in its order.

    Raises:
        KeyError, TypeError, ValueError: it does not have that command's shape.
    """
    return [
        Address(
            interface=str(link["ifname"]),
            ip=ip_address(info["local"]),
            prefix_length=int(info["prefixlen"]),
            secondary=info["family"] == "inet" and bool(info.get("secondary", False)),
            scope=word(SCOPES, info["scope"]),
            peer=ip_address(info["address"]) if "address" in info else None,
        )
        for link in links
        if "ifname" in link
        for info in link.get("addr_info", ())
        if "local" in info
    ]


def routes_of(routes: Iterable[Mapping[str, Any]], family: int) -> list[Route]:
    """The unicast routes that `ip -j -4|-6 route show table all` printed; one for each leg of a multipath route.

    Raises:
        KeyError, TypeError, ValueError: it does not have that command's shape.
    """
    found = []
    for route in routes:
        if word({1: "unicast"}, route.get("type", "unicast")) != "unicast":
            continue
        table = word(TABLES, route.get("table", "main"))
        if table == "local":
            continue
        extra = sorted(set(route) - _SUPPORTED)
        for leg in route.get("nexthops", [route]):
            if "dev" not in leg:
                continue
            via = leg.get("via")
            found.append(
                Route(
                    destination=prefix(route["dst"]),
                    interface=str(leg["dev"]),
                    gateway=via["host"] if via else leg.get("gateway"),
                    source=route.get("prefsrc"),
                    protocol=word(PROTOCOLS, route.get("protocol", "boot")),
                    scope=word(SCOPES, route.get("scope", "global")),
                    table=table,
                    metric=int(route["metric"]) if route.get("metric") else None,
                    onlink="onlink" in leg.get("flags", ()),
                    family=family,
                    unsupported=tuple("multipath" if name == "nexthops" else name for name in extra),
                )
            )
    return found


def prefix(destination: str) -> str:
    """`default`, or the destination with its prefix length, which `ip` leaves away for a single host."""
    return destination if destination == "default" else str(ip_network(destination))


def line_of(step: Step) -> str:
    """One step as a line of the script's language, every token checked here and again over there.

    Raises:
        PermanentError: an interface's name or a route's attribute is not one that is passed on.
    """
    match step:
        case SetPromoteSecondaries(interface, value):
            return f"promote {checked(interface)} {int(value)}"
        case DeleteAddress(Address(interface, ip, length, peer=peer)):
            line = f"del {checked(interface)} {ip_address(ip)}/{int(length)}"
            return f"{line} {ip_address(peer)}" if peer else line
        case AddAddress(interface, ip, length, lifetime):
            line = f"add {checked(interface)} {ip_address(ip)}/{int(length)}"
            return line if lifetime is None else f"{line} {int(lifetime)}"
        case AddRoute(route):
            return " ".join(
                (
                    "route",
                    str(int(route.family)),
                    prefix(route.destination),
                    checked(route.interface),
                    str(ip_address(route.gateway)) if route.gateway else "-",
                    str(ip_address(route.source)) if route.source else "-",
                    str(number(PROTOCOLS, route.protocol)),
                    str(number(SCOPES, route.scope)),
                    str(number(TABLES, route.table)),
                    str(int(route.metric)) if route.metric else "-",
                    "onlink" if route.onlink else "-",
                )
            )


def checked(interface: str) -> str:
    """The interface's name, when it is one that is passed on.

    Raises:
        PermanentError: it is not.
    """
    if not INTERFACE.fullmatch(interface):
        raise PermanentError(
            f"an interface named {interface!r} is not touched: rename it, or remove the address by hand"
        )
    return interface
