"""What a round asks of a pod it has opened, on pods with many addresses too."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import pytest

from workers.gateways.interface import Address, Gateway, GatewayPod, Snapshot
from workers.places import Pod
from workers.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.gateways.interface import Fence, Step

A, B, C = (ip_address(f"10.1.69.{host}") for host in (205, 206, 207))


class Looks:
    """A gateway that shows one snapshot after the other."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = list(snapshots)

    def read(self) -> Snapshot:
        return self._snapshots.pop(0)

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        return self.read()


@pytest.fixture
def site() -> Site:
    here = (Address("eth0", C, 16), Address("net1", B, 24), Address("net1", A, 24), Address("net2", A, 24))
    local = Address("net1", ip_address("fe80::1"), 64, scope="link")
    looks = Looks(Snapshot((*here, local)), Snapshot((here[0], here[1], local)))
    place = GatewayPod(namespace="kube-system", name="gw-0", uid="u", node="n", container="c")
    return Site(Pod(place, frozenset()), cast("Gateway", looks), ("lo", "eth0"))


def test_places_are_told_in_the_kernels_order_and_only_external_ones(site: Site) -> None:
    assert [str(place) for place in site.holds([A, B, C])] == [
        "10.1.69.206/24 on net1",
        "10.1.69.205/24 on net1",
        "10.1.69.205/24 on net2",
    ]
    assert site.holds([C]) == []


def test_a_second_look_changes_what_it_has_and_not_what_it_held(site: Site) -> None:
    assert site.has([A]) == site.holds([A])
    site.carry_out([], lambda: None)
    assert site.has([A]) == []
    assert len(site.holds([A])) == 2
    assert site.shows([A]) == "not there, beside 1 others, on pod gw-0"
    assert site.shows([B]) == "10.1.69.206/24 on net1, beside 0 others, on pod gw-0"
