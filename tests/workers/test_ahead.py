"""What is asked ahead of a look: when it is, what it decides, and what is left of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from sandbox.cluster import SandboxCluster
from shared.errors import ApiUnavailableError
from shared.kube.api import EIPS
from shared.models import parse_work
from shared.queue import WorkQueue
from tests import payloads
from tests.asked_ahead import NotedAhead, ask_ahead, let_rounds_be_asked_ahead
from tests.conftest import GATEWAY, Product, release
from tests.vouched import vouch
from tests.waiting import eventually
from workers.ahead import AHEAD_SECONDS, Ahead
from workers.cluster import Cluster
from workers.round import Round

pytestmark = [pytest.mark.kernel, pytest.mark.server]

ADDRESS = "10.1.69.205"
OTHER = "10.1.69.206"


@pytest.fixture
def product(cluster: SandboxCluster, make_product: Callable[..., Product]) -> Product:
    """A gateway with two addresses that nobody owns."""
    cluster.add_gateway(GATEWAY)
    for address in (ADDRESS, OTHER):
        put_on(cluster, f"{address}/24")
    return make_product(driver="netlink")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[NotedAhead]:
    return let_rounds_be_asked_ahead(monkeypatch)


def put_on(cluster: SandboxCluster, address: str) -> None:
    cluster.pod(GATEWAY).namespace.ip("addr", "add", address, "dev", "net1")


def intent(product: Product, address: str) -> dict[str, Any] | None:
    stored: Any = product.work_queue.redis.get(product.work_queue.keys.intent(GATEWAY, address))
    return json.loads(stored) if stored else None


def reclaim(product: Product, address: str) -> list[str | None]:
    """What becomes of a release of the address."""
    product.work_queue.publish_now([release(product, GATEWAY, address)], "published")
    return product.finish(address)


@contextmanager
def waiting_worker(product: Product, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Ahead]]:
    """A worker that waits for each of its jobs; what its rounds are asked ahead."""
    told: list[Ahead] = []
    request, worker = Round.request, product.worker()

    def note(self: Round, ahead: Ahead) -> None:
        told.append(ahead)
        request(self, ahead)

    monkeypatch.setattr(Round, "request", note)
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        yield told
    finally:
        worker._stop.set()
        thread.join(10)
        assert not thread.is_alive()


def done(product: Product, address: str, gateway: str = GATEWAY) -> str | None:
    """The outcome of a release of the address, for which a worker waits."""
    work = release(product, gateway, address)
    product.work_queue.publish_now([work], "published")
    return eventually(lambda: product.records.outcome(work.id), f"the outcome for {address}; {product.story()}")


def test_a_worker_asks_ahead_where_the_last_release_found_its_address(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.ahead.AHEAD_SECONDS", 10.0)
    read, answered = Ahead.answer, []

    def note(self: Ahead) -> Any:
        answered.append(read(self))
        return answered[-1]

    monkeypatch.setattr(Ahead, "answer", note)
    with waiting_worker(product, monkeypatch) as told:
        assert done(product, ADDRESS) == "reclaimed"
        assert not told
        assert done(product, OTHER) == "reclaimed"
        (ahead,) = told
        assert set(ahead.known) == {OTHER}
        assert answered == [[]], "a list of EIPs, of which there are none"
        # This one is not there, so that the next is not likely to be.
        assert done(product, "10.1.69.207") == "already_absent"
        assert len(told) == 2
        assert intent(product, "10.1.69.207") is None
        assert done(product, "10.1.69.208") == "already_absent"
        assert len(told) == 2
    assert not {ADDRESS, OTHER} & set(cluster.addresses(GATEWAY))
    first, second = intent(product, ADDRESS), intent(product, OTHER)
    assert first is not None
    assert second is not None
    assert (first["interface"], second["interface"]) == ("net1", "net1")


def test_on_each_gateway_that_it_has_been_at_a_worker_asks_the_api_ahead(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.ahead.AHEAD_SECONDS", 10.0)
    requested: list[str] = []
    request = Ahead.request

    def note(self: Ahead, places: Cluster) -> None:
        requested.append(self.gateway)
        request(self, places)

    monkeypatch.setattr(Ahead, "request", note)
    cluster.add_gateway("gw-two")
    there = cluster.pod("gw-two").namespace
    for number in (207, 208):
        there.ip("addr", "add", f"10.1.69.{number}/24", "dev", "net1")
    with waiting_worker(product, monkeypatch) as told:
        assert done(product, ADDRESS) == "reclaimed"
        assert done(product, "10.1.69.207", "gw-two") == "reclaimed"
        assert done(product, OTHER) == "reclaimed"
        assert done(product, "10.1.69.208", "gw-two") == "reclaimed"
    assert [ahead.gateway for ahead in told] == ["gw-two", GATEWAY, "gw-two"]
    assert requested == [GATEWAY, "gw-two"]


def test_where_a_look_takes_too_long_nothing_is_asked_ahead_for_a_while(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.ahead.AHEAD_SECONDS", 0.0)
    others = ["10.1.69.207", "10.1.69.208"]
    for address in others:
        put_on(cluster, f"{address}/24")
    with waiting_worker(product, monkeypatch) as told:
        for address in (ADDRESS, OTHER, *others):
            assert done(product, address) == "reclaimed"
        # The first could not be; the second may have been chance.
        assert [set(ahead.known) for ahead in told] == [{OTHER}, {others[0]}]


def test_what_redis_said_too_long_ago_counts_for_nothing(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Cluster(product.api, product.work_queue, product.settings)
    places.gateway_names()
    for late in (False, True):
        ahead = ask_ahead(product.work_queue, release(product, GATEWAY, ADDRESS))
        assert ahead is not None
        now, at = time.monotonic, time.monotonic() + (AHEAD_SECONDS if late else 0)
        with monkeypatch.context() as patch:
            patch.setattr("workers.ahead.time.monotonic", lambda at=at: at)
            # However soon after that the API is asked and answers.
            ahead.request(places)
            assert (ahead.answer() is None) is late
            assert ahead.is_late is late
        assert time.monotonic is now
        ahead.drop()
        product.work_queue.redis.delete(product.work_queue.keys.intent(GATEWAY, ADDRESS))


def test_a_worker_whose_commands_take_long_never_asks_ahead(
    cluster: SandboxCluster, make_product: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    product = make_product(driver="exec")
    cluster.add_gateway(GATEWAY)
    for address in (ADDRESS, OTHER):
        put_on(cluster, f"{address}/24")
    with waiting_worker(product, monkeypatch) as told:
        assert [done(product, address) for address in (ADDRESS, OTHER)] == ["reclaimed", "reclaimed"]
        assert not told


def test_an_address_goes_back_to_where_it_was_although_its_worker_died_before_that_was_noted(
    product: Product, cluster: SandboxCluster
) -> None:
    product.start_producer()
    work = release(product, GATEWAY, ADDRESS)
    assert ask_ahead(product.work_queue, work) is not None
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    cluster.create_eip("new", GATEWAY, ADDRESS)
    eventually(lambda: product.records.find("new"), "the confirmation to be published")
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    assert product.finish("new") == ["restored"]
    assert f"{ADDRESS}/24" in cluster.pod(GATEWAY).namespace.ip("-o", "addr", "show", "dev", "net1")


@pytest.mark.parametrize("prefix_length", [32, 25])
def test_where_an_address_was_is_noted_where_the_others_do_not_tell(
    prefix_length: int, product: Product, cluster: SandboxCluster, asked: list[NotedAhead]
) -> None:
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    put_on(cluster, f"{ADDRESS}/{prefix_length}")
    assert reclaim(product, ADDRESS) == ["reclaimed"]
    assert len(asked) == 1
    told = intent(product, ADDRESS)
    assert told is not None
    assert (told["interface"], told["prefix_length"]) == ("net1", prefix_length)


@pytest.mark.parametrize("stored", [b"garbage", b'{"anything": 1}', b"[]", b"\xff"])
@pytest.mark.parametrize("address", [ADDRESS, "10.1.69.207"])
def test_an_intent_that_is_none_keeps_nothing_from_being_done(address: str, stored: bytes, product: Product) -> None:
    redis, keys = product.work_queue.redis, product.work_queue.keys
    redis.set(keys.intent(GATEWAY, address), stored)
    assert reclaim(product, address) == ["reclaimed" if address == ADDRESS else "already_absent"]
    assert not redis.exists(keys.lock(GATEWAY))


@pytest.mark.parametrize(("deleted", "outcome"), [(False, "already_absent"), (True, "reclaimed")])
def test_a_worker_that_died_after_it_had_asked_ahead_is_not_said_to_have_deleted_what_it_did_not(
    deleted: bool, outcome: str, product: Product
) -> None:
    work = release(product, GATEWAY, "10.1.69.207")
    product.work_queue.publish_now([work], "published")
    assert ask_ahead(product.work_queue, work) is not None
    if deleted:
        product.records.note(work.id, deleted="a pod")
    assert product.finish("10.1.69.207") == [outcome]


def test_what_is_not_there_leaves_no_intent_and_nothing_to_confirm(product: Product, asked: list[NotedAhead]) -> None:
    assert reclaim(product, "10.1.69.207") == ["already_absent"]
    assert len(asked) == 1
    assert intent(product, "10.1.69.207") is None
    (work_id,) = product.records.find("10.1.69.207")
    (told,) = (event for event in product.records.events(work_id) if event["event"] == "outcome")
    assert "why" not in told


@pytest.mark.usefixtures("asked")
def test_an_answer_that_is_too_old_is_asked_for_anew(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.ahead.AHEAD_SECONDS", 0.0)
    request = Ahead.request

    def request_too_early(self: Ahead, places: Cluster) -> None:
        request(self, places)
        cluster.create_eip("new", GATEWAY, OTHER)

    monkeypatch.setattr(Ahead, "request", request_too_early)
    assert reclaim(product, OTHER) == ["reassigned"]
    assert OTHER in cluster.addresses(GATEWAY)


def test_an_api_that_refuses_says_so_and_nothing_is_left(product: Product, cluster: SandboxCluster) -> None:
    places = Cluster(product.api, product.work_queue, product.settings)
    work = release(product, GATEWAY, ADDRESS)
    ahead = ask_ahead(product.work_queue, work)
    assert ahead is not None
    ahead.request(places)
    assert ahead.answer() is None, "not asked before it is known which gateways there are"
    places.gateway_names()
    cluster.server.faults.answer(503, prefix=EIPS)
    ahead.request(places)
    with pytest.raises(ApiUnavailableError, match="503"):
        ahead.answer()
    ahead.drop()
    assert intent(product, ADDRESS) is None
    cluster.server.faults.clear()
    assert reclaim(product, ADDRESS) == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)


def test_what_may_not_be_taken_away_leaves_no_intent(
    product: Product, cluster: SandboxCluster, asked: list[NotedAhead]
) -> None:
    own = next(each for each in cluster.addresses(GATEWAY) if each not in (ADDRESS, OTHER))
    product.work_queue.publish_now([release(product, GATEWAY, own)], "published")
    eventually_failed(product, own)
    assert len(asked) == 1
    assert intent(product, own) is None
    assert own in cluster.addresses(GATEWAY)


def eventually_failed(product: Product, address: str) -> None:
    (work_id,) = product.records.find(address)
    failed = product.work_queue.queue.failed_job_registry
    product.work_until(lambda: work_id in failed.get_job_ids(), "the job to fail")


WORK = payloads.release(addresses=["192.0.2.7", "2001:db8::7"])


def test_owners_are_told_with_what_is_recorded(work_queue: WorkQueue) -> None:
    redis, keys = work_queue.redis, work_queue.keys
    work = parse_work(WORK)
    vouch(work_queue)
    redis.sadd(keys.owners(work.gateway, "2001:db8::7"), "uid-7")
    ahead = ask_ahead(work_queue, work)
    assert ahead is not None
    assert ahead.vouched
    assert ahead.known == {"192.0.2.7": "", "2001:db8::7": "uid-7"}
    for address in ahead.known:
        stored: Any = redis.get(keys.intent(work.gateway, address))
        assert json.loads(stored)["work"] == work.id
        assert 0 < int(redis.ttl(keys.intent(work.gateway, address))) <= 3600
    # One that is not ours any more stays.
    redis.set(keys.intent(work.gateway, "192.0.2.7"), "another's")
    ahead.drop()
    ahead.drop()
    assert redis.get(keys.intent(work.gateway, "192.0.2.7")) == b"another's"
    assert not redis.exists(keys.intent(work.gateway, "2001:db8::7"))


def test_where_redis_is_away_nothing_is_forgotten_and_nobody_is_stopped(
    work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = parse_work(WORK)
    ahead = ask_ahead(work_queue, work)
    assert ahead is not None
    with monkeypatch.context() as patch:

        def be_away(*_args: object) -> None:
            raise RedisConnectionError

        patch.setattr(work_queue.redis, "evalsha", be_away)
        ahead.drop()
    assert work_queue.redis.exists(work_queue.keys.intent(work.gateway, "192.0.2.7"))
    ahead.drop()
    assert not work_queue.redis.exists(work_queue.keys.intent(work.gateway, "192.0.2.7"))


def test_an_inventory_that_nobody_vouches_for_is_told_as_such(work_queue: WorkQueue) -> None:
    work_queue.redis.delete(work_queue.keys.vouched)
    ahead = ask_ahead(work_queue, parse_work(WORK))
    assert ahead is not None
    assert not ahead.vouched


@pytest.mark.parametrize("payload", [{"was_ready": False}, {"kind": "confirmation"}])
def test_what_is_not_acted_on_at_once_is_not_asked_ahead(payload: dict[str, Any], work_queue: WorkQueue) -> None:
    fields = {**WORK, **payload}
    if fields["kind"] != "release":
        fields = {name: value for name, value in fields.items() if name not in ("reason", "was_ready")}
    work = parse_work(fields)
    assert ask_ahead(work_queue, work) is None
    assert not list(work_queue.redis.scan_iter("*intent*"))


@pytest.mark.parametrize("where", ["intent", "owners", "vouched", "following"])
def test_where_something_else_is_stored_nothing_is_asked_ahead(where: str, work_queue: WorkQueue) -> None:
    work, keys = parse_work(WORK), work_queue.keys
    pair = (work.gateway, "2001:db8::7")
    spoilt = {
        "intent": keys.intent(*pair),
        "owners": keys.owners(*pair),
        "vouched": keys.vouched,
        "following": keys.following,
    }[where]
    work_queue.redis.delete(spoilt)
    work_queue.redis.hset(spoilt, "not", "ours")
    assert ask_ahead(work_queue, work) is None
    assert not work_queue.redis.exists(keys.intent(work.gateway, "192.0.2.7"))


def test_what_is_no_text_is_an_owner_and_no_address(work_queue: WorkQueue) -> None:
    work, keys = parse_work(WORK), work_queue.keys
    work_queue.redis.sadd(keys.owners(work.gateway, "192.0.2.7"), b"\xff\xfe")
    ahead = ask_ahead(work_queue, work)
    assert ahead is not None
    assert ahead.known["192.0.2.7"]
    assert Ahead(work_queue.redis, keys, "gw1", "", 0.0, [1, [b"\xff", None]]).known == {"\ufffd": ""}
