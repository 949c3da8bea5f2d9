"""A rtnetlink socket for what is asked again and again: dumps of links, addresses and routes, changes of addresses.

pyroute2 decodes every attribute of every message and runs an event loop for each request, which takes ten times as long
as the kernel does. Here only what is wanted is read out of a message (rtnetlink(7), netlink(7)). Routes have many forms
and stay as they are: they are decoded by pyroute2's own class, once for each.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR

from workers.gateways.interface import Address
from workers.gateways.iproute import SCOPES, word
from workers.precedence import among

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.gateways.interface import IPAddress

TIMEOUT = 5.0
"""Seconds; the kernel answers at once."""
BUFFER = 1 << 17
"""Bytes; the kernel fills no message of a dump with more than a quarter of it."""
DUMP_ATTEMPTS = 5

AF_INET, AF_INET6 = 2, 10
FAMILIES = {AF_INET: 4, AF_INET6: 6}
RTN_UNICAST = 1
IFA_F_SECONDARY = 1
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_NLMSG_ERROR, _NLMSG_DONE, _NLM_F_DUMP_INTR = 2, 3, 16
_NLM_F_CREATE, _NLM_F_EXCL = 0x400, 0x200
_RTEXT_FILTER_SKIP_STATS = 8
_IFLA_IFNAME, _IFLA_AF_SPEC, _IFLA_EXT_MASK, _IFLA_INET_CONF = 3, 26, 29, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_PROMOTE_SECONDARIES = 20
"""IPV4_DEVCONF_PROMOTE_SECONDARIES; the first of these numbers is 1."""
_NESTED = 0x7FFF
"""Without the flags in an attribute's type."""
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BBHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")


class DumpInterruptedError(OSError):
    """What was dumped changed meanwhile, each time."""


class RouteSocket:
    """One socket; not safe across threads. After any error it is to be closed."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the descriptor of a rtnetlink socket."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.settimeout(TIMEOUT)
        # The kernel then leaves out what was not asked for: hundreds of local and broadcast routes.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def links(self) -> dict[int, tuple[str, bool | None]]:
        """By index, each interface's name and its promote_secondaries, None where it has no IPv4."""
        body = _LINK.pack(0, 0, 0, 0, 0, 0) + _attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        return dict(_link(message[_HEADER.size :]) for message in self._dump(RTM_GETLINK, body))

    def addresses(self, names: dict[int, str]) -> list[Address]:
        """The addresses on interfaces of these indexes, in the kernel's order."""
        found = []
        for message in among(self._dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))):
            family, _, _, _, index = _ADDRESS.unpack_from(message, _HEADER.size)
            if family in FAMILIES and index in names:
                found.append(_address(message[_HEADER.size :], names[index]))
        return found

    def unicast_routes(self, family: int) -> Iterator[bytes]:
        """The RTM_NEWROUTE of each unicast route of a family; the same bytes for the same route."""
        for message in self._dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, RTN_UNICAST, 0)):
            fields = _ROUTE.unpack_from(message, _HEADER.size)
            # Without IPv6 the kernel answers a request for IPv6 with the other families' routes.
            if fields[0] == family and fields[7] == RTN_UNICAST:
                # Without sequence and port of the request.
                yield message[:8] + bytes(8) + message[_HEADER.size :]

    def delete_address(self, index: int, ip: IPAddress, prefix_length: int, peer: IPAddress | None) -> None:
        """RTM_DELADDR.

        Raises:
            NetlinkError: the kernel refuses.
        """
        self._change(RTM_DELADDR, 0, _address_body(index, ip, prefix_length, peer or ip))

    def add_address(self, index: int, ip: IPAddress, prefix_length: int, lifetime: int | None) -> None:
        """RTM_NEWADDR of an address that is not there; `lifetime` in seconds.

        Raises:
            NetlinkError: the kernel refuses.
        """
        body = _address_body(index, ip, prefix_length, ip)
        if lifetime is not None:
            body += _attribute(_IFA_CACHEINFO, struct.pack("=IIII", lifetime, lifetime, 0, 0))
        self._change(RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, body)

    def _change(self, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        for message_kind, _, message in self._answers():
            if message_kind == _NLMSG_ERROR:
                _raise_for(message)
                return

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        """All messages of a dump; one that the kernel calls inconsistent is asked for again."""
        for _ in range(DUMP_ATTEMPTS):
            self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
            found, interrupted = [], False
            for message_kind, flags, message in self._answers():
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if message_kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_for(message)
                    break
                found.append(message)
            if not interrupted:
                return found
        raise DumpInterruptedError(errno.EAGAIN, f"it changed {DUMP_ATTEMPTS} times while it was read")

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and the whole of each message that answers the last request, without end."""
        while True:
            data = self._socket.recv(BUFFER)
            start = 0
            while start + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, start)
                if length < _HEADER.size:
                    raise ValueError("a netlink message that is shorter than its header")
                if sequence == self._sequence:
                    yield kind, flags, data[start : start + length]
                start += _aligned(length)


# What a message says follows from its bytes alone. Those are the same for as long as what it tells of is; its header is
# not, which names the request.


@lru_cache(maxsize=1 << 10)
def _link(message: bytes) -> tuple[int, tuple[str, bool | None]]:
    """Index, name and promote_secondaries of an interface, as an RTM_NEWLINK without its header tells them."""
    index = _LINK.unpack_from(message)[3]
    attributes = dict(_attributes(message, _LINK.size))
    families = dict(_attributes(attributes.get(_IFLA_AF_SPEC, b"")))
    values = dict(_attributes(families.get(AF_INET, b""))).get(_IFLA_INET_CONF)
    knob = None if values is None else struct.unpack_from("=I", values, 4 * (_PROMOTE_SECONDARIES - 1))[0] != 0
    return index, (attributes[_IFLA_IFNAME].rstrip(b"\0").decode(), knob)


@lru_cache(maxsize=1 << 14)
def _address(message: bytes, interface: str) -> Address:
    """An address of an interface, as an RTM_NEWADDR without its header tells it."""
    family, length, flags, scope, _ = _ADDRESS.unpack_from(message)
    attributes = dict(_attributes(message, _ADDRESS.size))
    address, local = attributes[_IFA_ADDRESS], attributes.get(_IFA_LOCAL)
    if _IFA_FLAGS in attributes:
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    return Address(
        interface=interface,
        ip=ip_address(local or address),
        prefix_length=length,
        secondary=family == AF_INET and bool(flags & IFA_F_SECONDARY),
        scope=word(SCOPES, scope),
        peer=ip_address(address) if local is not None and address != local else None,
    )


def _raise_for(message: bytes) -> None:
    """Raise what an NLMSG_ERROR or NLMSG_DONE says, unless it is nothing."""
    code = -struct.unpack_from("=i", message, _HEADER.size)[0] if len(message) >= _HEADER.size + 4 else 0
    if code:
        raise NetlinkError(code, os.strerror(code))


def _address_body(index: int, ip: IPAddress, prefix_length: int, address: IPAddress) -> bytes:
    family = AF_INET if ip.version == 4 else AF_INET6
    return (
        _ADDRESS.pack(family, prefix_length, 0, 0, index)
        + _attribute(_IFA_LOCAL, ip.packed)
        + _attribute(_IFA_ADDRESS, address.packed)
    )


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute from a place on."""
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            raise ValueError("a netlink attribute that is shorter than its header")
        yield kind & _NESTED, data[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
