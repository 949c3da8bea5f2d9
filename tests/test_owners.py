"""A live EIP keeps its address, at whatever moment of a reclaim it comes to own it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.cluster import SandboxCluster
from shared.errors import LockLostError
from shared.kube.api import EIPS
from shared.models import Confirmation, Outcome
from tests.absence import AbsenceWatch
from tests.asked_ahead import let_rounds_be_asked_ahead
from tests.conftest import GATEWAY, Product, release
from tests.interposed import InterposedDriver
from tests.vouched import is_vouched, vouch
from tests.waiting import eventually
from workers import service
from workers.owners import Owners
from workers.round import Round

pytestmark = [pytest.mark.kernel, pytest.mark.server]

ADDRESS = "10.1.69.200"
"""The lowest that Kube-OVN hands out here, so the first one an EIP gets that asks for none."""


@pytest.fixture(params=["exec", "netlink", "netlink, asked ahead"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name, _, ahead = str(request.param).partition(", ")
    asked = let_rounds_be_asked_ahead(monkeypatch) if ahead else []
    yield name
    assert any(each.was_read for each in asked) or not ahead


@pytest.fixture
def leak(cluster: SandboxCluster, driver: str, make_product: Callable[..., Product]) -> Callable[..., Product]:
    """A gateway on which the address of a deleted EIP `old` leaked, and whose release nobody has worked on yet."""

    def make(**settings: object) -> Product:
        product = make_product(driver=driver, **settings)
        cluster.add_gateway(GATEWAY)
        cluster.create_eip("other", GATEWAY, "10.1.69.206")
        cluster.create_eip("old", GATEWAY, ADDRESS)
        product.start_producer()
        cluster.controller.switches.leaks.wrong_argument = True
        cluster.delete_eip("old")
        cluster.wait_for_record("released", eip="old")
        eventually(lambda: product.records.find("old"), "the release")
        return product

    return make


@pytest.fixture
def before_change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Lets something happen between the worker's look and its act, once."""

    def set_action(action: Callable[[], object]) -> None:
        actions = [action]
        opened = service.open_driver

        def act() -> None:
            if actions:
                actions.pop()()

        monkeypatch.setattr(service, "open_driver", lambda settings, api: InterposedDriver(opened(settings, api), act))

    return set_action


@pytest.fixture
def asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server has been there for long."""
    monkeypatch.setattr("workers.round.LONGEST_UNVOUCHED_PAUSE", 0.5)


def watch(cluster: SandboxCluster) -> AbsenceWatch:
    return AbsenceWatch(cluster.pod(GATEWAY).namespace, f"{ADDRESS}/24")


def test_an_owner_that_appears_between_look_and_act_has_its_address_back_within_a_second(
    leak: Callable[..., Product],
    cluster: SandboxCluster,
    before_change: Callable[[Callable[[], object]], None],
) -> None:
    product = leak()
    before_change(lambda: cluster.create_eip("new", GATEWAY, ADDRESS))
    with watch(cluster) as absences:
        assert product.finish("old") == ["restored"]
        (absent,) = absences.stop()
    assert absent <= 1
    assert ADDRESS in cluster.addresses(GATEWAY)
    assert "10.1.69.206" in cluster.addresses(GATEWAY)


def test_an_owner_on_another_gateway_that_appears_between_look_and_act_changes_nothing_here(
    leak: Callable[..., Product],
    cluster: SandboxCluster,
    before_change: Callable[[Callable[[], object]], None],
) -> None:
    product = leak()
    cluster.add_gateway("gw-there")
    before_change(lambda: cluster.create_eip("new", "gw-there", ADDRESS))
    assert product.finish("old") == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)
    assert ADDRESS in cluster.addresses("gw-there")


def test_an_owner_inside_the_hidden_moment_is_waited_for(leak: Callable[..., Product], cluster: SandboxCluster) -> None:
    product = leak()
    hide_new_owner(cluster)
    with watch(cluster) as absences:
        assert product.finish("old") == ["reassigned"]
        assert absences.stop() == []
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_an_owner_whose_hidden_moment_begins_between_look_and_act_misses_its_address_for_a_second_at_most(
    leak: Callable[..., Product],
    cluster: SandboxCluster,
    before_change: Callable[[Callable[[], object]], None],
) -> None:
    product = leak()
    before_change(lambda: hide_new_owner(cluster))
    with watch(cluster) as absences:
        assert product.finish("old") == ["reassigned"]
        (absent,) = absences.stop()
    assert absent <= 1
    assert cluster.wait_ready("new")["spec"]["v4ip"] == ADDRESS
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_an_owner_that_stays_hidden_for_longer_than_releases_wait_has_its_address_in_the_end(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak(hold_limit=1)
    hide_new_owner(cluster)
    assert product.finish("old") == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)
    cluster.wait_ready("new")
    assert product.finish("new") == ["restored"]
    assert ADDRESS in cluster.addresses(GATEWAY)


@pytest.mark.usefixtures("asked_again_soon")
def test_nothing_is_taken_away_while_nobody_vouches_for_the_inventory(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak()
    cluster.create_eip("new", GATEWAY, ADDRESS)
    uid = eventually(lambda: uid_known(product, "new"), "the producer to know it")
    product.close()
    # Redis was started anew and forgot it, and the API's lists lack it: nobody knows of an owner.
    product.work_queue.redis.hdel(product.work_queue.keys.inventory, uid)
    product.work_queue.redis.delete(product.work_queue.keys.owners(GATEWAY, ADDRESS))
    product.work_queue.redis.set(product.work_queue.keys.vouched, "the server before")
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    with watch(cluster) as absences:
        wait_until_postponed(product, *product.records.find("old"))
        ask_to_confirm(product, "confirm-1")
        wait_until_postponed(product, "confirm-1")
        assert product.outcomes("old") == [None]
        # A producer that has caught up knows better.
        cluster.server.faults.clear()
        product.start_producer()
        assert product.finish("old") == ["reassigned"]
        product.work_until(lambda: product.records.outcome("confirm-1"), "the confirmation")
        assert absences.stop() == []
    assert product.records.outcome("confirm-1") == Outcome.REASSIGNED


@pytest.mark.usefixtures("asked_again_soon")
def test_nothing_is_taken_away_while_no_producer_follows_the_api(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak()
    redis, keys = product.work_queue.redis, product.work_queue.keys
    redis.zrem(keys.following, "a producer")
    eventually(lambda: is_vouched(product.work_queue), "the producer to follow")
    # Its watch breaks off, and while it cannot follow an owner comes, which the API's lists lack too.
    cluster.server.faults.answer(503, prefix=EIPS, verbs=["watch"])
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    cluster.background.call(cluster.server.cut_watches())
    eventually(lambda: not is_vouched(product.work_queue), "the producer to take its word back", 2)
    cluster.create_eip("new", GATEWAY, ADDRESS)
    with watch(cluster) as absences:
        wait_until_postponed(product, *product.records.find("old"))
        assert product.outcomes("old") == [None]
        cluster.server.faults.clear()
        assert product.finish("old") == ["reassigned"]
        assert absences.stop() == []
    assert ADDRESS in cluster.addresses(GATEWAY)


@pytest.mark.usefixtures("asked_again_soon")
def test_what_was_taken_away_goes_back_when_nobody_vouches_for_the_inventory_any_more(
    leak: Callable[..., Product],
    cluster: SandboxCluster,
    before_change: Callable[[Callable[[], object]], None],
) -> None:
    product = leak()
    product.close()
    keys = product.work_queue.keys
    before_change(lambda: product.work_queue.redis.set(keys.vouched, "the server before"))
    with watch(cluster) as absences:
        wait_until_postponed(product, *product.records.find("old"))
        (absent,) = absences.stop()
    assert absent <= 1
    assert ADDRESS in cluster.addresses(GATEWAY)
    assert product.outcomes("old") == [None]
    vouch(product.work_queue)
    assert product.finish("old") == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)


def test_what_a_deletion_meant_is_known_when_redis_went_back_in_the_middle_of_it(
    leak: Callable[..., Product], cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = leak(retry_base=0.2)
    product.close()
    redis, keys = product.work_queue.redis, product.work_queue.keys
    (work_id,) = product.records.find("old")
    doubt = Round._doubt
    broken: list[Any] = []

    def go_back(self: Round, *owners: Owners) -> object:
        if not broken:
            broken.append(redis.get(keys.intent(GATEWAY, ADDRESS)))
            redis.delete(keys.intent(GATEWAY, ADDRESS))
            raise LockLostError("as its fence says when Redis does not know the lock any more")
        return doubt(self, *owners)

    monkeypatch.setattr(Round, "_doubt", go_back)
    product.work_until(lambda: redis.exists(keys.intent(GATEWAY, ADDRESS)) and broken, "the deletion to break off")
    stored: Any = redis.get(keys.intent(GATEWAY, ADDRESS))
    assert json.loads(broken[0])["work"] == json.loads(stored)["work"] == work_id
    # The owner that it was taken from was known to nobody then, and has its address again.
    cluster.create_eip("new", GATEWAY, ADDRESS)
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    assert product.finish("old") == ["restored"]
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_a_terminating_owner_is_not_touched(leak: Callable[..., Product], cluster: SandboxCluster) -> None:
    product = leak()
    cluster.create_eip("new", GATEWAY, ADDRESS)
    cluster.kill_controller()
    cluster.delete_eip("new", wait_gone=False)
    eip = cluster.get_eip("new")
    assert eip is not None
    assert eip["metadata"]["deletionTimestamp"]
    with watch(cluster) as absences:
        assert product.finish("old") == ["reassigned"]
        assert absences.stop() == []
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_an_owner_that_waits_for_an_address_which_lives_elsewhere_is_not_given_it(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak()
    assert product.finish("old") == ["reclaimed"]
    cluster.add_gateway("gw-there")
    cluster.create_eip("living", "gw-there", ADDRESS)
    wish = cluster.create_eip("wish", GATEWAY, ADDRESS, wait_ready=False)
    eventually(lambda: wish["metadata"]["uid"] in product.inventory().all(), "the producer to have seen it")
    # Kube-OVN is not done yet, so nothing is to be confirmed; and who asks all the same is not believed.
    assert product.records.find("wish") == []
    assert confirmed(product) == Outcome.REASSIGNED
    assert ADDRESS not in cluster.addresses(GATEWAY)
    cluster.delete_eip("living")
    cluster.wait_ready("wish")
    assert product.finish("wish") == ["reassigned"]
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_an_owner_that_has_just_gone_is_not_given_its_address_back(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak()
    assert product.finish("old") == ["reclaimed"]
    cluster.create_eip("new", GATEWAY, ADDRESS)
    eventually(lambda: len(product.inventory().all()) == 2, "the producer to have seen it")
    product.close()
    cluster.delete_eip("new")
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    assert confirmed(product) == Outcome.REASSIGNED
    assert ADDRESS not in cluster.addresses(GATEWAY)
    # A list that lacks it is not believed alone.
    cluster.create_eip("newer", GATEWAY, ADDRESS)
    product.start_producer()
    eventually(lambda: "newer" in {eip.name for eip in product.inventory().all().values()}, "the producer to see it")
    product.close()
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    cluster.pod(GATEWAY).namespace.ip("addr", "del", f"{ADDRESS}/24", "dev", "net1")
    assert confirmed(product, "confirm-2") == Outcome.RESTORED
    assert ADDRESS in cluster.addresses(GATEWAY)


def uid_known(product: Product, name: str) -> str:
    """The UID of an EIP that the inventory knows with its address; empty where it does not."""
    return next((uid for uid, eip in product.inventory().all().items() if eip.name == name and eip.addresses), "")


def wait_until_postponed(product: Product, work_id: str) -> None:
    """Work until a piece of work waits for a producer to vouch for the inventory."""

    def is_postponed() -> bool:
        return any("no producer has caught up" in event.get("why", "") for event in product.records.events(work_id))

    product.work_until(is_postponed, f"{work_id} to be postponed")


def ask_to_confirm(product: Product, work_id: str) -> None:
    """Whoever asks that an owner of the address has it."""
    fields = release(product, GATEWAY, ADDRESS).model_dump(exclude={"kind", "reason", "was_ready"})
    product.work_queue.publish_now([Confirmation(**{**fields, "id": work_id})], "published")


def confirmed(product: Product, work_id: str = "confirm-1") -> Outcome | None:
    """What becomes of a confirmation of the address."""
    ask_to_confirm(product, work_id)
    product.work_until(lambda: product.records.outcome(work_id), "the confirmation")
    return product.records.outcome(work_id)


def hide_new_owner(cluster: SandboxCluster) -> None:
    """Create an EIP without asking for an address; it gets the leaked one, which its object names 3 s later."""
    cluster.controller.switches.delays.hidden_moment = 3
    cluster.create_eip("new", GATEWAY, wait_ready=False)
    cluster.wait_for_record("eip_add_done", eip="new", addresses=(ADDRESS,))
