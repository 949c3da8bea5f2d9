"""What the worker asks of a gateway, and what every driver answers.

A gateway pod is one network namespace. A driver opens it, reads a `Snapshot` of what the kernel holds, carries out
`Step`s that `plan` decided on, and reads again. Drivers decide nothing; they know no EIPs, no Redis and no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Protocol

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

Fence = Callable[[], None]
"""Called right before the first change of a `carry_out`; raises when the caller may no longer change anything."""


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """One active pod of a gateway."""

    name: str
    namespace: str
    uid: str
    node: str
    container: str = "vpc-nat-gw"


@dataclass(frozen=True, slots=True)
class Address:
    """One address on one interface, as the kernel has it.

    `secondary` is IPv4's IFA_F_SECONDARY: another address of the same subnet on the interface came first.
    """

    interface: str
    ip: IPAddress
    prefix_length: int
    secondary: bool = False
    scope: str = "global"
    peer: IPAddress | None = None
    """The far end of a point-to-point address; its subnet is the peer's."""

    @property
    def network(self) -> IPNetwork:
        """The subnet the kernel counts the address to."""
        return _network(self.peer or self.ip, self.prefix_length)

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix_length} on {self.interface}"


@lru_cache(maxsize=1 << 14)
def _network(ip: IPAddress, prefix_length: int) -> IPNetwork:
    return ip_network((ip, prefix_length), strict=False)


@dataclass(frozen=True, slots=True)
class Route:
    """One route through an interface, in the words of `ip -j route show table all`."""

    destination: str
    """`default` or a prefix, a single host's too (`192.0.2.1/32`)."""
    interface: str
    gateway: str | None = None
    """The next hop; an IPv4 route may have one of IPv6."""
    source: str | None = None
    protocol: str = "boot"
    scope: str = "global"
    table: str = "main"
    metric: int | None = None
    onlink: bool = False
    family: int = 4
    unsupported: tuple[str, ...] = ()
    """What else the kernel says of it (`mtu`, `multipath`, …), which no driver can put back."""

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        table = "" if self.table == "main" else f" table {self.table}"
        return f"{self.destination}{via} dev {self.interface}{table}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a namespace holds at one moment."""

    addresses: tuple[Address, ...]
    """In the kernel's own order: on one interface and subnet the primary comes first."""
    routes: tuple[Route, ...] = ()
    """Unicast routes of every table that go through a listed interface; the kernel's `local` table left out."""
    promote_secondaries: Mapping[str, bool] = field(default_factory=dict)
    """By interface the knob's own value, and under `all`, where the driver can read it, the one that overrides it
    upwards."""


@dataclass(frozen=True, slots=True)
class SetPromoteSecondaries:
    """Write net.ipv4.conf.<interface>.promote_secondaries."""

    interface: str
    value: bool


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Remove exactly this address; that it is already gone is no error."""

    address: Address


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Put an address on an interface; that it is already there is no error."""

    interface: str
    ip: IPAddress
    prefix_length: int
    lifetime: int | None = None
    """Seconds after which the kernel takes it away by itself; None for never."""


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Put back a route that the kernel dropped along with an address; that it is already there is no error."""

    route: Route


Step = SetPromoteSecondaries | DeleteAddress | AddAddress | AddRoute


class Gateway(Protocol):
    """One opened gateway pod. Not safe across threads.

    Every method raises `shared.errors.GatewayUnreachableError` when the pod cannot be reached or answers nonsense.
    """

    def read(self) -> Snapshot:
        """Look at what the kernel holds now."""

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        """Carry the steps out in order, and look at what the kernel holds then.

        `fence` is called right before the first step; an exception of it passes through.
        """


class Driver(Protocol):
    """A way into gateway pods."""

    name: str
    enters_by_uid: bool
    """Whether what is opened is the pod of that UID, and never one that has taken its name."""

    def open(self, pod: GatewayPod) -> AbstractContextManager[Gateway]:
        """Enter a pod's network namespace for the length of a `with` block."""

    def close(self, unused_for: float = 0.0) -> None:
        """Let go of what was kept open between uses, and has not been used for so many seconds."""
