"""The netlink driver: structured messages to the kernel from a socket inside the gateway's namespace.

The socket is made in the namespace once (about 4 ms) and kept for later uses; it works from this process's own
namespace afterwards. The worker needs CAP_SYS_ADMIN to make it and CAP_NET_ADMIN to change anything.

promote_secondaries is read and written with rtnetlink's IFLA_INET_CONF and not as a file: /proc/sys may be read-only,
and it shows the namespace of whoever opens it. The value for `all` is not to be had that way, so the interface's own
counts alone; setting it although `all` is set already changes nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_SETLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from shared.errors import GatewayUnreachableError
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    Route,
    SetPromoteSecondaries,
    Snapshot,
)
from workers.gateways.namespaces import netlink_socket
from workers.gateways.rtnetlink import (
    AF_INET,
    AF_INET6,
    FAMILIES,
    NLM_F_DUMP_INTR,
    RTEXT_FILTER_SKIP_STATS,
    RTN_UNICAST,
    PromoteSecondariesMessage,
    address_of,
    route_arguments,
    routes_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workers.gateways.interface import Fence, GatewayPod, Step
    from workers.gateways.namespaces import NamespaceLocator

DUMP_ATTEMPTS = 5
MAX_OPEN = 32
MAX_IDLE = 30.0


class NetlinkGateway:
    """One gateway's kernel, through one netlink socket. See `interface.Gateway`."""

    def __init__(self, socket: IPRoute, pod: GatewayPod) -> None:
        self._socket = socket
        self._pod = pod
        self._indexes: dict[str, int] = {}

    def read(self) -> Snapshot:
        """See `interface.Gateway.read`. Four dumps; one that the kernel calls inconsistent is asked for again."""
        with self._errors("read"):
            knobs = self._read_links()
            names = {index: name for name, index in self._indexes.items()}
            order = {name: place for place, name in enumerate(self._indexes)}
            request = ifaddrmsg()
            request["family"] = 0
            addresses = [
                address_of(message, names[message["index"]])
                for message in self._dump(request, RTM_GETADDR)
                if message["index"] in names and message["family"] in FAMILIES
            ]
            # The kernel lists by family and then by interface, `ip addr` the other way round.
            addresses.sort(key=lambda address: order[address.interface])
            return Snapshot(
                addresses=tuple(addresses),
                routes=tuple(route for family in FAMILIES for route in self._read_routes(family, names)),
                promote_secondaries=knobs,
            )

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> None:
        """See `interface.Gateway.carry_out`.

        When a step fails, the promote_secondaries that earlier steps set and later ones would set back is set back.
        """
        if not steps:
            return
        if not self._indexes:
            with self._errors("read"):
                self._read_links()
        fence()
        owed: dict[str, bool] = {}
        try:
            for step in steps:
                if isinstance(step, SetPromoteSecondaries):
                    # Noted first: a request that fails half-way may have been carried out.
                    if step.interface in owed:
                        del owed[step.interface]
                    else:
                        owed[step.interface] = not step.value
                with self._errors(f"carry out {step!r} in"):
                    self._carry_out(step)
        except GatewayUnreachableError:
            for interface, value in owed.items():
                with suppress(GatewayUnreachableError), self._errors("reach"):
                    self._carry_out(SetPromoteSecondaries(interface, value))
            raise

    def _carry_out(self, step: Step) -> None:
        match step:
            case SetPromoteSecondaries(interface, value):
                message = PromoteSecondariesMessage(self._index(interface), value=value)
                self._request(message, RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK)
            case DeleteAddress(Address(interface, ip, length, peer=peer)):
                with _tolerated(errno.EADDRNOTAVAIL):
                    self._socket.addr(
                        "del",
                        index=self._index(interface),
                        family=AF_INET if ip.version == 4 else AF_INET6,
                        local=str(ip),
                        address=str(peer or ip),
                        prefixlen=length,
                    )
            case AddAddress(interface, ip, length, lifetime):
                limit = {} if lifetime is None else {"preferred_lft": lifetime, "valid_lft": lifetime}
                with _tolerated(errno.EEXIST):
                    self._socket.addr(
                        "add",
                        index=self._index(interface),
                        family=AF_INET if ip.version == 4 else AF_INET6,
                        local=str(ip),
                        address=str(ip),
                        prefixlen=length,
                        **limit,
                    )
            case AddRoute(route):
                with _tolerated(errno.EEXIST):
                    self._socket.route("add", **route_arguments(route, self._index(route.interface)))

    def _read_links(self) -> dict[str, bool]:
        """Learn the interfaces' indexes; their promote_secondaries."""
        request = ifinfmsg()
        request["attrs"] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
        indexes, knobs = {}, {}
        for message in self._dump(request, RTM_GETLINK):
            name = message.get_attr("IFLA_IFNAME")
            indexes[name] = message["index"]
            spec = message.get_attr("IFLA_AF_SPEC")
            conf = spec.get_attr("AF_INET") if spec is not None else None
            if conf is not None:  # an interface whose MTU is too small for IPv4 has none
                knobs[name] = bool(conf["promote_secondaries"])
        self._indexes = indexes
        return knobs

    def _read_routes(self, family: int, names: dict[int, str]) -> Iterator[Route]:
        request = rtmsg()
        request["family"] = family
        request["type"] = RTN_UNICAST  # the kernel leaves the rest out: hundreds of local and broadcast routes
        for message in self._dump(request, RTM_GETROUTE):
            # Without IPv6 the kernel answers a request for IPv6 with the other families' routes.
            if message["family"] == family and message["type"] == RTN_UNICAST:
                yield from routes_of(message, names)

    def _dump(self, message: Any, kind: int) -> list[Any]:
        for _ in range(DUMP_ATTEMPTS):
            answer = self._request(message, kind, NLM_F_REQUEST | NLM_F_DUMP)
            if not any(part["header"]["flags"] & NLM_F_DUMP_INTR for part in answer):
                return answer
        raise GatewayUnreachableError(
            f"what pod {self._pod.name} holds changed {DUMP_ATTEMPTS} times while it was read: it is tried again later"
        )

    def _request(self, message: Any, kind: int, flags: int) -> list[Any]:
        message["header"]["type"] = kind
        message["header"]["flags"] = flags
        return list(self._socket.nlm_request_batch([message]))

    def _index(self, interface: str) -> int:
        try:
            return self._indexes[interface]
        except KeyError:
            raise GatewayUnreachableError(
                f"pod {self._pod.name} has no interface {interface} any more: its network is being taken down"
            ) from None

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except NetlinkError as error:
            hint = (
                ": the worker needs CAP_NET_ADMIN there"
                if error.code in (errno.EPERM, errno.EACCES)
                else ": the next try looks at what is there now"
            )
            raise GatewayUnreachableError(
                f"the kernel refused to {action} pod {self._pod.name}: {error}{hint}"
            ) from error
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise GatewayUnreachableError(
                f"could not {action} pod {self._pod.name} over netlink: {error!r}; the next try is on a new socket"
            ) from error


class NetlinkDriver:
    """Opens gateways on this node, keeping their sockets for later uses. See `interface.Driver`.

    A kept socket keeps its namespace alive, also that of a pod that has ended: `close` when there is nothing to do, so
    that a dead gateway's addresses do not outlive it. Sockets unused for `max_idle` seconds are closed at the next use.
    Neither for several threads nor across a fork: a child starts with no sockets.
    """

    name = "netlink"

    def __init__(self, locator: NamespaceLocator, max_open: int = MAX_OPEN, max_idle: float = MAX_IDLE) -> None:
        self._locator = locator
        self._max_open = max_open
        self._max_idle = max_idle
        self._sockets: OrderedDict[str, tuple[tuple[int, int], IPRoute, float]] = OrderedDict()
        self._process = os.getpid()

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[NetlinkGateway]:
        """See `interface.Driver.open`.

        Raises:
            GatewayUnreachableError: the pod's namespace is not here, or may not be entered.
            PermanentError: it is the host's, or this process's own.
        """
        if self._process != os.getpid():
            self._sockets.clear()
            self._process = os.getpid()
        descriptor = self._locator.open(pod)
        try:
            status = os.fstat(descriptor)
            socket = self._socket(pod, (status.st_dev, status.st_ino), descriptor)
        finally:
            os.close(descriptor)
        try:
            yield NetlinkGateway(socket, pod)
        except BaseException:
            self._forget(pod.uid)  # an answer may still be on its way, which the next request must not find
            raise
        self._keep(pod.uid)

    def close(self) -> None:
        """See `interface.Driver.close`."""
        for uid in list(self._sockets):
            self._forget(uid)

    def _socket(self, pod: GatewayPod, identity: tuple[int, int], descriptor: int) -> IPRoute:
        kept = self._sockets.get(pod.uid)
        if kept is not None and kept[0] == identity:
            return kept[1]
        self._forget(pod.uid)
        try:
            # groups=0: a kept socket must not fill up with notifications that nobody reads.
            opened = IPRoute(
                fileno=netlink_socket(descriptor),
                groups=0,
                ext_ack=True,
                strict_check=True,
            )
        except Exception as error:
            raise GatewayUnreachableError(
                f"the namespace of pod {pod.name} could not be entered: {error!r}; the worker needs CAP_SYS_ADMIN"
            ) from error
        self._sockets[pod.uid] = (identity, opened, time.monotonic())
        return opened

    def _keep(self, uid: str) -> None:
        identity, socket, _ = self._sockets.pop(uid)
        now = time.monotonic()
        self._sockets[uid] = (identity, socket, now)
        for other, (_, _, used) in list(self._sockets.items()):
            if len(self._sockets) > self._max_open or now - used > self._max_idle:
                self._forget(other)

    def _forget(self, uid: str) -> None:
        if (kept := self._sockets.pop(uid, None)) is not None:
            with suppress(Exception):
                kept[1].close()


@contextmanager
def _tolerated(code: int) -> Iterator[None]:
    """What was to be done is done already."""
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
