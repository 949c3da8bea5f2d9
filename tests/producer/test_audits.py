"""Every gateway is audited after a gap of events, once lists can be believed, and as often as an operator wants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from producer.audits import Audits
from producer.lists import Lists
from producer.memory import Memory
from sandbox.cluster import SandboxCluster
from shared.kube.api import EIPS, GATEWAYS
from shared.metrics import WATCH_RESTARTS
from tests.conftest import GATEWAY, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

KEPT, UNSEEN = "10.1.69.206", "10.1.69.205"
OTHER = "gw-other"


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    product = make_product(look_again_after=(0.5,), brake_minimum=0, brake_percent=0)
    for name in (GATEWAY, OTHER):
        cluster.add_gateway(name)
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.create_eip("kept", GATEWAY, KEPT)
    return product


def come_and_go_unseen(cluster: SandboxCluster) -> None:
    cluster.create_eip("unseen", GATEWAY, UNSEEN)
    cluster.delete_eip("unseen")
    cluster.compact_history()


def audits(product: Product, reason: str = "gap") -> list[str]:
    names = product.work_queue.redis.scan_iter(f"{product.work_queue.keys.record(f'audit-{reason}-')}*")
    return sorted(product.records.fields(name.decode().rpartition(":")[2])["gateway"] for name in names)


def expect_reclaimed(product: Product, cluster: SandboxCluster) -> None:
    assert product.finish(UNSEEN) == ["reclaimed"]
    assert UNSEEN not in cluster.addresses(GATEWAY)
    assert KEPT in cluster.addresses(GATEWAY)
    assert product.records.find(KEPT) == []
    assert audits(product) == sorted([GATEWAY, OTHER])


def test_while_no_producer_runs(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    come_and_go_unseen(cluster)
    product.start_producer()
    expect_reclaimed(product, cluster)


def test_when_redis_forgot_everything_meanwhile(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()
    eventually(lambda: product.producers[0].known == 1, "the producer to know one")
    cluster.server.faults.answer(503, prefix=EIPS, verbs=("list", "watch"))
    cluster.background.call(cluster.server.cut_watches())
    come_and_go_unseen(cluster)
    product.work_queue.redis.flushall()
    cluster.server.faults.clear()
    expect_reclaimed(product, cluster)


def test_by_one_of_two_producers_only(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    come_and_go_unseen(cluster)
    product.start_producer()
    product.start_producer()
    expect_reclaimed(product, cluster)
    (found,) = product.records.find(UNSEEN)
    assert [event["event"] for event in product.records.events(found)].count("published") == 1


def test_by_the_next_producer_when_the_one_that_listed_died(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    come_and_go_unseen(cluster)
    inventory = product.inventory()
    Lists(product.api, inventory, Memory(inventory), product.brake, product.settings).take()
    assert Audits(product.api, inventory, 0, apply=True).due == "gap"
    assert audits(product) == []
    product.start_producer()
    expect_reclaimed(product, cluster)
    assert Audits(product.api, inventory, 0, apply=True).due is None


def test_not_before_lists_are_believed(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    come_and_go_unseen(cluster)
    product.start_producer()
    before = cluster.server.requests.count(verb="list", prefix=EIPS)
    eventually(lambda: cluster.server.requests.count(verb="list", prefix=EIPS) > before + 3, "more lists")
    assert product.brake.state() is not None
    assert audits(product) == []
    cluster.server.faults.clear()
    expect_reclaimed(product, cluster)


def test_also_when_gateways_cannot_be_listed_at_first(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    come_and_go_unseen(cluster)
    cluster.server.faults.answer(403, prefix=GATEWAYS, verbs=("list",), count=2)
    product.start_producer()
    expect_reclaimed(product, cluster)


def test_a_watch_goes_on_while_gateways_cannot_be_listed(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    come_and_go_unseen(cluster)
    cluster.server.faults.answer(500, prefix=GATEWAYS, verbs=["list"])
    product.start_producer()
    eventually(lambda: cluster.server.requests.count(verb="list", prefix=GATEWAYS) > 3, "more lists")
    restarts = WATCH_RESTARTS.labels("api")._value.get()
    cluster.delete_eip("kept")
    eventually(lambda: product.records.find("kept"), "the release")
    assert WATCH_RESTARTS.labels("api")._value.get() == restarts
    assert audits(product) == []
    cluster.server.faults.clear()
    eventually(lambda: audits(product) == sorted([GATEWAY, OTHER]), "the audits")


def test_a_first_start_does_not_touch_what_leaked_before(product: Product, cluster: SandboxCluster) -> None:
    come_and_go_unseen(cluster)
    stop = product.start_producer()
    cluster.delete_eip("kept")
    assert product.finish("kept") == ["reclaimed"]
    stop()
    assert audits(product) == []
    assert UNSEEN in cluster.addresses(GATEWAY)


def test_a_watch_that_is_resumed_misses_nothing(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    cluster.create_eip("unseen", GATEWAY, UNSEEN)
    cluster.delete_eip("unseen")
    product.start_producer()
    assert product.finish("unseen") == ["reclaimed"]
    assert audits(product) == []


def test_what_leaked_before_is_found_where_an_operator_wants_it(
    make_product: Callable[..., Product], product: Product, cluster: SandboxCluster
) -> None:
    come_and_go_unseen(cluster)
    auditing = make_product(audit_interval=1, audit_apply=True)
    auditing.start_producer()
    auditing.start_producer()
    assert auditing.finish(UNSEEN) == ["reclaimed"]
    eventually(lambda: len(audits(auditing, "periodic")) >= 4, "each gateway to be audited again")
    assert KEPT in cluster.addresses(GATEWAY)
    assert audits(auditing) == []


def test_a_gateway_whose_audit_is_pending_is_not_audited_once_more(product: Product, cluster: SandboxCluster) -> None:
    inventory = product.inventory()
    inventory.claim_cluster()
    soon, late = (Audits(product.api, inventory, interval, apply=True) for interval in (0.1, 60))
    first = soon.publish([GATEWAY])
    eventually(lambda: soon.due, "the next audit to be due")
    assert [each.gateway for each in late.publish([GATEWAY, OTHER])] == [OTHER]
    assert late.publish([GATEWAY, OTHER]) == []
    assert [each.reason for each in first] == ["periodic"]
