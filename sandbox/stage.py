"""The whole product on a sandbox cluster, each part a process of its own, for the demo and for tests of processes.

API and gateways live in this process; the Redis protocol server, Kube-OVN's controller, producers and workers are
others, and end with this one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rq import Worker

from sandbox.cluster import SandboxCluster
from sandbox.processes import ROOT, Process
from sandbox.record import Record, Records
from sandbox.redis_server import free_port
from shared.connection import connect
from shared.errors import TransientError
from shared.queue import WorkQueue
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Stage:
    """Everything that is needed to see a release happen. Use it as a context manager."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="eip-reclaimer-"))
        self.cluster = SandboxCluster(self.directory / "cluster", run_controller=False)
        self.processes: list[Process] = []
        self._records = self.directory / "controller.jsonl"
        self._environment: dict[str, str] = {}
        self.work_queue: WorkQueue

    def __enter__(self) -> Stage:
        try:
            self._start_server()
            self.cluster.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for process in reversed(self.processes):
            process.stop()
        self.cluster.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name: str, *module: str) -> Process:
        """Start one more process: `start("producer", "cli", "producer")`."""
        log = self.directory / f"{name}.log"
        self.processes.append(Process(name, log, *module, env=self._environment))
        return self.processes[-1]

    def start_controller(self, *options: str) -> Process:
        """Start Kube-OVN's controller (`sandbox.controller`), and wait until it is up."""
        arguments = ("--kubeconfig", str(self.cluster.kubeconfig), "--records", str(self._records), *options)
        controller = self.start("controller", "sandbox.controller", *arguments)
        self.wait_for(lambda: self.did("started"), "the controller")
        return controller

    def start_producer(self) -> Process:
        """Start a producer, and wait until it follows."""
        log = self.directory / "producer.log"
        started = log.read_text().count('"producer started"') if log.exists() else 0
        producer = self.start("producer", "cli", "producer")
        self.wait_for(lambda: log.read_text().count('"producer started"') > started, "the producer")
        self.wait_for(lambda: self.work_queue.redis.exists(self.work_queue.keys.checkpoint), "the producer's list")
        return producer

    def start_workers(self, *drivers: str) -> list[Process]:
        """Start a worker with each of these drivers, and wait until they take jobs."""
        redis = self.work_queue.redis
        expected = Worker.count(connection=redis) + len(drivers)
        workers = [self.start(f"worker-{driver}", "cli", "worker", "--driver", driver) for driver in drivers]
        self.wait_for(lambda: Worker.count(connection=redis) >= expected, f"the workers ({', '.join(drivers)})")
        return workers

    def run(self, *module: str) -> str:
        """Run `python -m MODULE …` to its end; its output.

        Raises:
            ProcessDiedError: it failed.
        """
        log = self.directory / "command.log"
        log.unlink(missing_ok=True)
        command = Process(module[0], log, *module, env=self._environment)
        command.expect_success()
        return log.read_text()

    def did(self, *steps: str, **fields: Any) -> list[Record]:
        """What the controller did: its records of these steps."""
        return Records.read(self._records).find(*steps, **fields)

    def outcome(self, eip: str) -> str | None:
        """How the release of an EIP ended; None while it has not."""
        outcomes = [self.work_queue.records.outcome(work) for work in self.work_queue.records.find(eip)]
        return outcomes[-1].value if outcomes and outcomes[-1] else None

    def wait_for(self, condition: Callable[[], T | None], what: str, timeout: float = 60) -> T:
        """Wait until a condition gives something true; what that is.

        Raises:
            TimeoutError: it does not within `timeout` seconds.
            ProcessDiedError: a process ended that should have run on.
        """
        deadline = time.monotonic() + timeout
        while not (result := condition()):
            for process in self.processes:
                process.expect_running()
            if time.monotonic() > deadline:
                words = "\n".join(f"--- {process.name}\n{process.last_words()}" for process in self.processes)
                raise TimeoutError(f"waited {timeout} s for {what}\n{words}")
            time.sleep(0.02)
        return result

    def end(self, process: Process) -> None:
        """Kill a process that is not needed any more, in the middle of whatever it does."""
        self.processes.remove(process)
        process.kill()

    def _start_server(self) -> None:
        port = free_port()
        self._environment = {
            "EIP_RECLAIMER_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "EIP_RECLAIMER_KUBECONFIG": str(self.cluster.kubeconfig),
            "EIP_RECLAIMER_NETNS_DIR": str(self.cluster.netns_dir),
            "EIP_RECLAIMER_LOG_FORMAT": "json",
            "PYTHONPATH": str(ROOT),
        }
        self.start("server", "sandbox.redis_server", str(port), str(self.directory / "server"))
        self.work_queue = self.wait_for(self._connected, "the server")

    def _connected(self) -> WorkQueue | None:
        settings = load_settings(redis_url=self._environment["EIP_RECLAIMER_REDIS_URL"])
        try:
            return WorkQueue(connect(settings), settings)
        except TransientError:
            return None
