"""Connections through a gateway's other addresses live on, byte for byte and without one lost segment."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandbox.flow import Flow
from sandbox.netns import NetworkNamespace
from workers.gateways.plan import missing_after, plan_deletion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gateways.conftest import Pods
    from workers.gateways.interface import Driver

pytestmark = pytest.mark.kernel


@pytest.fixture
def outside() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.mark.parametrize("others", [1, 200])
def test_a_connection_keeps_moving_while_the_primary_is_deleted(
    driver: Driver, pods: Pods, outside: NetworkNamespace, others: int
) -> None:
    with NetworkNamespace() as inside:
        outside.ip("link", "add", "net1", "type", "veth", "peer", "name", "net1", "netns", str(inside.pid))
        outside.ip("addr", "add", "10.1.69.254/24", "dev", "net1")
        outside.ip("link", "set", "net1", "up")
        hosts = (205, 2, 206, *range(3, others + 1)) if others > 1 else (205, 206)
        lines = [f"addr add 10.1.69.{host}/24 dev net1" for host in dict.fromkeys(hosts)]
        lines += ["link set net1 up", "route add default via 10.1.69.254 dev net1 onlink"]
        inside.run("ip", "-batch", "-", stdin="\n".join([*lines, ""]))
        pod = pods.add(f"traffic-{driver.name}-{others}", inside)
        flow = Flow(outside, inside, "10.1.69.206")
        with driver.open(pod) as gateway:
            for primary in ("10.1.69.205", "10.1.69.2") if others > 1 else ("10.1.69.205",):  # the second was promoted
                time.sleep(0.2)
                snapshot = gateway.read()
                steps = plan_deletion(snapshot, [ip_address(primary)])
                gateway.carry_out(steps, lambda: None)
                assert missing_after(snapshot, gateway.read(), [ip_address(primary)]) == []
        time.sleep(0.2)
        report = flow.stop()
        assert report.blocks > 100
        assert report.unharmed, report


def test_a_plain_deletion_of_the_primary_would_have_cut_it(outside: NetworkNamespace) -> None:
    """The test above can fail: without the plan, the connection's own address goes too."""
    with NetworkNamespace() as inside:
        outside.ip("link", "add", "net1", "type", "veth", "peer", "name", "net1", "netns", str(inside.pid))
        inside.run("ip", "-batch", "-", stdin="addr add 10.1.69.205/24 dev net1\naddr add 10.1.69.206/24 dev net1\n")
        inside.ip("addr", "del", "10.1.69.205/24", "dev", "net1")
        assert "10.1.69.206" not in inside.ip("addr")
