"""What a producer makes of changes that are no plain deletion: moves, recreations, objects that cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from producer.producer import Producer
from sandbox import objects
from sandbox.cluster import SandboxCluster
from shared.errors import WrongClusterError
from shared.kube.api import EIPS
from shared.models import Release
from shared.status_reader import StatusReader
from tests.conftest import GATEWAY, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    cluster.add_gateway(GATEWAY)
    cluster.controller.switches.leaks.wrong_argument = True
    return make_product()


def known(product: Product) -> set[str]:
    return {eip.name for eip in product.inventory().all().values()}


def test_a_deletion_timestamp_alone_releases_nothing(product: Product, cluster: SandboxCluster) -> None:
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.kill_controller()
    cluster.delete_eip("eip", wait_gone=False)
    eventually(lambda: [eip for eip in product.inventory().all().values() if eip.terminating], "the timestamp")
    assert product.records.find("eip") == []
    cluster.remove_finalizer("eip")
    assert product.finish("eip") == ["reclaimed"]


def test_an_eip_that_moves_to_another_gateway_releases_its_address_here(
    product: Product, cluster: SandboxCluster
) -> None:
    cluster.add_gateway("gw-there")
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.kill_controller()
    cluster.patch_eip("eip", {"spec": {"natGwDp": "gw-there"}})
    assert product.finish("eip") == ["reclaimed"]
    assert "10.1.69.205" not in cluster.addresses(GATEWAY)
    (work_id,) = product.records.find("eip")
    work = product.records.work(work_id)
    assert isinstance(work, Release)
    assert (work.gateway, work.reason) == (GATEWAY, "moved")
    cluster.delete_eip("eip", wait_gone=False)
    cluster.remove_finalizer("eip")
    eventually(lambda: len(product.records.find("eip")) == 2, "the release of the place it moved to")
    assert product.finish("eip") == ["reclaimed", "already_absent"]


def test_an_eip_that_changes_its_address_releases_the_former_one(product: Product, cluster: SandboxCluster) -> None:
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.kill_controller()
    cluster.patch_eip("eip", {"spec": {"v4ip": "10.1.69.210"}, "status": {"ip": "10.1.69.210"}})
    cluster.background.call(
        cluster.api.patch(objects.EIPS, "eip", {"status": {"ip": "10.1.69.210"}}, subresource="status")
    )
    assert product.finish("10.1.69.205") == ["reclaimed"]
    assert known(product) == {"eip"}


def test_the_same_name_with_another_uid_is_another_eip(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()
    for host in (205, 206, 207):
        cluster.create_eip("eip", GATEWAY, f"10.1.69.{host}")
        cluster.delete_eip("eip")
    cluster.create_eip("eip", GATEWAY, "10.1.69.208")
    eventually(lambda: len(product.records.find("eip")) == 3, "three releases")
    assert product.finish("eip") == ["reclaimed"] * 3
    assert "10.1.69.208" in cluster.addresses(GATEWAY)


def test_two_producers_publish_each_release_once(product: Product, cluster: SandboxCluster) -> None:
    for number in range(20):
        cluster.create_eip(f"eip-{number}", GATEWAY, wait_ready=False)
    for number in range(20):
        cluster.wait_ready(f"eip-{number}")
    product.start_producer()
    product.start_producer()
    for number in range(20):
        cluster.delete_eip(f"eip-{number}", wait_gone=False)
    for number in range(20):
        assert product.finish(f"eip-{number}") == ["reclaimed"]
        (work_id,) = product.records.find(f"eip-{number}")
        assert [event["event"] for event in product.records.events(work_id)].count("published") == 1
    assert product.work_queue.queue.finished_job_registry.count == 20


MALFORMED: dict[str, Any] = {
    "no spec": None,
    "no gateway": {"v4ip": "10.1.69.210"},
    "a gateway that cannot be a name": {"natGwDp": "../../etc", "v4ip": "10.1.69.210"},
    "a number for an address": {"natGwDp": GATEWAY, "v4ip": 17},
    "no address": {"natGwDp": GATEWAY, "v4ip": "10.1.69.2 05"},
    "a prefix": {"natGwDp": GATEWAY, "v4ip": "10.1.69.0/24"},
    "an IPv4-mapped address": {"natGwDp": GATEWAY, "v6ip": "::ffff:10.1.69.206"},
    "an address with a zone": {"natGwDp": GATEWAY, "v6ip": "fe80::1%net1"},
    "the loopback": {"natGwDp": GATEWAY, "v4ip": "127.0.0.1"},
    "a command": {"natGwDp": GATEWAY, "v4ip": "10.1.69.205; reboot"},
}


@pytest.mark.parametrize("spec", MALFORMED.values(), ids=MALFORMED)
def test_an_object_that_cannot_be_read_is_reported_and_skipped(
    product: Product, cluster: SandboxCluster, capfd: pytest.CaptureFixture[str], spec: Any
) -> None:
    cluster.kill_controller()
    product.start_producer()
    body = objects.eip("odd", GATEWAY)
    del body["spec"]
    cluster.background.call(cluster.api.create(objects.EIPS, {**body, **({} if spec is None else {"spec": spec})}))
    cluster.start_controller()
    cluster.create_eip("kept", GATEWAY, "10.1.69.206")
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    cluster.delete_eip("eip")
    assert product.finish("eip") == ["reclaimed"]
    assert "object cannot be read, skipped" in "".join(capfd.readouterr())
    # The same once more for a producer that meets it in its first list, and sees it go.
    product.start_producer()
    cluster.delete_eip("odd", wait_gone=False)
    cluster.create_eip("next", GATEWAY, "10.1.69.207")
    cluster.delete_eip("next")
    assert product.finish("next") == ["reclaimed"]
    assert product.records.find("odd") == []
    assert "10.1.69.206" in cluster.addresses(GATEWAY)


def test_an_eip_that_can_no_longer_be_read_is_still_there_and_released_when_it_goes(
    product: Product, cluster: SandboxCluster
) -> None:
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    stop = product.start_producer()
    cluster.kill_controller()
    cluster.patch_eip("eip", {"spec": {"v4ip": 17, "natGwDp": None}})
    stop()
    product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
    product.start_producer()
    assert known(product) == {"eip"}
    assert product.records.find("eip") == []
    cluster.delete_eip("eip", wait_gone=False)
    cluster.remove_finalizer("eip")
    assert product.finish("eip") == ["reclaimed"]


@pytest.mark.parametrize("compacted", [True, False], ids=["listing again", "resuming the watch"])
def test_an_api_that_is_another_clusters_by_now_ends_the_producer(
    product: Product, cluster: SandboxCluster, compacted: bool
) -> None:
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()()
    producer = Producer(product.api, product.inventory(), product.brake, product.settings)
    cluster.background.call(cluster.server.set_cluster_uid())
    if compacted:
        cluster.compact_history()
    with pytest.raises(WrongClusterError, match="that of another cluster by now"):
        producer.run(threading.Event())
    assert known(product) == {"eip"}


def test_a_producer_that_cannot_follow_the_api_says_so_and_why(product: Product, cluster: SandboxCluster) -> None:
    reader = StatusReader(product.work_queue, product.settings)
    product.start_producer()
    cluster.server.faults.answer(503, prefix=EIPS, verbs=("list", "watch"))
    cluster.background.call(cluster.server.cut_watches())
    (producer,) = eventually(
        lambda: [each for each in reader.read().producers if "503" in str(each.trouble)], "a word of it"
    )
    assert producer.alive
    cluster.server.faults.clear()
    eventually(lambda: reader.read().producers[0].trouble is None, "the end of it")
