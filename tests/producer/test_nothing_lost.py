"""Every deletion ends `reclaimed`, once, whatever happens to producers, the API and Redis meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.api.watching import Cut
from sandbox.cluster import SandboxCluster
from sandbox.processes import Process
from tests.conftest import GATEWAY, Product, variables
from tests.forwarder import Forwarder
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

MakeProduct = Callable[..., Product]
KEPT, GONE = "10.1.69.206", "10.1.69.205"


@pytest.fixture
def gateway(cluster: SandboxCluster) -> SandboxCluster:
    """A gateway with an EIP that stays and one whose address will leak."""
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, KEPT)
    cluster.create_eip("gone", GATEWAY, GONE)
    cluster.controller.switches.leaks.wrong_argument = True
    return cluster


@pytest.fixture
def api_line(cluster: SandboxCluster) -> Iterator[Forwarder]:
    """The way to the API, for producers and workers alone: the cluster itself is not cut off."""
    port = int(cluster.server.url.rsplit(":", 1)[1])
    with Forwarder(port) as line:
        yield line


@pytest.fixture
def remote_product(
    make_product: MakeProduct, cluster: SandboxCluster, api_line: Forwarder, tmp_path: Path
) -> MakeProduct:
    """A product that reaches the API over `api_line`."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text().replace(f":{api_line.target}", f":{api_line.port}"))
    return lambda **settings: make_product(kubeconfig=kubeconfig, **settings)


def expect_reclaimed_once(product: Product, cluster: SandboxCluster) -> None:
    assert product.finish("gone") == ["reclaimed"]
    (work_id,) = product.records.find("gone")
    told = [event["event"] for event in product.records.events(work_id)]
    assert told.count("published") + told.count("published again") == 1
    assert told.count("outcome") == 1
    assert product.records.find("kept") == []
    assert GONE not in cluster.addresses(GATEWAY)
    assert KEPT in cluster.addresses(GATEWAY)


def test_deleted_while_no_producer_runs(make_product: MakeProduct, gateway: SandboxCluster) -> None:
    product = make_product()
    product.start_producer()()
    gateway.delete_eip("gone")
    product.start_producer()
    expect_reclaimed_once(product, gateway)


def test_deleted_while_no_producer_runs_and_forgotten_by_the_api(
    make_product: MakeProduct, gateway: SandboxCluster
) -> None:
    product = make_product()
    product.start_producer()()
    gateway.delete_eip("gone")
    gateway.compact_history()
    product.start_producer()
    expect_reclaimed_once(product, gateway)


def test_deleted_during_a_410(remote_product: MakeProduct, gateway: SandboxCluster, api_line: Forwarder) -> None:
    product = remote_product()
    product.start_producer()
    api_line.cut()
    gateway.delete_eip("gone")
    gateway.compact_history()
    api_line.mend()
    expect_reclaimed_once(product, gateway)


def test_deleted_during_an_outage_of_the_api(
    remote_product: MakeProduct, gateway: SandboxCluster, api_line: Forwarder
) -> None:
    product = remote_product()
    product.start_producer()
    api_line.cut()
    gateway.delete_eip("gone")
    time.sleep(30)
    api_line.mend()
    expect_reclaimed_once(product, gateway)


@pytest.mark.parametrize("code", [0, 401, 403, 404, 429, 500, 503])
def test_deleted_while_the_api_refuses(make_product: MakeProduct, gateway: SandboxCluster, code: int) -> None:
    product = make_product()
    product.start_producer()()
    gateway.delete_eip("gone")
    gateway.server.faults.answer(code, count=3, verbs=("list", "watch"), prefix="/apis/kubeovn.io/v1/iptables-eips")
    product.start_producer()
    expect_reclaimed_once(product, gateway)


@pytest.mark.parametrize("how", list(Cut))
def test_deleted_while_the_watch_is_cut(make_product: MakeProduct, gateway: SandboxCluster, how: Cut) -> None:
    product = make_product()
    product.start_producer()
    for _ in range(3):
        gateway.background.call(gateway.server.cut_watches(how))
    gateway.delete_eip("gone", wait_gone=False)
    gateway.background.call(gateway.server.cut_watches(how))
    expect_reclaimed_once(product, gateway)


STEPS = ["watch", "execute", "committed"]


@pytest.mark.parametrize("step", STEPS)
def test_the_producer_is_killed_while_it_publishes_what_it_watched(
    make_product: MakeProduct, gateway: SandboxCluster, tmp_path: Path, step: str
) -> None:
    product = make_product()
    with dying_producer(product, tmp_path, step, "gone") as dying:
        eventually(lambda: len(product.inventory().all()) == 2, "the producer to know both")
        gateway.delete_eip("gone")
        expect_killed(dying)
    product.start_producer()
    expect_reclaimed_once(product, gateway)


@pytest.mark.parametrize("moment", ["gone", "position"])
@pytest.mark.parametrize("step", STEPS)
def test_the_producer_is_killed_while_it_publishes_what_a_list_lacked(
    make_product: MakeProduct, gateway: SandboxCluster, tmp_path: Path, step: str, moment: str
) -> None:
    product = make_product()
    product.start_producer()()
    gateway.delete_eip("gone")
    gateway.compact_history()
    with dying_producer(product, tmp_path, step, moment) as dying:
        expect_killed(dying)
    product.start_producer()
    expect_reclaimed_once(product, gateway)


def test_the_producer_is_killed_while_another_runs(
    make_product: MakeProduct, gateway: SandboxCluster, tmp_path: Path
) -> None:
    product = make_product()
    product.start_producer()
    with dying_producer(product, tmp_path, "execute", "gone") as dying:
        eventually(lambda: len(product.work_queue.redis.hgetall(product.work_queue.keys.producers)) == 2, "both")
        gateway.delete_eip("gone")
        expect_reclaimed_once(product, gateway)
        dying.kill()


def dying_producer(product: Product, tmp_path: Path, step: str, moment: str) -> Process:
    url, kubeconfig = product.settings.redis_url.get_secret_value(), product.settings.kubeconfig
    environment = variables(redis_url=url, kubeconfig=kubeconfig)
    log = tmp_path / "producer.log"
    return Process("producer", log, "tests.producer.dying_producer", step, moment, env=environment)


def expect_killed(process: Process) -> None:
    eventually(lambda: not process.running, f"the producer to die; {process.last_words()}")
    assert process.status == -signal.SIGKILL
