"""A producer vouches for the inventory, and says that it follows, once it has caught up with the API, and not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from producer import freshness, vouching
from producer.stream import EventStream
from producer.vouching import PROOF_SECONDS, Vouching
from sandbox.api.watching import Cut
from sandbox.cluster import SandboxCluster
from sandbox.objects import EIPS as EIP_KIND
from sandbox.objects import GATEWAYS as GATEWAY_KIND
from shared.brake import Brake
from shared.inventory import Inventory
from shared.kube.api import EIPS, Object
from shared.queue import WorkQueue
from shared.settings import Settings
from shared.vouching import WORD_SECONDS
from tests.conftest import GATEWAY, Product
from tests.forwarder import forwarded
from tests.vouched import is_vouched, vouch
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


def expect_word(product: Product, seconds: float) -> None:
    """See that workers believe the inventory, all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert is_vouched(product.work_queue)
        time.sleep(0.01)


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


def test_no_word_before_what_happened_until_then_was_seen(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.start_producer()()
    # The inventory itself is vouched for; nobody sees what comes.
    vouch(product.work_queue)
    product.work_queue.redis.delete(product.work_queue.keys.following)
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    told = threading.Event()
    next_batch = EventStream.next

    def late(stream: EventStream, timeout: float) -> list[Object] | None:
        if told.is_set():
            return next_batch(stream, timeout)
        time.sleep(timeout)
        return []

    monkeypatch.setattr(EventStream, "next", late)
    product.start_producer()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert not is_vouched(product.work_queue)
        time.sleep(0.05)
    told.set()
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    assert {eip.name for eip in product.inventory().all().values()} == {"kept", "new"}


def test_the_word_ends_soon_where_the_api_is_cut_off_without_a_word(
    product: Product, make_product: Callable[..., Product], cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouching, "PROOF_SECONDS", 6.0)
    monkeypatch.setattr(vouching, "PROVE_AGAIN_SECONDS", 1.0)
    monkeypatch.setattr(freshness, "GRACE_SECONDS", 0.5)
    with forwarded(cluster) as (forwarder, kubeconfig):
        product = make_product(kubeconfig=kubeconfig)
        product.work_queue.redis.delete(product.work_queue.keys.following)
        product.start_producer()
        eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
        expect_word(product, 8)
        forwarder.freeze(new=True)
        eventually(lambda: not is_vouched(product.work_queue), "the word to end", 8)
        time.sleep(3)
        assert not is_vouched(product.work_queue)
        assert product.producers[-1].trouble is None
        forwarder.thaw()
        eventually(lambda: is_vouched(product.work_queue), "the producer to follow again")


def test_the_word_holds_while_much_else_happens_and_the_api_is_slow(product: Product, cluster: SandboxCluster) -> None:
    cluster.server.faults.slow(0.7, prefix=EIPS)
    stop = threading.Event()

    def change() -> None:
        """What no watch of EIPs tells, all the time, and an EIP now and then: where events end is hard to tell."""
        count = 0
        while not stop.wait(0.1):
            count += 1
            cluster.background.call(
                cluster.api.patch(GATEWAY_KIND, GATEWAY, {"metadata": {"annotations": {"count": str(count)}}})
            )
            if count % 45 == 0:
                cluster.patch_eip("kept", {"metadata": {"annotations": {"count": str(count)}}})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        product.start_producer()
        eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
        expect_word(product, 45)
    finally:
        stop.set()
        thread.join()


def test_addresses_that_are_held_back_with_those_they_replace_are_unknown(
    product: Product, make_product: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = make_product(brake_minimum=0, brake_percent=0)
    stop = product.start_producer()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    stop()
    cluster.kill_controller()
    cluster.patch_eip("kept", {"spec": {"v4ip": "10.1.69.204"}})
    cluster.background.call(
        cluster.api.patch(EIP_KIND, "kept", {"status": {"ip": "10.1.69.204"}}, subresource="status")
    )
    cluster.compact_history()
    product.start_producer()
    assert "one list would release 1 of 1" in eventually(product.brake.state, "the brake to engage").reason  # type: ignore[union-attr]
    time.sleep(2)
    assert not is_vouched(product.work_queue)
    product.brake.confirm()
    eventually(lambda: is_vouched(product.work_queue), "the producer to vouch")
    (kept,) = product.inventory().all().values()
    assert kept.addresses == ("10.1.69.204",)


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
    expect_word(product, 2)
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


class Api:
    """Where events end, as a test says it, instead of a second watch."""

    def __init__(self) -> None:
        self.behind = 0.0
        self.version = 10
        self.asked = 0
        self._ends: list[tuple[int, float]] = []

    def seen_until(self, position: int, since: float) -> float | None:
        return max((at for version, at in self._ends if version <= position and at >= since), default=None)

    def ask_for_end(self) -> None:
        self.asked += 1
        self._ends.append((self.version, time.monotonic()))


def can_say(vouching: Vouching, position: int) -> float:
    """For how many seconds a producer at that position can say that it follows."""
    # What it asks for is there at its next look.
    vouching.word_until(position)
    return max(vouching.word_until(position) - time.monotonic(), 0)


class TestWord:
    @pytest.fixture
    def api(self) -> Api:
        return Api()

    @pytest.fixture
    def vouching(self, work_queue: WorkQueue, api: Api, settings: Settings) -> Vouching:
        inventory = Inventory(work_queue, "c1", "p1")
        return Vouching(inventory, api, Brake(work_queue, settings))  # type: ignore[arg-type]

    def test_as_long_as_it_holds(self, vouching: Vouching) -> None:
        vouching.begin()()
        assert can_say(vouching, 10) == pytest.approx(PROOF_SECONDS, abs=0.1)

    def test_not_before_the_watch_is_open(self, vouching: Vouching) -> None:
        opened = vouching.begin()
        assert can_say(vouching, 10) == 0
        opened()
        assert can_say(vouching, 10) > 0

    def test_not_by_a_watch_that_was_given_up(self, vouching: Vouching) -> None:
        opened = vouching.begin()
        vouching.begin()
        opened()
        assert can_say(vouching, 10) == 0

    def test_not_while_an_event_is_missing(self, vouching: Vouching, api: Api) -> None:
        vouching.begin()()
        assert can_say(vouching, 9) == 0
        api.version = 11
        # Where events ended then is remembered, and reached later.
        assert can_say(vouching, 10) > 0

    def test_not_while_the_watch_is_behind(self, vouching: Vouching, api: Api) -> None:
        vouching.begin()()
        api.behind = 0.01
        assert can_say(vouching, 10) > 0
        api.behind = 1.01
        assert can_say(vouching, 10) == 0

    def test_what_was_proven_before_a_watch_broke_off_proves_nothing(self, vouching: Vouching, api: Api) -> None:
        vouching.begin()()
        assert can_say(vouching, 10) > 0
        vouching.break_off()
        vouching.begin()()
        api.version = 12
        assert can_say(vouching, 11) == 0

    def test_what_was_proven_before_a_watch_ended_still_does_for_a_moment(
        self, vouching: Vouching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("producer.vouching.ANSWER_SECONDS", 0.2)
        vouching.begin()()
        assert can_say(vouching, 10) > 0
        opened = vouching.begin()
        assert can_say(vouching, 10) > 0
        time.sleep(0.3)
        assert can_say(vouching, 10) == 0
        opened()
        assert can_say(vouching, 10) > 0

    def test_a_proof_does_not_last(self, vouching: Vouching, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("producer.vouching.PROOF_SECONDS", 0.3)
        monkeypatch.setattr("producer.vouching.PROVE_AGAIN_SECONDS", 0.1)
        vouching.begin()()
        assert 0 < can_say(vouching, 10) <= 0.3
        # Events come faster than they are committed.
        api.version = 1000
        time.sleep(0.2)
        assert 0 < can_say(vouching, 11) <= 0.1
        time.sleep(0.1)
        assert can_say(vouching, 11) == 0

    def test_another_is_asked_for_in_time_and_no_sooner(
        self, vouching: Vouching, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("producer.vouching.PROVE_AGAIN_SECONDS", 0.2)
        vouching.begin()()
        for _ in range(3):
            assert can_say(vouching, 10) > 0
        assert api.asked == 1
        time.sleep(0.3)
        assert can_say(vouching, 10) > 0
        assert api.asked == 2
