from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

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
)
from workers.gateways.plan import missing_after, plan_deletion, plan_restoration

DEFAULT = Route("default", "net1", gateway="10.1.69.254", onlink=True)


def gateway(*hosts: int, promote: bool = False, length: int = 24) -> Kernel:
    kernel = Kernel.with_interfaces(("eth0", "net1"))
    for host in hosts:
        kernel.add("net1", f"10.1.69.{host}/{length}")
    kernel.add_route(DEFAULT)
    kernel.knobs["net1"] = promote
    return kernel


def targets(*hosts: int) -> list[object]:
    return [ip_address(f"10.1.69.{host}") for host in hosts]


def address(host: int, **changes: object) -> Address:
    return replace(Address("net1", ip_address(f"10.1.69.{host}"), 24), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("promote", [False, True])
@pytest.mark.parametrize("others", [0, 1, 199])
def test_deleting_the_primary_keeps_every_other_address_and_the_default_route(promote: bool, others: int) -> None:
    kernel = gateway(205, *[host for host in range(1, others + 1)], promote=promote)
    before = kernel.snapshot()
    kernel.carry_out(plan_deletion(before, targets(205)))
    after = kernel.snapshot()
    assert {str(a.ip) for a in before.addresses} - {str(a.ip) for a in after.addresses} == {"10.1.69.205"}
    assert any(route.destination == "default" for route in after.routes)
    assert after.promote_secondaries == before.promote_secondaries
    assert missing_after(before, after, targets(205)) == []


def test_promotion_is_switched_on_only_around_the_deletion_of_a_primary() -> None:
    steps = plan_deletion(gateway(205, 206).snapshot(), targets(205))
    assert steps[0] == SetPromoteSecondaries("net1", value=True)
    assert SetPromoteSecondaries("net1", value=False) in steps[2:]
    assert plan_deletion(gateway(206, 205).snapshot(), targets(205)) == [DeleteAddress(address(205, secondary=True))]


def test_an_address_that_begins_with_the_targets_digits_is_another_address() -> None:
    steps = plan_deletion(gateway(1, 205, 20).snapshot(), targets(20))
    assert steps == [DeleteAddress(address(20, secondary=True))]


def test_nothing_is_planned_for_a_target_that_is_absent_or_inside() -> None:
    kernel = gateway(206)
    kernel.add("eth0", "10.1.69.205/24")
    assert plan_deletion(kernel.snapshot(), targets(205), ("lo", "eth0")) == []
    assert plan_deletion(kernel.snapshot(), targets(99)) == []


def test_an_address_is_put_back_only_where_it_is_missing() -> None:
    snapshot = gateway(205).snapshot()
    assert plan_restoration(snapshot, [address(205)]) == []
    assert plan_restoration(snapshot, [address(206)]) == [AddAddress("net1", ip_address("10.1.69.206"), 24)]


def test_a_route_that_went_along_is_reported() -> None:
    before = gateway(205, 206).snapshot()
    after = replace(before, routes=tuple(route for route in before.routes if route.destination != "default"))
    assert missing_after(before, replace(after, addresses=before.addresses[:-2]), targets(206))
    assert AddRoute(DEFAULT) in plan_deletion(gateway(205).snapshot(), targets(205))


@given(cases())
@settings(max_examples=400, deadline=None)
def test_any_plan_takes_the_targets_and_nothing_else(case: Case) -> None:
    kernel = case.kernel()
    before = kernel.snapshot()
    try:
        steps = plan_deletion(before, case.targets, ("lo", "eth0"))
    except PermanentError:
        return
    kernel.carry_out(steps)
    after = kernel.snapshot()
    kept = {(a.interface, a.ip, a.prefix_length) for a in before.addresses} - {
        (a.interface, a.ip, a.prefix_length)
        for a in before.addresses
        if a.ip in case.targets and a.interface not in ("lo", "eth0")
    }
    assert {(a.interface, a.ip, a.prefix_length) for a in after.addresses} == kept
    assert after.promote_secondaries == before.promote_secondaries


def test_an_empty_snapshot_needs_no_steps() -> None:
    assert plan_deletion(Snapshot(()), targets(1)) == []
