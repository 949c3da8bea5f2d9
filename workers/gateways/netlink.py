"""The netlink driver: structured messages to the kernel from a socket inside the gateway's namespace.

A socket is made in the namespace once and kept for later uses, whichever thread's they are; it works from this
process's own namespace afterwards. It is for all that is done often (`routesocket`). pyroute2's, for the rest, takes
about 4 ms to make and is its thread's own, so it ends with the use. The worker needs CAP_SYS_ADMIN to make them and
CAP_NET_ADMIN to change anything.

promote_secondaries is read and written with rtnetlink's IFLA_INET_CONF and not as a file: /proc/sys may be read-only,
and it shows the namespace of whoever opens it. The value for `all` is not to be had that way, so the interface's own
counts alone; setting it although `all` is set already changes nothing.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_SETLINK

from shared.errors import GatewayUnreachableError
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    SetPromoteSecondaries,
    Snapshot,
)
from workers.gateways.namespaces import netlink_socket
from workers.gateways.routesocket import FAMILIES, DumpInterruptedError, RouteSocket
from workers.gateways.rtnetlink import PromoteSecondariesMessage, route_arguments, routes_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workers.gateways.interface import Fence, GatewayPod, Step
    from workers.gateways.namespaces import NamespaceLocator

MAX_KEPT = 128
"""Pods, each with two descriptors; a kubelet runs 110 in all unless it is told otherwise."""
MAX_IDLE = 30.0
"""Seconds."""


class Sockets:
    """The sockets in one namespace, one thread's at a time."""

    def __init__(self, namespace: int, identity: tuple[int, int]) -> None:
        """`namespace` is its descriptor, which stays the caller's; `identity` tells it from others."""
        self.identity = identity
        # A file, which is closed with the last that knows of it, however that ends.
        self._namespace = FileIO(os.dup(namespace))
        self._pyroute: IPRoute | None = None
        try:
            self.route = RouteSocket(netlink_socket(namespace))
        except BaseException:
            self._namespace.close()
            raise

    @property
    def pyroute(self) -> IPRoute:
        """pyroute2's own, made when it is needed."""
        if self._pyroute is None:
            # groups=0: a kept socket must not fill up with notifications that nobody reads.
            self._pyroute = IPRoute(
                fileno=netlink_socket(self._namespace.fileno()), groups=0, ext_ack=True, strict_check=True
            )
        return self._pyroute

    def rest(self) -> None:
        """Close what is the calling thread's own: another may use the rest next."""
        if self._pyroute is not None:
            pyroute, self._pyroute = self._pyroute, None
            pyroute.close()

    def close(self) -> None:
        """Close them all."""
        self._namespace.close()
        self.route.close()
        self.rest()


class NetlinkGateway:
    """One gateway's kernel, through sockets in its namespace. See `interface.Gateway`."""

    def __init__(self, sockets: Sockets, pod: GatewayPod) -> None:
        self._sockets = sockets
        self._pod = pod
        self._indexes: dict[str, int] = {}

    def read(self) -> Snapshot:
        """See `interface.Gateway.read`. Four dumps; one that the kernel calls inconsistent is asked for again."""
        with self._errors("read"):
            knobs = self._read_links()
            names = {index: name for name, index in self._indexes.items()}
            order = {name: place for place, name in enumerate(self._indexes)}
            addresses = self._sockets.route.addresses(names)
            # The kernel lists by family and then by interface, `ip addr` the other way round.
            addresses.sort(key=lambda address: order[address.interface])
            return Snapshot(
                addresses=tuple(addresses),
                routes=tuple(
                    route
                    for family in FAMILIES
                    for message in self._sockets.route.unicast_routes(family)
                    for route in routes_in(message, tuple(names.items()))
                ),
                promote_secondaries=knobs,
            )

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        """See `interface.Gateway.carry_out`.

        When a step fails, the promote_secondaries that earlier steps set and later ones would set back is set back.
        """
        if steps:
            self._change(steps, fence)
        return self.read()

    def _change(self, steps: Sequence[Step], fence: Fence) -> None:
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
                message["header"]["type"] = RTM_SETLINK
                message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
                list(self._sockets.pyroute.nlm_request_batch([message]))
            case DeleteAddress(Address(interface, ip, length, peer=peer)):
                with _tolerated(errno.EADDRNOTAVAIL):
                    self._sockets.route.delete_address(self._index(interface), ip, length, peer)
            case AddAddress(interface, ip, length, lifetime):
                with _tolerated(errno.EEXIST):
                    self._sockets.route.add_address(self._index(interface), ip, length, lifetime)
            case AddRoute(route):
                with _tolerated(errno.EEXIST):
                    self._sockets.pyroute.route("add", **route_arguments(route, self._index(route.interface)))

    def _read_links(self) -> dict[str, bool]:
        """Learn the interfaces' indexes; their promote_secondaries."""
        links = self._sockets.route.links()
        self._indexes = {name: index for index, (name, _) in links.items()}
        return {name: knob for name, knob in links.values() if knob is not None}

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
        except DumpInterruptedError as error:
            raise GatewayUnreachableError(
                f"what pod {self._pod.name} holds cannot be read: {error.strerror}. It is tried again later."
            ) from error
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
    Safe across threads, each with sockets of its own while it uses them. Not across a fork: a child starts with none.
    """

    name = "netlink"
    enters_by_uid = True

    def __init__(self, locator: NamespaceLocator, max_kept: int = MAX_KEPT, max_idle: float = MAX_IDLE) -> None:
        self._locator = locator
        self._max_kept = max_kept
        self._max_idle = max_idle
        self._kept: dict[str, tuple[Sockets, float]] = {}
        """By pod UID: its sockets, and since when nobody needs them; what was used last comes last."""
        self._process = os.getpid()

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[NetlinkGateway]:
        """See `interface.Driver.open`.

        Raises:
            GatewayUnreachableError: the pod's namespace is not here, or may not be entered.
            PermanentError: it is the host's, or this process's own.
        """
        if self._process != os.getpid():
            self._kept, self._process = {}, os.getpid()
        descriptor = self._locator.open(pod)
        try:
            status = os.fstat(descriptor)
            sockets = self._sockets(pod, descriptor, (status.st_dev, status.st_ino))
        finally:
            os.close(descriptor)
        try:
            yield NetlinkGateway(sockets, pod)
        except BaseException:
            _close(sockets)  # an answer may still be on its way, which the next request must not find
            raise
        self._keep(pod.uid, sockets)

    def close(self, unused_for: float = 0.0) -> None:
        """See `interface.Driver.close`."""
        self._close_those_unused_since(time.monotonic() - unused_for)

    def _sockets(self, pod: GatewayPod, descriptor: int, identity: tuple[int, int]) -> Sockets:
        """The kept ones, if they are in that namespace, or new ones; from now on they are nobody else's."""
        kept, _ = self._kept.pop(pod.uid, (None, 0.0))
        if kept is not None and kept.identity == identity:
            return kept
        if kept is not None:
            _close(kept)
        try:
            return Sockets(descriptor, identity)
        except Exception as error:
            raise GatewayUnreachableError(
                f"the namespace of pod {pod.name} could not be entered: {error!r}; the worker needs CAP_SYS_ADMIN"
            ) from error

    def _keep(self, uid: str, sockets: Sockets) -> None:
        try:
            sockets.rest()
        except (OSError, RuntimeError, NetlinkError):
            _close(sockets)
            return
        self._close_those_unused_since(time.monotonic() - self._max_idle)
        for other in list(self._kept)[: max(len(self._kept) + 1 - self._max_kept, 0)]:
            self._forget(other)
        mine = (sockets, time.monotonic())
        # Two threads may have been in the same pod.
        if self._kept.setdefault(uid, mine) is not mine:
            _close(sockets)

    def _close_those_unused_since(self, moment: float) -> None:
        for uid, (_, since) in list(self._kept.items()):
            if since <= moment:
                self._forget(uid)

    def _forget(self, uid: str) -> None:
        # Another thread may be using them by now.
        if (kept := self._kept.pop(uid, None)) is not None:
            _close(kept[0])


def _close(sockets: Sockets) -> None:
    with suppress(Exception):
        sockets.close()


@contextmanager
def _tolerated(code: int) -> Iterator[None]:
    """What was to be done is done already."""
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
