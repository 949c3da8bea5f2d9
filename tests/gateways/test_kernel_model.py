"""The model against this machine's kernel: what `test_plan.py` proves on the model is true of Linux."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.gateways import real_kernel
from tests.gateways.cases import Case, cases

if TYPE_CHECKING:
    from sandbox.netns import NetworkNamespace
    from workers.gateways.interface import Snapshot

pytestmark = pytest.mark.kernel


def comparable(snapshot: Snapshot) -> object:
    """Addresses of one family and interface in their order, routes in none."""
    held = {
        (each.interface, version): [
            (str(other.ip), other.prefix_length, other.secondary, other.scope)
            for other in snapshot.addresses
            if (other.interface, other.ip.version) == (each.interface, version)
        ]
        for each in snapshot.addresses
        for version in (4, 6)
    }
    for (_, version), addresses in held.items():
        if version == 6:
            addresses.sort()
    knobs = {name: value for name, value in snapshot.promote_secondaries.items() if name != "lo"}
    return held, Counter(snapshot.routes), knobs


@given(case=cases())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_model_and_the_kernel_come_to_the_same_state(netns: NetworkNamespace, case: Case) -> None:
    real_kernel.build(netns, case)
    model = case.kernel()
    assert comparable(real_kernel.snapshot(netns)) == comparable(model.snapshot())


@given(case=cases())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_model_and_the_kernel_lose_the_same_with_a_deletion(netns: NetworkNamespace, case: Case) -> None:
    """Without a plan: plain deletions, with the cascades and the flushes that come with them."""
    real_kernel.build(netns, case)
    model = case.kernel()
    doomed = [each for each in model.snapshot().addresses if each.ip in case.targets]
    real_kernel.batch(netns, [f"addr del {each.ip}/{each.prefix_length} dev {each.interface}" for each in doomed])
    for each in doomed:
        model.delete(each.interface, each.ip, each.prefix_length)
    assert comparable(real_kernel.snapshot(netns)) == comparable(model.snapshot())
