"""Putting a real namespace into a generated state, and looking at it with iproute2 alone, not with a driver."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from tests.gateways.cases import INTERFACES
from workers.gateways.interface import Snapshot
from workers.gateways.iproute import addresses_of, routes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.netns import NetworkNamespace
    from tests.gateways.cases import Case
    from workers.gateways.interface import Address, Route


def build(namespace: NetworkNamespace, case: Case) -> None:
    """Bring a namespace with the interfaces of `conftest.netns` into a case's state, whatever it was in before."""
    flush = [f"addr flush dev {interface}" for interface in INTERFACES]
    flush += [f"route flush dev {interface} table all" for interface in INTERFACES]
    addresses = [
        f"addr add {address} dev {interface}{' nodad' if ':' in address else ''}"
        for interface, address in case.addresses
    ]
    batch(namespace, [*flush, *addresses, *(route_command(route) for route in case.routes if route.family == 4)])
    batch(namespace, [route_command(route) for route in case.routes if route.family == 6], "-6")
    values = " ".join(f"{interface}={int(interface in case.promoting)}" for interface in INTERFACES)
    namespace.run(
        "bash",
        "-c",
        'for pair; do echo "${pair#*=}" > "/proc/sys/net/ipv4/conf/${pair%=*}/promote_secondaries"; done',
        "bash",
        *values.split(),
    )


def batch(namespace: NetworkNamespace, commands: Iterable[str], *options: str) -> None:
    """Run `ip` commands one after another; what the kernel refuses is left out."""
    namespace.run("ip", *options, "-force", "-batch", "-", stdin="\n".join([*commands, ""]), check=False)


def route_command(route: Route) -> str:
    """The arguments of `ip` that add a route."""
    words = ["route", "add", route.destination, "dev", route.interface, "table", route.table]
    words += ["proto", route.protocol]
    words += ["via", route.gateway] if route.gateway else []
    words += ["src", route.source] if route.source else []
    words += ["metric", str(route.metric)] if route.metric else []
    words += ["scope", route.scope] if route.family == 4 else []
    words += ["onlink"] if route.onlink else []
    return " ".join(words)


def snapshot(namespace: NetworkNamespace) -> Snapshot:
    """What iproute2 and /proc say of the interfaces of a case."""

    def shown(*args: str) -> Any:
        return json.loads(namespace.ip("-j", *args) or "[]")

    names = {*INTERFACES, "lo"}
    addresses: list[Address] = addresses_of(shown("addr", "show"))
    routes = routes_of(shown("-4", "route", "show", "table", "all"), 4)
    routes += routes_of(shown("-6", "route", "show", "table", "all"), 6)
    return Snapshot(
        tuple(address for address in addresses if address.interface in names),
        tuple(route for route in routes if route.interface in names),
        {name: promote_secondaries(namespace, name) for name in names},
    )


def promote_secondaries(namespace: NetworkNamespace, interface: str) -> bool:
    """The flag, as /proc shows it inside."""
    path = f"/proc/sys/net/ipv4/conf/{interface}/promote_secondaries"
    return namespace.run("cat", path).stdout.strip() == "1"


def everything(namespace: NetworkNamespace) -> dict[str, str]:
    """What a person compares by eye: the output of the usual commands."""
    said = {
        "addresses": namespace.ip("-o", "addr"),
        "routes": namespace.ip("-4", "route", "show", "table", "all"),
        "IPv6 routes": namespace.ip("-6", "route", "show", "table", "all"),
        "rules": namespace.ip("rule"),
        "IPv6 rules": namespace.ip("-6", "rule"),
        "neighbours": namespace.ip("neigh", "show", "nud", "permanent"),
    }
    for tool in ("iptables-save", "nft"):
        if shutil.which(tool):
            said[tool] = namespace.run(tool, *(("list", "ruleset") if tool == "nft" else ())).stdout
    return said
