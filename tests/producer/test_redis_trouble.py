"""Deletions are not lost with Redis either: while it is away, and when it comes back with older data or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.cluster import SandboxCluster
from shared.kube.api import EIPS
from tests.absence import AbsenceWatch
from tests.conftest import GATEWAY, Product
from tests.forwarder import Forwarder
from tests.redis_servers import IMPLEMENTATIONS, RedisServer, binary
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

KEPT, GONE = "10.1.69.206", "10.1.69.205"


class MovingRedis:
    """A Redis server behind one address, whose place another takes that has older data."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._server = RedisServer(program, directory / "0")
        self._copy: Path | None = None
        self._started = 1
        self.line = Forwarder(self._server.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.line.port}/0"

    def copy(self) -> None:
        """Copy the data; the next server starts from it, without a copy it is empty."""
        self._copy = self._server.copy()

    def end(self) -> None:
        self.line.cut()
        self._server.kill()

    def come_back(self) -> None:
        self._server = RedisServer(self._program, self._directory / str(self._started), self._copy)
        self._started += 1
        self.line.target = self._server.port
        self.line.mend()


@pytest.fixture(params=IMPLEMENTATIONS)
def moving_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MovingRedis]:
    redis = MovingRedis(binary(request.param), tmp_path)
    yield redis
    redis.end()


@pytest.fixture
def product(make_product: Callable[..., Product], moving_redis: MovingRedis, cluster: SandboxCluster) -> Product:
    cluster.add_gateway(GATEWAY)
    cluster.controller.switches.leaks.wrong_argument = True
    return make_product(redis_url=moving_redis.url)


def expect_reclaimed_once(product: Product, cluster: SandboxCluster) -> None:
    assert product.finish("gone") == ["reclaimed"]
    (work_id,) = product.records.find("gone")
    assert [event["event"] for event in product.records.events(work_id)].count("outcome") == 1
    assert GONE not in cluster.addresses(GATEWAY)
    assert product.records.find("kept") == []
    assert KEPT in cluster.addresses(GATEWAY)
    known = eventually(product.inventory().all, "the inventory")
    assert [eip.name for eip in known.values()] == ["kept"]


def create_both(product: Product, cluster: SandboxCluster) -> None:
    cluster.create_eip("kept", GATEWAY, KEPT)
    cluster.create_eip("gone", GATEWAY, GONE)
    eventually(lambda: len(product.inventory().all()) == 2, "the producer to know both")


def delete_gone(product: Product, cluster: SandboxCluster) -> None:
    cluster.delete_eip("gone")
    eventually(lambda: product.records.find("gone"), "the release")


def test_deleted_while_redis_is_away(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    product.start_producer()
    create_both(product, cluster)
    moving_redis.line.cut()
    cluster.delete_eip("gone")
    moving_redis.line.mend()
    expect_reclaimed_once(product, cluster)


def test_redis_forgets_the_release(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    product.start_producer()
    create_both(product, cluster)
    moving_redis.copy()
    delete_gone(product, cluster)
    moving_redis.end()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_forgets_that_the_eip_ever_was(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    product.start_producer()
    moving_redis.copy()
    create_both(product, cluster)
    delete_gone(product, cluster)
    moving_redis.end()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_forgets_everything(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    product.start_producer()
    create_both(product, cluster)
    delete_gone(product, cluster)
    moving_redis.end()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_forgets_everything_but_does_not_restart(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    product.start_producer()
    create_both(product, cluster)
    delete_gone(product, cluster)
    product.work_queue.redis.flushall()
    expect_reclaimed_once(product, cluster)


def test_deleted_while_redis_goes_back(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    product.start_producer()
    moving_redis.copy()
    create_both(product, cluster)
    moving_redis.end()
    cluster.delete_eip("gone")
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_goes_back_while_no_producer_runs(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    stop = product.start_producer()
    create_both(product, cluster)
    moving_redis.copy()
    delete_gone(product, cluster)
    stop()
    moving_redis.end()
    moving_redis.come_back()
    product.start_producer()
    expect_reclaimed_once(product, cluster)


def test_redis_goes_back_under_two_producers(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    product.start_producer()
    product.start_producer()
    moving_redis.copy()
    create_both(product, cluster)
    delete_gone(product, cluster)
    moving_redis.end()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


@pytest.mark.parametrize("stopped", [0, 1])
def test_redis_goes_back_once_the_publisher_and_the_events_are_gone(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis, stopped: int
) -> None:
    stops = [product.start_producer(), product.start_producer()]
    moving_redis.copy()
    create_both(product, cluster)
    delete_gone(product, cluster)
    eventually(lambda: [producer.known for producer in product.producers] == [1, 1], "both to have seen it")
    stops[stopped]()
    moving_redis.end()
    cluster.compact_history()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_never_heard_of_an_eip_whose_deletion_the_api_no_longer_tells(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    product.start_producer()
    moving_redis.copy()
    create_both(product, cluster)
    moving_redis.end()
    cluster.server.faults.answer(503, prefix=EIPS, verbs=("list", "watch"))
    cluster.background.call(cluster.server.cut_watches())
    cluster.delete_eip("gone")
    cluster.compact_history()
    cluster.server.faults.clear()
    moving_redis.come_back()
    expect_reclaimed_once(product, cluster)


def test_redis_forgets_what_was_reclaimed(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    product.start_producer()
    create_both(product, cluster)
    moving_redis.copy()
    delete_gone(product, cluster)
    assert product.finish("gone") == ["reclaimed"]
    moving_redis.end()
    moving_redis.come_back()
    assert product.finish("gone") == ["already_absent"]
    assert KEPT in cluster.addresses(GATEWAY)


def test_redis_forgets_that_the_eip_moved(product: Product, cluster: SandboxCluster, moving_redis: MovingRedis) -> None:
    cluster.add_gateway("gw-there")
    product.start_producer()
    create_both(product, cluster)
    moving_redis.copy()
    cluster.kill_controller()
    cluster.patch_eip("gone", {"spec": {"natGwDp": "gw-there"}})
    eventually(lambda: product.records.find("gone"), "the release of the former place")
    moving_redis.end()
    moving_redis.come_back()
    assert product.finish("gone") == ["reclaimed"]
    cluster.delete_eip("gone", wait_gone=False)
    cluster.remove_finalizer("gone")
    eventually(lambda: len(product.records.find("gone")) == 2, "the release of the place it moved to")
    assert product.finish("gone") == ["reclaimed", "already_absent"]
    assert GONE not in cluster.addresses(GATEWAY)


def test_redis_forgets_an_owner_while_the_api_lists_too_little(
    product: Product, cluster: SandboxCluster, moving_redis: MovingRedis
) -> None:
    product.start_producer()
    create_both(product, cluster)
    delete_gone(product, cluster)
    moving_redis.copy()
    cluster.create_eip("new", GATEWAY, GONE)
    eventually(lambda: len(product.inventory().all()) == 2, "the producer to know the new owner")
    moving_redis.end()
    # Now only producers know of it, and they have yet to find out that Redis does not.
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    with AbsenceWatch(cluster.pod(GATEWAY).namespace, f"{GONE}/24") as absences:
        moving_redis.come_back()
        assert product.finish("gone") == ["reassigned"]
        assert absences.stop() == []
    assert GONE in cluster.addresses(GATEWAY)
