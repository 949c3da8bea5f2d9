"""What both drivers promise, on real namespaces; what is there is read with iproute2, not by the driver."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from shared.errors import GatewayUnreachableError, LockLostError, PermanentError
from tests.gateways import real_kernel
from tests.gateways.cases import INTERFACES, Case, cases
from tests.waiting import eventually
from workers.gateways.interface import AddAddress, Address, AddRoute, DeleteAddress, Route, SetPromoteSecondaries
from workers.gateways.plan import missing_after, plan_deletion, plan_restoration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sandbox.netns import NetworkNamespace
    from workers.gateways.interface import Driver, GatewayPod, Snapshot, Step

pytestmark = pytest.mark.kernel

DEFAULT_ROUTE = ["default", "via", "10.1.69.254", "dev", "net1", "onlink"]
ONLINK_DEFAULT = "route add default via 10.1.69.254 dev net1 onlink"


def set_up(netns: NetworkNamespace, *commands: str) -> None:
    """Run `ip` commands of which none may fail."""
    netns.run("ip", "-batch", "-", stdin="\n".join([*commands, ""]))


def hosts(numbers: Iterable[int], length: int = 24, interface: str = "net1") -> list[str]:
    return [f"addr add 10.1.69.{number}/{length} dev {interface}" for number in numbers]


def promoting(netns: NetworkNamespace, value: int, interface: str = "net1") -> None:
    netns.run("bash", "-c", f"echo {value} > /proc/sys/net/ipv4/conf/{interface}/promote_secondaries")


def reclaim(driver: Driver, pod: GatewayPod, *targets: str) -> tuple[Snapshot, Snapshot]:
    """Delete as the worker does; what was read before and after, which proves the deletion."""
    wanted = [ip_address(target) for target in targets]
    with driver.open(pod) as gateway:
        before = gateway.read()
        after = gateway.carry_out(plan_deletion(before, wanted), lambda: None)
        assert gateway.read() == after
    assert missing_after(before, after, wanted) == []
    return before, after


def but_for(said: dict[str, str], targets: Collection[str]) -> dict[str, str]:
    """The commands' output without the targets' own lines, the connected routes' sources and the word `secondary`."""
    own = re.compile("|".join(rf"\b{re.escape(target)}\b(?!\.)" for target in targets))

    def lines(name: str, text: str) -> str:
        if name == "routes":
            text = re.sub(r"(proto kernel scope \w+) src \S+", r"\1", text)
        text = text.replace(" secondary ", " ")
        return "\n".join(sorted(line.rstrip() for line in text.splitlines() if not own.search(line)))

    return {name: lines(name, text) for name, text in said.items()}


def assert_only_these_go(driver: Driver, pod: GatewayPod, netns: NetworkNamespace, *targets: str) -> None:
    before = real_kernel.everything(netns)
    knobs = {name: real_kernel.promote_secondaries(netns, name) for name in INTERFACES}
    reclaim(driver, pod, *targets)
    after = real_kernel.everything(netns)
    assert but_for(after, targets) == but_for(before, targets)
    for target in targets:
        assert f" {target}/" not in after["addresses"]
    assert {name: real_kernel.promote_secondaries(netns, name) for name in INTERFACES} == knobs


@pytest.mark.parametrize("knob", [0, 1])
@pytest.mark.parametrize("count", [2, 200])
@pytest.mark.parametrize("target", [1, 2])
def test_deleting_an_address_keeps_every_other_one_and_every_route(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace, count: int, knob: int, target: int
) -> None:
    """Target 1 is the primary, 2 a secondary."""
    promoting(netns, knob)
    set_up(
        netns,
        *hosts(range(1, count + 1)),
        "addr add 10.244.0.5/16 dev eth0",
        ONLINK_DEFAULT,
        "route add 10.96.0.0/12 via 10.244.0.1 dev eth0",
        "route add 192.0.2.0/24 via 10.1.69.254 dev net1 table 100",
        "rule add from 10.1.69.2 lookup 100",
    )
    assert_only_these_go(driver, pod, netns, f"10.1.69.{target}")


@pytest.mark.parametrize("length", [24, 30, 32])
def test_the_prefix_length_does_not_matter(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace, length: int
) -> None:
    set_up(netns, *hosts((205, 206), length), ONLINK_DEFAULT)
    assert_only_these_go(driver, pod, netns, "10.1.69.205")
    reclaim(driver, pod, "10.1.69.206")
    assert netns.ip("-4", "addr", "show", "dev", "net1") == ""
    assert netns.ip("route").split() == DEFAULT_ROUTE


def test_an_ipv6_address_goes_alone(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(
        netns, *hosts([201]), *(f"addr add 2001:db8::{host}/64 dev net1 nodad" for host in (5, 6, 50)), ONLINK_DEFAULT
    )
    netns.ip("-6", "route", "add", "default", "via", "2001:db8::1", "dev", "net1")
    assert_only_these_go(driver, pod, netns, "2001:db8::5")


def test_the_addresses_of_a_dual_stack_eip_go_together(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts((205, 206)), "addr add 2001:db8::5/64 dev net1 nodad", ONLINK_DEFAULT)
    _, after = reclaim(driver, pod, "10.1.69.205", "2001:db8::5")
    assert [str(each.ip) for each in after.addresses if each.interface == "net1"] == ["10.1.69.206"]


def test_an_address_is_not_taken_for_one_whose_beginning_it_is(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts((20, 2, 205, 200)), ONLINK_DEFAULT)
    assert_only_these_go(driver, pod, netns, "10.1.69.20")
    assert_only_these_go(driver, pod, netns, "10.1.69.2")


def test_many_targets_go_at_once(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts(range(1, 201)), ONLINK_DEFAULT)
    assert_only_these_go(driver, pod, netns, *(f"10.1.69.{host}" for host in range(1, 200, 2)))


def test_all_addresses_may_go_and_the_default_route_stays(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(
        netns, *hosts(range(1, 11)), ONLINK_DEFAULT, "route add 192.0.2.0/24 via 10.1.69.254 dev net1 table 100 onlink"
    )
    reclaim(driver, pod, *(f"10.1.69.{host}" for host in range(1, 11)))
    assert netns.ip("route").split() == DEFAULT_ROUTE
    assert netns.ip("route", "show", "table", "100").split() == ["192.0.2.0/24", *DEFAULT_ROUTE[1:]]


def test_a_default_route_that_was_not_onlink_stays_as_onlink(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(
        netns,
        *hosts([205]),
        "route add default via 10.1.69.254 dev net1",
        "route add 192.0.2.0/24 dev net1 src 10.1.69.205",
    )
    reclaim(driver, pod, "10.1.69.205")
    assert netns.ip("route").splitlines() == [
        "default via 10.1.69.254 dev net1 onlink ",
        "192.0.2.0/24 dev net1 scope link ",
    ]


def test_a_route_by_way_of_an_own_address_keeps_the_target_where_it_is(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    """Without the target the kernel takes that next hop in no way, so nothing is begun."""
    set_up(
        netns,
        "addr add 10.2.0.1/30 dev net2",
        "addr add 10.2.0.2/30 dev net1",
        "route add 10.11.0.0/16 via 10.2.0.1 dev net1",
    )
    before = real_kernel.everything(netns)
    with pytest.raises(PermanentError, match="its next hop is an address of the pod itself"):
        reclaim(driver, pod, "10.2.0.2")
    assert real_kernel.everything(netns) == before
    for onlink in ("", " onlink"):
        netns.ip("addr", "del", "10.2.0.2/30", "dev", "net1")
        words = f"route add 10.11.0.0/16 via 10.2.0.1 dev net1{onlink}".split()
        assert netns.run("ip", *words, check=False).returncode != 0
        netns.ip("addr", "add", "10.2.0.2/30", "dev", "net1")


def test_an_address_goes_from_every_interface(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(
        netns,
        *hosts((201, 205)),
        *hosts((205, 202), interface="net2"),
        "addr add 10.244.0.5/16 dev eth0",
        ONLINK_DEFAULT,
    )
    assert_only_these_go(driver, pod, netns, "10.1.69.205")


def test_an_address_that_is_absent_changes_nothing(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((201, 205)), ONLINK_DEFAULT)
    before = real_kernel.everything(netns)
    reclaim(driver, pod, "10.1.69.206")
    assert real_kernel.everything(netns) == before


def test_steps_that_are_done_already_are_no_errors(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((201, 205)), "addr add 2001:db8::6/64 dev net1 nodad", ONLINK_DEFAULT)
    before = real_kernel.everything(netns)
    steps: list[Step] = [
        DeleteAddress(Address("net1", ip_address("10.1.69.77"), 24)),
        DeleteAddress(Address("net1", ip_address("10.1.69.205"), 32)),
        DeleteAddress(Address("net1", ip_address("2001:db8::5"), 64)),
        AddAddress("net1", ip_address("10.1.69.205"), 24),
        AddAddress("net1", ip_address("2001:db8::6"), 64),
        AddRoute(Route("default", "net1", gateway="10.1.69.254", onlink=True)),
    ]
    with driver.open(pod) as gateway:
        gateway.carry_out(steps, lambda: None)
    assert real_kernel.everything(netns) == before


def test_an_address_that_went_meanwhile_does_not_keep_the_others_from_going(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts((201, 205, 206, 207)), ONLINK_DEFAULT)
    wanted = [ip_address(f"10.1.69.{host}") for host in (205, 206, 207)]
    with driver.open(pod) as gateway:
        before = gateway.read()
        netns.ip("addr", "del", "10.1.69.205/24", "dev", "net1")
        gateway.carry_out(plan_deletion(before, wanted), lambda: None)
        assert missing_after(before, gateway.read(), wanted) == []


def test_an_address_that_came_behind_a_primary_meanwhile_survives_it(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts([205]), ONLINK_DEFAULT)
    with driver.open(pod) as gateway:
        before = gateway.read()
        netns.ip("addr", "add", "10.1.69.206/24", "dev", "net1")
        gateway.carry_out(plan_deletion(before, [ip_address("10.1.69.205")]), lambda: None)
    assert "10.1.69.206/24" in netns.ip("addr")
    assert netns.ip("route", "show", "default").split() == DEFAULT_ROUTE


def test_a_deleted_address_can_be_put_back(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((201, 205), 25), "addr add 2001:db8::5/64 dev net1 nodad", ONLINK_DEFAULT)
    wanted = {ip_address("10.1.69.205"), ip_address("2001:db8::5")}
    before, after = reclaim(driver, pod, *map(str, wanted))
    with driver.open(pod) as gateway:
        gone = [address for address in before.addresses if address.ip in wanted]
        gateway.carry_out(plan_restoration(after, gone), lambda: None)
        assert missing_after(before, gateway.read(), []) == []
    assert "10.1.69.205/25" in netns.ip("addr", "show", "dev", "net1")


def test_a_point_to_point_address_goes_alone(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(
        netns,
        *hosts([201]),
        "addr add 10.7.0.1 peer 10.8.0.2/24 dev net1",
        "addr add 10.7.0.1 peer 10.9.0.2/32 dev net2",
        "addr add 10.8.0.3/24 dev net1",
        ONLINK_DEFAULT,
    )
    before, _ = reclaim(driver, pod, "10.7.0.1")
    assert {str(each.peer) for each in before.addresses if each.peer} == {"10.8.0.2", "10.9.0.2"}
    assert "inet 10.8.0.3/24 scope global net1" in netns.ip("addr", "show", "dev", "net1")


def test_what_is_read_is_what_iproute2_shows(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    promoting(netns, 1, "net2")
    set_up(
        netns,
        *hosts((201, 205, 206)),
        *hosts([205], 32, "net2"),
        "addr add 10.7.0.1 peer 10.7.0.2/32 dev net2",
        "addr add 10.8.0.1/24 dev net2 scope link",
        "addr add 2001:db8::5/64 dev net1 nodad",
        ONLINK_DEFAULT,
        "route add 192.0.2.0/24 via 10.1.69.254 dev net1 table 100 metric 7 proto static src 10.1.69.206",
        "route add 192.0.3.1 dev net1 scope link proto 201",
        "route add 192.0.4.0/24 via inet6 fe80::1 dev net1",
        "route add 192.0.5.0/24 via 10.1.69.254 dev net1 mtu 1400",
        "route add 192.0.6.0/24 nexthop via 10.1.69.254 dev net1 nexthop via 10.1.69.253 dev net1",
        "route add 192.0.7.0/24 via 10.1.69.254 dev net1 tos 4",
        "route add blackhole 192.0.8.0/24",
    )
    netns.run(
        "ip",
        "-6",
        "-batch",
        "-",
        stdin="route add default via 2001:db8::1\nroute add 2001:db8:9::/48 dev net1 table 77\n",
    )
    with driver.open(pod) as gateway:
        read = gateway.read()
    assert [each for each in read.addresses if each.interface in (*INTERFACES, "lo")] == list(
        real_kernel.snapshot(netns).addresses
    )
    assert {each for each in read.routes if each.interface in INTERFACES} == set(real_kernel.snapshot(netns).routes)
    assert [read.promote_secondaries[name] for name in INTERFACES] == [False, False, True]
    assert {each.destination: each.unsupported for each in read.routes if each.unsupported} == {
        "192.0.5.0/24": ("metrics",),
        "192.0.6.0/24": ("multipath",),
        "192.0.7.0/24": ("tos",),
    }


def test_the_fence_is_asked_once_and_right_before_the_first_change(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts(range(1, 6)), ONLINK_DEFAULT)
    before = real_kernel.everything(netns)
    seen: list[dict[str, str]] = []
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.1"), ip_address("10.1.69.3")])
        gateway.carry_out(steps, lambda: seen.append(real_kernel.everything(netns)))
        assert gateway.carry_out([], lambda: seen.append({})) == gateway.read()
    assert seen == [before]


def test_nothing_changes_when_the_fence_raises(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((205, 206)), ONLINK_DEFAULT)
    before = real_kernel.everything(netns)

    def fence() -> None:
        raise LockLostError("somebody else has it")

    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        with pytest.raises(LockLostError):
            gateway.carry_out(steps, fence)
    assert real_kernel.everything(netns) == before
    assert not real_kernel.promote_secondaries(netns, "net1")


def test_the_flag_is_set_back_when_a_step_fails(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((205, 206)), ONLINK_DEFAULT)
    bad = AddRoute(Route("192.0.2.0/24", "net1", gateway="198.51.100.1"))
    with driver.open(pod) as gateway:
        *steps, off = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        with pytest.raises(GatewayUnreachableError):
            gateway.carry_out([*steps, bad, off], lambda: None)
    assert not real_kernel.promote_secondaries(netns, "net1")
    assert "10.1.69.206/24" in netns.ip("addr")


def test_second_entries_that_nobody_took_away_again_go_by_themselves(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    set_up(netns, *hosts((205, 206, 207)), ONLINK_DEFAULT)
    before = real_kernel.everything(netns)
    second = [AddAddress("net1", ip_address(f"10.1.69.{host}"), 32, lifetime=1) for host in (206, 207)]
    with driver.open(pod) as gateway:
        gateway.carry_out(second, lambda: None)
        assert "10.1.69.206/32" in netns.ip("addr")
        eventually(lambda: "/32" not in netns.ip("-4", "addr", "show", "dev", "net1"), "the kernel to remove them")
    assert real_kernel.everything(netns) == before


def test_an_interface_that_went_meanwhile_is_an_error(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    set_up(netns, *hosts((205, 206)))
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), [ip_address("10.1.69.205")])
        netns.ip("link", "del", "net1")
        with pytest.raises(GatewayUnreachableError):
            gateway.carry_out(steps, lambda: None)


@pytest.mark.parametrize("name", ["net1; reboot", "../../net1", "$(id)", "a" * 16, "", "-n", "net1\nbye"])
def test_no_strange_word_reaches_the_gateway(
    pod: GatewayPod, driver: Driver, netns: NetworkNamespace, name: str
) -> None:
    before = real_kernel.everything(netns)
    with driver.open(pod) as gateway:
        for step in (
            SetPromoteSecondaries(name, value=True),
            DeleteAddress(Address(name, ip_address("10.1.69.205"), 24)),
            AddAddress(name, ip_address("10.1.69.205"), 24),
            AddRoute(Route("default", name)),
        ):
            with pytest.raises((PermanentError, GatewayUnreachableError)):
                gateway.carry_out([step], lambda: None)
    assert real_kernel.everything(netns) == before


def test_a_gateway_is_entered_again_and_again(driver: Driver, pod: GatewayPod, netns: NetworkNamespace) -> None:
    for host in (1, 2, 3):
        set_up(netns, *hosts([host]))
        with driver.open(pod) as gateway:
            assert ip_address(f"10.1.69.{host}") in {each.ip for each in gateway.read().addresses}
    driver.close()
    with driver.open(pod) as gateway:
        assert gateway.read().addresses


@given(case=cases())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_gateways_lose_the_targets_and_nothing_else(
    driver: Driver, pod: GatewayPod, netns: NetworkNamespace, case: Case
) -> None:
    real_kernel.build(netns, case)
    before = real_kernel.snapshot(netns)
    with driver.open(pod) as gateway:
        steps = plan_deletion(gateway.read(), case.targets)
        gateway.carry_out(steps, lambda: None)
    after = real_kernel.snapshot(netns)
    assert not {each.ip for each in after.addresses} & case.targets
    assert missing_after(before, after, case.targets) == []
    assert {replace(each, secondary=False) for each in after.addresses} == {
        replace(each, secondary=False) for each in before.addresses if each.ip not in case.targets
    }
    assert after.promote_secondaries == before.promote_secondaries
