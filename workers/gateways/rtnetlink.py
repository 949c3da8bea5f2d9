"""rtnetlink(7) messages of pyroute2 in the words of `interface`.

`iproute` does the same for what `ip -j` prints; both say the same of the same kernel.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from workers.gateways.interface import Route
from workers.gateways.iproute import PROTOCOLS, SCOPES, TABLES, number, word
from workers.gateways.routesocket import AF_INET, AF_INET6, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

RTNH_F_ONLINK = 4

_ROUTE_ATTRIBUTES = {
    "RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_VIA", "RTA_OIF", "RTA_PREFSRC", "RTA_PRIORITY", "RTA_CACHEINFO",
    "RTA_PREF", "RTA_MULTIPATH",
}  # fmt: skip
_IPROUTE_NAMES = {"RTA_METRICS": "metrics", "RTA_NH_ID": "nhid", "RTA_ENCAP": "encap", "RTA_SRC": "src"}


class PromoteSecondariesMessage(nlmsg):  # type: ignore[misc]
    """RTM_SETLINK with IFLA_AF_SPEC / AF_INET / IFLA_INET_CONF / IPV4_DEVCONF_PROMOTE_SECONDARIES."""

    fields = ifinfmsg.fields
    nla_map = ((26, "IFLA_AF_SPEC", "_AfSpec"),)

    class _AfSpec(nla):  # type: ignore[misc]
        nla_map = ((AF_INET, "AF_INET", "_AfInet"),)

        class _AfInet(nla):  # type: ignore[misc]
            nla_map = ((1, "IFLA_INET_CONF", "_InetConf"),)

            class _InetConf(nla):  # type: ignore[misc]
                nla_map = ((20, "PROMOTE_SECONDARIES", "uint32"),)

    def __init__(self, index: int, *, value: bool) -> None:
        super().__init__()
        self["index"] = index
        conf = {"attrs": [("PROMOTE_SECONDARIES", int(value))]}
        inet = {"attrs": [("IFLA_INET_CONF", conf)]}
        self["attrs"] = [("IFLA_AF_SPEC", {"attrs": [("AF_INET", inet)]})]


def route_arguments(route: Route, index: int) -> dict[str, Any]:
    """What `IPRoute.route("add", …)` takes to add the route through the interface with this index.

    Raises:
        PermanentError: an attribute is not one that is passed on.
    """
    arguments: dict[str, Any] = {
        "family": AF_INET if route.family == 4 else AF_INET6,
        "dst": route.destination,
        "oif": index,
        "table": number(TABLES, route.table),
        "proto": number(PROTOCOLS, route.protocol),
        "scope": number(SCOPES, route.scope),
        "flags": RTNH_F_ONLINK if route.onlink else 0,
    }
    if route.gateway:
        gateway = ip_address(route.gateway)
        if gateway.version == route.family:
            arguments["gateway"] = str(gateway)
        else:
            arguments["via"] = {"family": AF_INET6, "addr": str(gateway)}
    if route.source:
        arguments["prefsrc"] = route.source
    if route.metric:
        arguments["priority"] = route.metric
    return arguments


@lru_cache(maxsize=4096)
def routes_in(message: bytes, interfaces: tuple[tuple[int, str], ...]) -> tuple[Route, ...]:
    """The unicast route in an RTM_NEWROUTE, or one for each leg of a multipath route; none of table `local`.

    A gateway's routes are mostly those of the last look, so what the same bytes mean is remembered.

    Args:
        message: the whole of it.
        interfaces: index and name of each interface of the namespace.
    """
    decoded = rtmsg(message)
    decoded.decode()
    return tuple(_routes_of(decoded, dict(interfaces)))


def _routes_of(message: Any, names: dict[int, str]) -> Iterator[Route]:
    table = word(TABLES, message.get_attr("RTA_TABLE") or message["table"])
    if table == "local":
        return
    destination = message.get_attr("RTA_DST")
    extra = {
        _IPROUTE_NAMES.get(key, key) for key in (cell[0] for cell in message["attrs"]) if key not in _ROUTE_ATTRIBUTES
    }
    legs = message.get_attr("RTA_MULTIPATH")
    if legs:
        extra.add("multipath")
    if message["tos"]:
        extra.add("tos")
    for leg in legs or [message]:
        name = names.get(leg["oif"] if legs else message.get_attr("RTA_OIF"))
        if name is None:
            continue
        via = leg.get_attr("RTA_VIA")
        yield Route(
            destination=str(ip_network(f"{destination}/{message['dst_len']}")) if destination else "default",
            interface=name,
            gateway=via["addr"] if via else leg.get_attr("RTA_GATEWAY"),
            source=message.get_attr("RTA_PREFSRC"),
            protocol=word(PROTOCOLS, message["proto"]),
            scope=word(SCOPES, message["scope"]) if message["family"] == AF_INET else "global",
            table=table,
            metric=message.get_attr("RTA_PRIORITY") or None,
            onlink=bool(leg["flags"] & RTNH_F_ONLINK),
            family=FAMILIES[message["family"]],
            unsupported=tuple(sorted(extra)),
        )
