"""A producer vouches for the inventory, and says that it follows, once it has caught up with the API, and not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sandbox.api.watching import Cut
from sandbox.cluster import SandboxCluster
from shared.kube.api import EIPS
from shared.vouching import WORD_SECONDS
from tests.conftest import GATEWAY, Product
from tests.vouched import is_vouched
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    """A product on a Redis that nobody has vouched for, and that no producer follows."""
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, "10.1.69.206")
    made = make_product()
    made.work_queue.redis.delete(made.work_queue.keys.vouched, made.work_queue.keys.following)
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


def test_a_producer_that_ends_takes_its_word_back(product: Product) -> None:
    stop = product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    stop()
    assert not is_vouched(product.work_queue)


def test_no_word_while_the_api_cannot_be_followed(product: Product, cluster: SandboxCluster) -> None:
    for _ in range(2):
        product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "a producer to follow")
    cluster.server.faults.answer(503, prefix=EIPS)
    cluster.background.call(cluster.server.cut_watches())
    eventually(lambda: not is_vouched(product.work_queue), "the words to be taken back", WORD_SECONDS / 3)
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    time.sleep(1)
    assert not is_vouched(product.work_queue)
    cluster.server.faults.clear()
    eventually(lambda: is_vouched(product.work_queue), "a producer to follow again")
    assert {eip.name for eip in product.inventory().all().values()} == {"kept", "new"}


def test_no_word_before_the_api_has_answered_the_watch(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    cluster.server.faults.slow(5, prefix=EIPS, verbs=["watch"])
    # As the API ends a watch whose time is over.
    cluster.background.call(cluster.server.cut_watches(Cut.END))
    eventually(lambda: not is_vouched(product.work_queue), "the word to be taken back", WORD_SECONDS / 2)
    cluster.server.faults.clear()
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow again")


def test_a_watch_that_is_resumed_at_once_costs_no_word(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    watches = cluster.server.requests.count(verb="watch", prefix=EIPS)
    cluster.background.call(cluster.server.cut_watches(Cut.END))
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert is_vouched(product.work_queue)
        time.sleep(0.01)
    assert cluster.server.requests.count(verb="watch", prefix=EIPS) > watches


def test_what_came_while_lists_lacked_eips_is_known_before_anybody_vouches(
    product: Product, cluster: SandboxCluster
) -> None:
    stop = product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    stop()
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    cluster.compact_history()
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    product.start_producer()
    assert "the API's list lacks EIP kept" in eventually(product.brake.state, "the brake to engage").reason  # type: ignore[union-attr]
    # What the brake holds back may go by its own event: that does not mend a list.
    cluster.create_eip("late", GATEWAY, "10.1.69.204")
    eventually(lambda: product.producers[-1].known == 2, "one that comes by an event")
    cluster.delete_eip("kept")
    eventually(lambda: product.records.find("kept"), "the release of what was held back")
    time.sleep(2)
    assert product.brake.state() is not None
    assert not is_vouched(product.work_queue)
    cluster.server.faults.clear()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    assert {eip.name for eip in product.inventory().all().values()} == {"new", "late"}
    assert product.brake.state() is None


def test_many_that_are_truly_gone_do_not_end_it(
    product: Product, make_product: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = make_product(brake_minimum=0, brake_percent=0)
    product.work_queue.redis.delete(product.work_queue.keys.following)
    stop = product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    stop()
    cluster.delete_eip("kept")
    cluster.compact_history()
    product.start_producer()
    assert eventually(product.brake.state, "the brake to engage").reason == "one list would release 1 of 1 known EIPs"  # type: ignore[union-attr]
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    assert product.brake.state() is not None
