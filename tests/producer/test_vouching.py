"""A producer vouches for the inventory once it has caught up with the API, and not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sandbox.cluster import SandboxCluster
from shared.kube.api import EIPS
from tests.conftest import GATEWAY, Product
from tests.vouched import is_vouched
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    """A product on a Redis that nobody has vouched for."""
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, "10.1.69.206")
    made = make_product()
    made.work_queue.redis.delete(made.work_queue.keys.vouched)
    return made


@pytest.fixture
def events_without_end(product: Product) -> Iterator[None]:
    """Somebody changes an EIP all the time."""
    stop = threading.Event()

    def change() -> None:
        count = 0
        while not stop.wait(0.02):
            count += 1
            product.cluster.patch_eip("kept", {"metadata": {"annotations": {"count": str(count)}}})

    thread = threading.Thread(target=change)
    thread.start()
    yield
    stop.set()
    thread.join()


def forget(product: Product) -> None:
    """As if Redis had been started anew."""
    product.work_queue.redis.set(product.work_queue.keys.vouched, "the server before")


def test_after_a_list(product: Product) -> None:
    product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")


def test_after_a_start_from_where_another_came_to(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    # The API's version moves on with things that no watch of EIPs tells.
    cluster.add_gateway("gw-other")
    forget(product)
    product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")


def test_a_producer_that_was_there_all_along(product: Product) -> None:
    product.start_producer()
    for _ in range(2):
        forget(product)
        eventually(lambda: is_vouched(product.work_queue), "the producer to vouch anew")


@pytest.mark.usefixtures("events_without_end")
def test_events_that_come_all_the_time_are_no_hindrance(product: Product) -> None:
    product.start_producer()
    forget(product)
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")


def test_not_while_a_list_is_not_believed(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    # So that it lists, and the list lacks what is known.
    product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
    forget(product)
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    product.start_producer()
    eventually(product.brake.state, "the brake to engage")
    time.sleep(3)
    assert not is_vouched(product.work_queue)
    cluster.server.faults.clear()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")


def test_not_before_it_has_seen_all_that_happened(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()()
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    forget(product)
    cluster.server.faults.slow(3, prefix=EIPS, verbs=["watch"])
    product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    assert {eip.name for eip in product.inventory().all().values()} == {"kept", "new"}
