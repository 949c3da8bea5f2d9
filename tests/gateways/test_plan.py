from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from hypothesis import given, settings

from shared.errors import PermanentError
from tests.gateways.cases import Case, cases
from tests.gateways.kernel_model import Kernel
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    Route,
    SetPromoteSecondaries,
    Snapshot,
    Step,
)
from workers.gateways.plan import BRIDGE_SECONDS, missing_after, plan_deletion, plan_restoration

DEFAULT = Route("default", "net1", gateway="10.1.69.254", onlink=True)
ON = SetPromoteSecondaries("net1", value=True)
OFF = SetPromoteSecondaries("net1", value=False)


def gateway(*hosts: int, promote: bool = False, length: int = 24) -> Kernel:
    kernel = Kernel.with_interfaces(("eth0", "net1"))
    for host in hosts:
        kernel.add("net1", f"10.1.69.{host}/{length}")
    kernel.add_route(DEFAULT)
    kernel.knobs["net1"] = promote
    return kernel


def ips(*hosts: int) -> list[IPv4Address]:
    return [IPv4Address(f"10.1.69.{host}") for host in hosts]


def address(host: int, **changes: Any) -> Address:
    return replace(Address("net1", IPv4Address(f"10.1.69.{host}"), 24), **changes)


def bridged(hosts: list[int], step: Step) -> list[Step]:
    """The step, while these addresses are on the interface a second time."""
    added: list[Step] = [AddAddress("net1", ip, 32, BRIDGE_SECONDS) for ip in ips(*hosts)]
    return [*added, step, *(DeleteAddress(Address("net1", ip, 32)) for ip in ips(*hosts))]


def deleted(steps: list[Step]) -> list[Address]:
    """What goes for good."""
    bridges = {(step.interface, step.ip, step.prefix_length) for step in steps if isinstance(step, AddAddress)}
    return [
        step.address
        for step in steps
        if isinstance(step, DeleteAddress)
        and (step.address.interface, step.address.ip, step.address.prefix_length) not in bridges
    ]


def test_a_secondary_is_deleted_and_nothing_else_is_done() -> None:
    assert plan_deletion(gateway(201, 205).snapshot(), ips(205)) == [DeleteAddress(address(205, secondary=True))]


def test_a_primary_is_deleted_while_secondaries_are_promoted_and_the_flag_is_set_back_last() -> None:
    assert plan_deletion(gateway(205, 206).snapshot(), ips(205)) == [
        ON,
        *bridged([206], DeleteAddress(address(205))),
        OFF,
    ]


def test_an_address_that_has_a_second_entry_already_gets_no_other_and_keeps_it() -> None:
    kernel = gateway(205, 206, 207)
    kernel.add("net1", "10.1.69.206/32")
    assert plan_deletion(kernel.snapshot(), ips(205)) == [ON, *bridged([207], DeleteAddress(address(205))), OFF]


def test_the_flag_is_left_alone_where_it_is_set_already() -> None:
    steps = plan_deletion(gateway(205, 206, promote=True).snapshot(), ips(205))
    assert steps == bridged([206], DeleteAddress(address(205)))


def test_the_flag_is_left_alone_where_it_is_set_for_all_interfaces() -> None:
    snapshot = replace(gateway(205, 206).snapshot(), promote_secondaries={"net1": False, "all": True})
    assert plan_deletion(snapshot, ips(205)) == bridged([206], DeleteAddress(address(205)))


def test_an_address_that_is_not_there_needs_no_steps() -> None:
    assert plan_deletion(gateway(201).snapshot(), ips(205)) == []


def test_an_address_is_not_taken_for_one_whose_beginning_it_is() -> None:
    assert deleted(plan_deletion(gateway(201, 205, 20).snapshot(), ips(20))) == [address(20, secondary=True)]


def test_the_prefix_length_is_the_one_that_was_read() -> None:
    assert [each.prefix_length for each in deleted(plan_deletion(gateway(205, length=30).snapshot(), ips(205)))] == [30]


def test_an_address_is_deleted_on_every_interface_and_with_every_prefix_length() -> None:
    kernel = gateway(201, 205)
    kernel.add("net1", "10.1.69.205/32")
    kernel.add("eth0", "10.1.69.205/24")
    assert {(each.interface, each.prefix_length) for each in deleted(plan_deletion(kernel.snapshot(), ips(205)))} == {
        ("net1", 24),
        ("net1", 32),
        ("eth0", 24),
    }


def test_untouchable_interfaces_are_not_touched() -> None:
    kernel = gateway(201)
    kernel.add("eth0", "10.1.69.205/24")
    assert plan_deletion(kernel.snapshot(), ips(205), ("lo", "eth0")) == []
    assert plan_deletion(kernel.snapshot(), [ip_address("127.0.0.1")]) == []


def test_many_targets_cost_one_promotion_per_subnet() -> None:
    kernel = gateway(*range(1, 201))
    steps = plan_deletion(kernel.snapshot(), ips(*range(1, 200)))
    assert (steps[0], steps[-1]) == (ON, OFF)
    kernel.carry_out(steps)
    assert kernel.promotions == 1
    assert [each.ip for each in kernel.addresses["net1"]] == ips(200)


def test_the_default_route_survives_the_last_address() -> None:
    kernel = gateway(205)
    steps = plan_deletion(kernel.snapshot(), ips(205))
    assert steps == [ON, DeleteAddress(address(205)), AddRoute(DEFAULT), OFF]
    kernel.carry_out(steps)
    assert kernel.routes == [DEFAULT]


def test_a_next_hop_that_only_the_last_address_reached_is_put_back_as_onlink() -> None:
    route = replace(DEFAULT, onlink=False)
    kernel = gateway(205)
    kernel.routes = [each for each in kernel.routes if each != DEFAULT]
    kernel.add_route(route)
    assert AddRoute(DEFAULT) in plan_deletion(kernel.snapshot(), ips(205))


def test_a_next_hop_that_a_route_of_its_own_reaches_is_put_back_after_it_and_as_it_was() -> None:
    hop = Route("10.1.69.254/32", "net1", scope="link")
    default = replace(DEFAULT, onlink=False)
    kernel = gateway(205)
    kernel.routes = [each for each in kernel.routes if each.protocol == "kernel"] + [default, hop]
    assert [step.route for step in plan_deletion(kernel.snapshot(), ips(205)) if isinstance(step, AddRoute)] == [
        hop,
        default,
    ]


def test_a_route_that_named_the_target_as_its_source_is_put_back_without_it() -> None:
    kernel = gateway(201, 205)
    route = Route("10.9.0.0/24", "net1", gateway="10.1.69.254", source="10.1.69.205")
    kernel.add_route(route)
    assert plan_deletion(kernel.snapshot(), ips(205))[1:] == [AddRoute(replace(route, source=None))]


def test_a_static_route_to_the_prefix_of_the_last_ipv6_address_is_put_back() -> None:
    kernel = gateway(201)
    kernel.add("net1", "2001:db8::5/64")
    route = Route("2001:db8::/64", "net1", metric=10, protocol="static", family=6)
    kernel.add_route(route)
    assert plan_deletion(kernel.snapshot(), [ip_address("2001:db8::5")])[1:] == [AddRoute(route)]


def test_a_route_that_cannot_be_put_back_stops_the_plan_before_anything_is_done() -> None:
    kernel = gateway(205)
    kernel.routes.append(Route("10.9.0.0/24", "net1", gateway="10.1.69.254", unsupported=("metrics",)))
    with pytest.raises(PermanentError, match=r"10\.9\.0\.0/24 via 10\.1\.69\.254 dev net1"):
        plan_deletion(kernel.snapshot(), ips(205))
    kernel.add("net1", "10.1.69.206/24")
    assert deleted(plan_deletion(kernel.snapshot(), ips(205))) == [address(205)]  # nothing is lost any more


def test_a_route_by_way_of_an_own_address_stops_the_plan_where_only_the_target_let_it_be() -> None:
    kernel = gateway(205)
    kernel.add("eth0", "10.1.69.1/24")
    route = Route("10.9.0.0/24", "net1", gateway="10.1.69.1")
    kernel.add_route(route)
    with pytest.raises(PermanentError, match="its next hop is an address of the pod itself"):
        plan_deletion(kernel.snapshot(), ips(205))
    kernel.add("net1", "10.1.69.206/24")
    assert not [step for step in plan_deletion(kernel.snapshot(), ips(205)) if isinstance(step, AddRoute)]


def test_the_subnet_of_a_point_to_point_address_is_its_peers() -> None:
    first = Address("net1", IPv4Address("10.7.0.1"), 24, peer=IPv4Address("10.8.0.2"))
    assert str(first.network) == "10.8.0.0/24"


def test_an_address_is_restored_where_it_is_missing() -> None:
    snapshot = gateway(201).snapshot()
    assert plan_restoration(snapshot, [address(205), address(201), address(205)]) == [
        AddAddress("net1", IPv4Address("10.1.69.205"), 24)
    ]


def test_a_deletion_is_proven_when_only_the_target_and_connected_sources_changed() -> None:
    kernel = gateway(205, 206, 207)
    before = kernel.snapshot()
    kernel.carry_out(plan_deletion(before, ips(205)))
    assert missing_after(before, kernel.snapshot(), ips(205)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kernel: None, "10.1.69.205/24 on net1 is still there"),
        (lambda kernel: kernel.delete("net1", ips(207)[0], 24), "10.1.69.207/24 on net1 is gone"),
        (lambda kernel: kernel.routes.remove(DEFAULT), "the route default via 10.1.69.254 dev net1 is gone"),
        (lambda kernel: kernel.routes.pop(0), "the connected route 10.1.69.0/24 dev net1 is gone"),
        (lambda kernel: kernel.knobs.update(net1=True), "promote_secondaries of net1 was 0 and is 1"),
    ],
)
def test_each_difference_is_named(change: Any, said: str) -> None:
    kernel = gateway(201, 205, 207)
    before = kernel.snapshot()
    if "still" not in said:
        kernel.delete("net1", ips(205)[0], 24)
    change(kernel)
    assert missing_after(before, kernel.snapshot(), ips(205)) == [said]


def test_a_route_that_lost_its_source_is_named() -> None:
    route = Route("10.9.0.0/24", "net1", gateway="10.1.69.254", source="10.1.69.201")
    before = Snapshot((address(201),), (route,))
    after = Snapshot((address(201),), (replace(route, source=None),))
    assert len(missing_after(before, after, ips(205))) == 1
    assert missing_after(before, Snapshot((), after.routes), ips(201)) == []


def test_a_cascade_is_seen() -> None:
    kernel = gateway(205, 206)
    before = kernel.snapshot()
    kernel.delete("net1", ips(205)[0], 24)
    assert missing_after(before, kernel.snapshot(), ips(205)) == [
        "10.1.69.206/24 on net1 is gone",
        "the connected route 10.1.69.0/24 dev net1 is gone",
        "the route default via 10.1.69.254 dev net1 is gone",
    ]


@given(cases())
@settings(max_examples=800, deadline=None)
def test_only_the_targets_vanish(case: Case) -> None:
    kernel = case.kernel()
    before = kernel.snapshot()
    steps = plan_deletion(before, case.targets)
    kernel.carry_out(steps)
    after = kernel.snapshot()

    def rest(snapshot: Snapshot) -> list[Address]:
        return sorted(
            (replace(each, secondary=False) for each in snapshot.addresses if each.ip not in case.targets), key=str
        )

    def static(snapshot: Snapshot) -> list[Route]:
        return sorted(
            (replace(each, onlink=False, source=None) for each in snapshot.routes if each.protocol != "kernel"),
            key=repr,
        )

    assert not {each.ip for each in after.addresses} & case.targets
    assert rest(after) == rest(before)
    assert static(after) == static(before)
    assert after.promote_secondaries == before.promote_secondaries
    assert missing_after(before, after, case.targets) == []


@given(cases())
@settings(max_examples=200, deadline=None)
def test_each_subnet_sees_one_promotion_at_most(case: Case) -> None:
    kernel = case.kernel()
    steps = plan_deletion(kernel.snapshot(), case.targets)
    subnets = {(each.interface, each.network) for each in deleted(steps) if not each.secondary}
    kernel.carry_out(steps)
    assert kernel.promotions <= len(subnets)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_what_was_deleted_can_be_restored(case: Case) -> None:
    kernel = case.kernel()
    before = kernel.snapshot()
    steps = plan_deletion(before, case.targets)
    kernel.carry_out(steps)
    kernel.carry_out(plan_restoration(kernel.snapshot(), deleted(steps)))
    present = {(each.interface, each.ip, each.prefix_length) for each in kernel.snapshot().addresses}
    assert {(each.interface, each.ip, each.prefix_length) for each in before.addresses} <= present


@given(cases())
@settings(max_examples=200, deadline=None)
def test_a_second_plan_finds_nothing_left_to_do(case: Case) -> None:
    kernel = case.kernel()
    kernel.carry_out(plan_deletion(kernel.snapshot(), case.targets))
    assert plan_deletion(kernel.snapshot(), case.targets) == []
