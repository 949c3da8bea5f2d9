"""A list that says that too many EIPs are gone releases nothing, until the API recovers or an operator confirms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from producer.lists import Lists
from producer.memory import Memory
from sandbox.cluster import SandboxCluster
from shared.kube.api import Object
from shared.metrics import WATCH_RESTARTS
from tests.conftest import GATEWAY, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

EIPS = [f"eip-{number}" for number in range(40)]
EIP_PATH = "/apis/kubeovn.io/v1/iptables-eips"


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    """A product that knows 40 EIPs, whose producer has ended and has to list when it starts again."""
    product = make_product()
    cluster.add_gateway(GATEWAY)
    create(cluster, EIPS)
    cluster.controller.switches.leaks.wrong_argument = True
    stop = product.start_producer()
    eventually(lambda: len(product.inventory().all()) == len(EIPS), "all to be known")
    stop()
    product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
    return product


def create(cluster: SandboxCluster, names: list[str]) -> None:
    for name in names:
        cluster.create_eip(name, GATEWAY, wait_ready=False)
    for name in names:
        cluster.wait_ready(name)


def delete(cluster: SandboxCluster, names: list[str]) -> None:
    for name in names:
        cluster.delete_eip(name, wait_gone=False)
    eventually(lambda: all(cluster.get_eip(name) is None for name in names), "the deletions")


def engaged(product: Product) -> str:
    return eventually(product.brake.state, "the brake").reason  # type: ignore[union-attr]


def listings(cluster: SandboxCluster) -> int:
    return cluster.server.requests.count(verb="list", prefix=EIP_PATH)


def restarts_by_the_api() -> float:
    """How often a watch was begun anew because the API did not answer."""
    return float(WATCH_RESTARTS.labels("api")._value.get())


def released(product: Product, names: list[str] = EIPS) -> list[str]:
    return [name for name in names if product.records.find(name)]


@pytest.mark.parametrize(("shown", "lacking"), [(0.0, 40), (0.7, 12)])
def test_a_list_that_lacks_too_many_releases_nothing_until_the_api_recovers(
    product: Product, cluster: SandboxCluster, capfd: pytest.CaptureFixture[str], shown: float, lacking: int
) -> None:
    cluster.server.faults.partial_lists(shown, prefix=EIP_PATH)
    product.start_producer()
    assert engaged(product) == f"one list would release {lacking} of 40 known EIPs"
    before = listings(cluster)
    eventually(lambda: listings(cluster) > before + 2, "more lists")
    assert released(product) == []
    assert len(product.inventory().all()) == 40
    assert "brake engaged" in "".join(capfd.readouterr())
    cluster.server.faults.clear()
    eventually(lambda: product.brake.state() is None, "the brake to disengage")
    delete(cluster, EIPS[:1])
    assert product.finish(EIPS[0]) == ["reclaimed"]
    assert released(product) == EIPS[:1]


def test_a_list_that_lacks_an_eip_which_the_api_has_releases_nothing(product: Product, cluster: SandboxCluster) -> None:
    cluster.server.faults.partial_lists(0.9, prefix=EIP_PATH)
    product.start_producer()
    assert "the API's list lacks EIP" in engaged(product)
    assert released(product) == []
    cluster.server.faults.clear()
    eventually(lambda: product.brake.state() is None, "the brake to disengage")
    assert released(product) == []


def test_what_another_producer_sees_during_a_list_is_no_sign_of_an_older_history(
    product: Product, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory, other = product.inventory(), product.inventory()
    pages = product.api.pages

    def slow_pages(path: str, **query: str) -> Iterator[tuple[list[Object], int]]:
        for items, version in pages(path, **query):
            other.commit([], version + 1)
            yield items, version

    monkeypatch.setattr(product.api, "pages", slow_pages)
    Lists(product.api, inventory, Memory(inventory), product.brake, product.settings).take()
    assert product.brake.state() is None


def test_a_watch_goes_on_while_the_api_does_not_list_for_the_brake(
    product: Product, cluster: SandboxCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.server.faults.partial_lists(0.0, prefix=EIP_PATH)
    product.start_producer()
    engaged(product)
    cluster.server.faults.answer(500, prefix=EIP_PATH, verbs=["list"])
    refused = listings(cluster)
    eventually(lambda: listings(cluster) > refused + 2, "more lists")
    restarts = restarts_by_the_api()
    delete(cluster, EIPS[:1])
    eventually(lambda: released(product) == EIPS[:1], "the release")
    assert restarts_by_the_api() == restarts
    assert "cannot list now, trying again" in "".join(capfd.readouterr())


def test_a_list_that_lacks_few_releases_them(product: Product, cluster: SandboxCluster) -> None:
    delete(cluster, EIPS[:10])
    product.start_producer()
    eventually(lambda: released(product) == EIPS[:10], "ten releases")
    assert product.brake.state() is None


def test_what_an_operator_confirms_is_released(product: Product, cluster: SandboxCluster) -> None:
    delete(cluster, EIPS[:30])
    product.start_producer()
    assert engaged(product) == "one list would release 30 of 40 known EIPs"
    state = product.brake.confirm()
    assert state is not None
    assert state.held == 30
    eventually(lambda: released(product) == EIPS[:30], "thirty releases")
    assert product.brake.state() is None
    assert product.finish(EIPS[29], 60) == ["reclaimed"]


def test_a_confirmation_is_about_what_was_held_back_then(product: Product, cluster: SandboxCluster) -> None:
    delete(cluster, EIPS[:20])
    stop = product.start_producer()
    engaged(product)
    stop()
    product.brake.confirm()
    delete(cluster, EIPS[20:])
    product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
    product.start_producer()
    eventually(lambda: released(product) == EIPS[:20], "what was confirmed")
    eventually(lambda: len(product.brake.held()) == 20, "the brake to hold back the others")
    assert engaged(product) == "one list would release 20 of 40 known EIPs"


def test_what_comes_and_goes_while_the_brake_is_engaged_is_released(product: Product, cluster: SandboxCluster) -> None:
    delete(cluster, EIPS[:30])
    stop = product.start_producer()
    engaged(product)
    # With addresses of their own: those of what is held back are not free yet.
    cluster.create_eip("late", GATEWAY, "10.1.69.101")
    delete(cluster, ["late", EIPS[30]])
    assert product.finish("late") == ["reclaimed"]
    assert product.finish(EIPS[30]) == ["reclaimed"]
    assert released(product, EIPS[:30]) == []
    # Nor is it lost to the next producer, who goes on from there and knows what is held back.
    stop()
    cluster.create_eip("later", GATEWAY, "10.1.69.102")
    delete(cluster, ["later"])
    product.start_producer()
    assert product.finish("later") == ["reclaimed"]
    before = listings(cluster)
    eventually(lambda: listings(cluster) > before + 2, "more lists")
    assert released(product, EIPS[:30]) == []
    assert len(product.brake.held()) == 30


def test_what_was_held_back_is_released_by_its_own_event(product: Product, cluster: SandboxCluster) -> None:
    cluster.server.faults.partial_lists(0.7, prefix=EIP_PATH)
    product.start_producer()
    engaged(product)
    delete(cluster, EIPS)
    eventually(lambda: released(product) == EIPS, "all releases")
    eventually(lambda: product.brake.state() is None, "the brake to disengage")


def test_single_deletions_never_engage_the_brake(product: Product, cluster: SandboxCluster) -> None:
    product.start_producer()
    delete(cluster, EIPS)
    eventually(lambda: released(product) == EIPS, "all releases")
    assert product.brake.state() is None


def test_a_second_producer_keeps_the_brake_too(product: Product, cluster: SandboxCluster) -> None:
    cluster.server.faults.partial_lists(0.0, prefix=EIP_PATH)
    product.start_producer()
    engaged(product)
    before = listings(cluster)
    product.start_producer()
    eventually(lambda: listings(cluster) > before + 3, "lists of both")
    assert released(product) == []


def test_an_api_whose_history_went_back_releases_nothing_until_confirmed(
    product: Product, cluster: SandboxCluster
) -> None:
    keys, redis = product.work_queue.keys, product.work_queue.redis
    redis.hset(keys.checkpoint, "resource_version", 1_000_000)
    product.start_producer()
    assert "but version 1000000 was seen before" in engaged(product)
    assert released(product) == []
    product.brake.confirm()
    eventually(lambda: product.brake.state() is None, "the brake to disengage")
    eventually(lambda: 0 < (product.inventory().checkpoint() or 0) < 1_000_000, "the position of the list")
    assert len(product.inventory().all()) == 40
    assert released(product) == []


def test_the_brake_of_a_dead_producer_is_seen_and_ended_by_the_next(product: Product, cluster: SandboxCluster) -> None:
    cluster.server.faults.partial_lists(0.0, prefix=EIP_PATH)
    stop = product.start_producer()
    engaged(product)
    stop()
    cluster.server.faults.clear()
    assert product.brake.state() is not None
    inventory = product.inventory()
    Lists(product.api, inventory, Memory(inventory), product.brake, product.settings).take()
    assert product.brake.state() is None
