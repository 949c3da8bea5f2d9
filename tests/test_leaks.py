"""The ways in which released versions of Kube-OVN leak, replayed and mended.

The times are a tenth of the real ones, which are 10 s for an address to arrive and looks at 10 s and 60 s; one case
runs in real time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from sandbox.cluster import SandboxCluster
from tests.conftest import GATEWAY, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

LOOKS = (1, 4)
FIXED, RANDOM = "10.1.69.222", None
ADDRESS_ASKED_FOR = pytest.mark.parametrize("asked", [FIXED, RANDOM], ids=["fixed", "random"])


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    """On a gateway with one live EIP, which every test expects to find as it is here."""
    product = make_product(driver="netlink", look_again_after=LOOKS)
    set_up(product, cluster)
    return product


def set_up(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("bystander", GATEWAY, "10.1.69.250")
    product.start_producer()


def expect_only_the_bystander(product: Product, cluster: SandboxCluster) -> None:
    (base,) = cluster.pod(GATEWAY).interfaces[1].addresses
    assert cluster.addresses(GATEWAY) == [base, "10.1.69.250"]
    assert product.records.find("bystander") == []


def expect_mended(product: Product, cluster: SandboxCluster, name: str, asked: str | None) -> None:
    """All work about an EIP ends, and what it left is gone: with its own release, or the audit that found it."""
    outcomes = product.finish(name, 60)
    assert outcomes == (["reclaimed"] if asked else ["audited", "reclaimed"])
    for work in product.records.find(name):
        assert [event["event"] for event in product.records.events(work)].count("published") == 1
    expect_only_the_bystander(product, cluster)


def leaked(cluster: SandboxCluster, name: str) -> bool:
    return bool(cluster.records.find("address_left", eip=name))


@ADDRESS_ASKED_FOR
@pytest.mark.parametrize("arrives", [-0.5, 0.0, 1.0], ids=["before", "during", "after"])
def test_an_eip_deleted_a_second_after_its_creation_whose_address_arrives(
    product: Product, cluster: SandboxCluster, asked: str | None, arrives: float
) -> None:
    """… so many seconds after the deletion."""
    switches = cluster.controller.switches
    switches.leaks.deletion_before_ready = "v1.12"
    switches.delays.before_eip_add = 1 + arrives
    switches.delays.eip_add_after = 0.8
    cluster.create_eip("early", GATEWAY, asked, wait_ready=False)
    time.sleep(1)
    cluster.delete_eip("early")
    product.work_until(lambda: leaked(cluster, "early"), "the leak")
    expect_mended(product, cluster, "early", asked)


@ADDRESS_ASKED_FOR
def test_an_address_that_arrives_ten_seconds_after_the_deletion(
    make_product: Callable[..., Product], cluster: SandboxCluster, asked: str | None
) -> None:
    product = make_product(driver="netlink", look_again_after=(4, 14))
    set_up(product, cluster)
    cluster.controller.switches.leaks.deletion_before_ready = "v1.12"
    cluster.controller.switches.delays.before_eip_add = 11
    cluster.create_eip("early", GATEWAY, asked, wait_ready=False)
    time.sleep(1)
    cluster.delete_eip("early")
    product.work_until(lambda: leaked(cluster, "early"), "the leak")
    expect_mended(product, cluster, "early", asked)


def test_by_default_the_last_look_comes_long_after_the_last_address(make_product: Callable[..., Product]) -> None:
    assert make_product().settings.look_again_after == (10, 60)


@ADDRESS_ASKED_FOR
def test_an_eip_whose_eip_add_keeps_failing(product: Product, cluster: SandboxCluster, asked: str | None) -> None:
    cluster.controller.switches.leaks.failing_eip_add = frozenset({"failing"})
    cluster.create_eip("failing", GATEWAY, asked, wait_ready=False)
    cluster.wait_for_record("eip_add_failed", eip="failing")
    cluster.delete_eip("failing")
    eventually(lambda: leaked(cluster, "failing"), "the leak")
    expect_mended(product, cluster, "failing", asked)


@ADDRESS_ASKED_FOR
def test_a_controller_that_dies_in_the_middle_of_a_creation(
    product: Product, cluster: SandboxCluster, asked: str | None
) -> None:
    cluster.controller.switches.leaks.death_mid_creation = True
    cluster.create_eip("orphan", GATEWAY, asked, wait_ready=False)
    cluster.wait_for_record("killed")
    cluster.delete_eip("orphan")
    cluster.start_controller()
    expect_mended(product, cluster, "orphan", asked)


@ADDRESS_ASKED_FOR
def test_a_controller_that_dies_before_eip_add_has_returned(
    product: Product, cluster: SandboxCluster, asked: str | None
) -> None:
    cluster.controller.switches.delays.eip_add_before = 1
    cluster.create_eip("orphan", GATEWAY, asked, wait_ready=False)
    uid = cluster.pod(GATEWAY).uid
    eventually(lambda: "sleep 1" in cluster.hosts.pods.commands(uid), "the command to be under way")
    cluster.kill_controller()
    cluster.delete_eip("orphan")
    eventually(lambda: len(cluster.addresses(GATEWAY)) == 3, "the address that the command puts on all the same")
    cluster.start_controller()
    expect_mended(product, cluster, "orphan", asked)


@ADDRESS_ASKED_FOR
def test_a_terminating_eip_whose_finalizer_is_removed_by_hand(
    product: Product, cluster: SandboxCluster, asked: str | None
) -> None:
    cluster.controller.switches.leaks.down = True
    cluster.create_eip("stuck", GATEWAY, asked)
    cluster.kill_controller()
    cluster.delete_eip("stuck", wait_gone=False)
    cluster.start_controller()
    cluster.wait_for_record("ignored_terminating", eip="stuck")
    assert product.records.find("stuck") == []  # it is terminating, that is no release
    cluster.remove_finalizer("stuck")
    # It was ready, so its address is known however it was asked for.
    assert product.finish("stuck") == ["reclaimed"]
    expect_only_the_bystander(product, cluster)


@pytest.mark.parametrize("asked", [FIXED, RANDOM], ids=["fixed", "random"])
@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_an_eip_that_the_controller_creates_anew_keeps_its_address(
    make_product: Callable[..., Product], cluster: SandboxCluster, asked: str | None, driver: str
) -> None:
    product = make_product(driver=driver, look_again_after=LOOKS)
    set_up(product, cluster)
    cluster.controller.switches.leaks.deletion_before_ready = "v1.16"
    # Created anew before the first look, as on the real controller: there within 5 s, the first look is at 10 s.
    cluster.controller.switches.delays.eip_add_after = 0.5
    cluster.create_eip("undone", GATEWAY, asked, wait_ready=False)
    first = cluster.get_eip("undone")
    assert first is not None
    cluster.wait_for_record("eip_add_started", eip="undone")
    eventually(lambda: len(cluster.addresses(GATEWAY)) == 3, "the address")
    addresses = cluster.addresses(GATEWAY)
    cluster.delete_eip("undone")
    outcomes = product.finish("undone", 60)
    assert outcomes == (["reassigned"] if asked else ["audited"])
    revived = cluster.wait_ready("undone")
    assert revived["metadata"]["uid"] != first["metadata"]["uid"]
    assert revived["spec"]["v4ip"] == addresses[-1]
    assert cluster.addresses(GATEWAY) == addresses
    assert not any("deleted" in str(product.records.events(work)) for work in product.records.find("undone"))


def test_a_healthy_controller_leaves_nothing_to_mend(product: Product, cluster: SandboxCluster) -> None:
    cluster.controller.switches.delays.eip_add_after = 0.5
    for name, asked in (("fixed", FIXED), ("random", RANDOM)):
        cluster.create_eip(name, GATEWAY, asked, wait_ready=False)
        cluster.wait_for_record("eip_add_started", eip=name)
        cluster.delete_eip(name)
    assert product.finish("fixed", 60) == ["already_absent"]
    assert product.finish("random", 60) == ["audited"]
    expect_only_the_bystander(product, cluster)
