"""Generated gateways: which addresses came in which order, which routes, which flags, which targets."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.gateways.kernel_model import Kernel, RefusedError
from workers.gateways.interface import Route

if TYPE_CHECKING:
    from workers.gateways.interface import IPAddress

INTERFACES = ("eth0", "net1", "net2")
ADDRESSES = (
    # .207 would be the broadcast address of 10.1.69.204/30: the kernel makes no connected route from such an address.
    *(f"10.1.69.{host}/24" for host in (1, 2, 20, 205, 206, 210)),
    "10.1.69.205/32",
    "10.1.69.206/30",
    "10.1.69.205/30",
    "10.1.69.20/32",
    "10.2.0.1/30",
    "10.2.0.2/30",
    "10.3.0.7/32",
    "2001:db8::5/64",
    "2001:db8::6/64",
    "2001:db8::7/128",
    "2001:db8:1::5/64",
)
ROUTES = (
    Route("default", "net1", gateway="10.1.69.254", onlink=True),
    Route("default", "net1", gateway="10.1.69.254"),
    Route("default", "net2", gateway="10.2.0.2", metric=50),
    Route("10.8.0.0/24", "net1", gateway="10.1.69.253", table="100", onlink=True),
    Route("10.9.0.0/24", "net1", gateway="10.1.69.253", source="10.1.69.205"),
    Route("10.9.1.0/24", "net1", gateway="10.1.69.253", source="10.1.69.205", table="100"),
    Route("10.9.2.0/24", "eth0", scope="link", source="10.1.69.206"),
    Route("10.1.69.253/32", "net1", scope="link", protocol="static"),
    Route("10.10.0.0/16", "net2", scope="link", metric=7),
    Route("10.11.0.0/16", "eth0", gateway="10.2.0.1"),
    Route("default", "net1", gateway="2001:db8::1", metric=1024, family=6),
    Route("2001:db8::/64", "net1", metric=10, protocol="static", family=6),
    Route("2001:db8::/64", "net1", metric=512, family=6),
    Route("2001:db8:9::/48", "net1", gateway="2001:db8::1", source="2001:db8::5", metric=1024, family=6),
    Route("2001:db8:a::/48", "eth0", metric=1024, table="77", family=6),
)


@dataclass(frozen=True)
class Case:
    """A gateway as it came to be, and what is to be deleted."""

    addresses: tuple[tuple[str, str], ...]
    routes: tuple[Route, ...]
    promoting: frozenset[str]
    targets: frozenset[IPAddress]

    def kernel(self) -> Kernel:
        """The model in this state; routes that a kernel refuses are not in it."""
        kernel = Kernel.with_interfaces(INTERFACES)
        for interface, address in self.addresses:
            kernel.add(interface, address)
        for route in self.routes:
            try:
                kernel.add_route(route)
            except RefusedError:
                continue
        kernel.knobs |= dict.fromkeys(self.promoting, True)
        return kernel


def cases() -> st.SearchStrategy[Case]:
    placed = st.tuples(st.sampled_from(("net1", "net1", "net1", "net2", "eth0")), st.sampled_from(ADDRESSES))
    targets = sorted({address.split("/")[0] for address in ADDRESSES} | {"10.99.0.1"})
    return st.builds(
        Case,
        addresses=st.lists(placed, max_size=12, unique=True).map(tuple),
        routes=st.lists(st.sampled_from(ROUTES), max_size=8, unique=True).map(tuple),
        promoting=st.frozensets(st.sampled_from(INTERFACES)),
        targets=st.frozensets(st.sampled_from(targets).map(ip_address), max_size=6),
    ).filter(_has_no_next_hop_of_its_own)


def _has_no_next_hop_of_its_own(case: Case) -> bool:
    """Whether each route can be put back: not one by way of the gateway's own address (see `test_plan`)."""
    own = {address.split("/")[0] for _, address in case.addresses}
    return not any(route.gateway in own for route in case.routes)
