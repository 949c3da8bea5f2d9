"""Whether a producer and a worker say that they cannot work, soon after they cannot, and soon after they can again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.gauges import RedisGauges
from producer.health import ProducerHealth
from sandbox.cluster import SandboxCluster
from sandbox.redis_server import free_port
from shared.endpoint import Pulse
from shared.settings import load_settings
from tests.conftest import GATEWAY
from tests.forwarder import Forwarder
from tests.redis_servers import RedisServer, binary
from tests.served import Served, ask
from tests.waiting import eventually
from workers.health import WorkerHealth

pytestmark = [pytest.mark.kernel, pytest.mark.server]

WATCHED = "/apis/kubeovn.io/v1/iptables-eips"
StartServed = Callable[..., Served]


@pytest.fixture
def redis_port() -> int:
    return free_port()


@pytest.fixture
def redis_server(redis_port: int, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(binary("valkey"), tmp_path / "redis", port=redis_port) as server:
        yield server


@pytest.fixture
def between(cluster: SandboxCluster) -> Iterator[Forwarder]:
    """What leads to the API."""
    with Forwarder(cluster.server.port) as forwarder:
        yield forwarder


@pytest.fixture
def start(
    redis_server: RedisServer, redis_port: int, between: Forwarder, cluster: SandboxCluster, tmp_path: Path
) -> Iterator[StartServed]:
    """Starts a part, and waits until it is ready."""
    cluster.add_gateway(GATEWAY)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text().replace(f":{cluster.server.port}", f":{between.port}"))
    started: list[Served] = []

    def start_it(part: str, **settings: Any) -> Served:
        where = {"redis_url": f"redis://127.0.0.1:{redis_port}/0", "kubeconfig": kubeconfig}
        served = Served(part, tmp_path, **{**where, "netns_dir": cluster.netns_dir, **settings})
        started.append(served)
        served.becomes_ready()
        return served

    yield start_it
    for served in started:
        served.stop()


def test_redis_that_is_killed_is_told_and_so_is_its_return(
    start: StartServed, redis_server: RedisServer, redis_port: int, tmp_path: Path
) -> None:
    producer, worker = start("producer"), start("worker")
    assert producer.value("redis_up") == 1
    redis_server.kill()
    assert "Redis does not take commits" in producer.becomes_unready()
    assert "Redis has not answered for" in worker.becomes_unready()
    # A scrape still succeeds, and says so.
    assert producer.value("redis_up") == 0
    assert ("eip_reclaimer_queue_jobs", (("state", "queued"),)) not in producer.samples()
    assert producer.value("commit_failures_total") > 0
    assert producer.ask("/healthz").code == worker.ask("/healthz").code == 200
    with RedisServer(binary("valkey"), tmp_path / "again", port=redis_port):
        producer.becomes_ready()
        worker.becomes_ready()
        assert producer.value("redis_up") == 1


def test_an_api_that_refuses_is_told_although_the_watch_stays_open(start: StartServed, cluster: SandboxCluster) -> None:
    producer, worker = start("producer"), start("worker")
    cluster.server.faults.answer(403)
    assert "answered 403" in producer.becomes_unready()
    assert "answered 403" in worker.becomes_unready()
    assert producer.value("api_errors_total", code="403") > 0
    assert producer.value("watch_restarts_total", reason="api") == 0
    cluster.server.faults.clear()
    producer.becomes_ready()
    worker.becomes_ready()


@pytest.mark.parametrize("how", ["refused", "swallowed"])
def test_an_api_that_cannot_be_reached_is_told(start: StartServed, between: Forwarder, how: str) -> None:
    producer, worker = start("producer"), start("worker")
    between.cut() if how == "refused" else between.freeze(new=True)
    assert "cannot be reached" in producer.becomes_unready()
    assert "cannot be reached" in worker.becomes_unready()
    assert producer.ask("/healthz").code == worker.ask("/healthz").code == 200
    between.mend() if how == "refused" else between.thaw()
    producer.becomes_ready()
    worker.becomes_ready()


def test_a_watch_that_stalled_is_told_and_resumed_and_loses_nothing(
    start: StartServed, between: Forwarder, cluster: SandboxCluster
) -> None:
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    producer = start("producer")
    between.freeze(new=False)
    cluster.delete_eip("eip")
    assert "has not told an event yet that the API has" in producer.becomes_unready()
    assert producer.value("watch_behind_seconds") > 0
    eventually(lambda: producer.value("jobs_published_total", kind="release") == 1, "the release")
    producer.becomes_ready()
    assert producer.value("watch_restarts_total", reason="stalled") == 1
    assert producer.value("watch_behind_seconds") == 0


def test_a_quiet_cluster_is_no_stalled_watch_and_is_asked_little(start: StartServed, cluster: SandboxCluster) -> None:
    producer = start("producer")
    before = cluster.server.requests.count()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert producer.readiness.code == 200
        time.sleep(0.2)
    # Beside one second watch each six seconds there is nothing.
    assert cluster.server.requests.count(verb="watch") - 1 <= 5
    assert cluster.server.requests.count() - before <= 5
    assert producer.value("watch_restarts_total", reason="stalled") == 0


def test_the_brake_is_told_and_leaves_the_producer_ready(
    start: StartServed, redis_server: RedisServer, cluster: SandboxCluster
) -> None:
    for host in (202, 203, 205, 206):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")
    start("producer").stop()
    redis_server.client.delete("eip-reclaimer:checkpoint")
    cluster.server.faults.partial_lists(0.0, prefix=WATCHED)
    producer = start("producer", brake_minimum=2, brake_recheck=0.5)
    brake: Any = eventually(lambda: producer.readiness.details.get("brake"), "the brake")
    assert (brake["held"], brake["reason"]) == (4, "one list would release 4 of 4 known EIPs")
    assert producer.readiness.code == 200
    assert (producer.value("brake_engaged"), producer.value("brake_held_eips")) == (1, 4)
    cluster.server.faults.clear()
    eventually(lambda: producer.readiness.details["brake"] is None, "the brake to disengage")
    assert (producer.value("brake_engaged"), producer.value("brake_held_eips")) == (0, 0)


def test_a_worker_whose_api_is_another_clusters_by_now_ends(start: StartServed, cluster: SandboxCluster) -> None:
    worker = start("worker")
    cluster.background.call(cluster.server.set_cluster_uid())
    eventually(lambda: not worker.running, "the worker to end")
    assert worker.status == 2
    assert "that of another cluster by now" in worker.last_words(1)


def test_a_main_loop_that_stands_still_is_told() -> None:
    settings = load_settings(job_timeout=40)
    producer = ProducerHealth(settings, RedisGauges(settings))
    worker = WorkerHealth(settings, threading.Event())
    for health, seconds in ((producer, 1000), (worker, 200)):
        assert health.alive().problems == []
        health.pulse = standing_still(seconds - 120)
        assert health.alive().problems == []
        health.pulse = standing_still(seconds)
        (problem,) = health.alive().problems
        assert problem == f"the main loop has not moved for {seconds} s"


def standing_still(seconds: float) -> Pulse:
    pulse = Pulse()
    pulse._at -= seconds
    return pulse


@pytest.mark.parametrize("part", ["producer", "worker"])
def test_both_move_on_while_nothing_is_to_be_done(start: StartServed, part: str) -> None:
    served = start(part)
    time.sleep(4)
    assert served.ask("/healthz").details["moved_seconds_ago"] < 3


@pytest.mark.parametrize("part", ["producer", "worker"])
def test_a_port_that_is_taken_is_told_in_one_line(part: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = Served(part, tmp_path, http=f"127.0.0.1:{port}")
        eventually(lambda: not served.running, "it to end")
    assert served.status == 2
    (line,) = served.log.read_text().splitlines()
    assert f"cannot listen on 127.0.0.1 port {port} for EIP_RECLAIMER_HTTP: Address already in use" in line


def test_nothing_listens_where_no_address_is_set(
    start: StartServed, redis_port: int, cluster: SandboxCluster, tmp_path: Path
) -> None:
    producer = Served(
        "producer", tmp_path, http="", redis_url=f"redis://127.0.0.1:{redis_port}/0", kubeconfig=cluster.kubeconfig
    )
    try:
        eventually(lambda: "listed" in producer.log.read_text(), "the producer to follow")
        assert ask(producer.port, "/readyz").code == 0
    finally:
        producer.stop()


@pytest.mark.parametrize("part", ["producer", "worker"])
def test_what_is_missing_at_the_start_is_told(part: str, tmp_path: Path) -> None:
    port = free_port()
    with Served(part, tmp_path, redis_url=f"redis://127.0.0.1:{port}/0") as served:
        eventually(lambda: f"127.0.0.1:{port}" in served.readiness.problems, "it to say what it waits for")
        assert "it cannot start: no Redis server can be used" in served.readiness.problems
        assert served.ask("/healthz").code == 200
