"""The processes of a run: the product's, and everything they work with.

Everything is started by the thread that makes the parts: a process ends with the thread that started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.processes import ROOT, Process
from sandbox.redis_server import free_port
from tests.chaos.witness import ApiWitness, PodWitness
from tests.conftest import variables
from tests.redis_servers import RedisServer, binary

LOCK_LIFE = 10
SETTINGS = {
    "lock_lifetime": LOCK_LIFE,
    "job_timeout": 15,
    # Shorter than the longest hidden moment, so that waiting alone does not keep owners safe.
    "hold_limit": 0.5,
    "look_again_after": "3,12",
    "retry_ceiling": 15,
    # Faults follow each other more closely than anywhere else.
    "retry_attempts": 12,
    "brake_recheck": 2,
    # An address that no object ever named is found by looking only.
    "audit_interval": 20,
    "audit_apply": True,
    "log_format": "json",
}
"""The product's settings that are not its defaults: everything is a few times faster."""
AOF = {"appendonly": "yes", "auto_aof_rewrite_percentage": "0"}


@dataclass
class Sizes:
    """How large a run is."""

    eips: int
    gateways: int
    producers: int = 3
    workers: int = 6
    slots: int = 60
    slow: float = 0.2
    """How many acts of workers begin late, so that races are really run."""
    late: tuple[float, float] = (0.2, 0.8)
    """Seconds by which they do, at least and at most."""
    without: str = ""
    """A safeguard of the product that is switched off."""


@dataclass
class Gateway:
    name: str
    pods: list[str]
    no_default_eip: bool


class Parts:
    """Starts them; use it as a context manager."""

    def __init__(self, directory: Path, sizes: Sizes, seed: int) -> None:
        self.directory = directory
        self.producers: list[Process] = []
        self.workers: list[Process] = []
        self.numbers: dict[Process, int] = {}
        """Each producer or worker process that was ever started has a number of its own."""
        self.gateways: list[Gateway] = []
        self.pods: dict[str, PodWitness] = {}
        self._sizes = sizes
        self._seed = seed
        self._redis_number = 0
        self._controllers = 0

    def __enter__(self) -> Parts:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        everyone = [*self.producers, *self.workers, *([self.controller] if hasattr(self, "controller") else [])]
        for process in everyone:
            if process.running:
                process.kill()
        for witness in self.pods.values():
            witness.close()
        if hasattr(self, "_cluster"):
            assert self._cluster.stdin is not None
            self._cluster.stdin.close()
            self._cluster.wait(60)
        if hasattr(self, "redis"):
            self.redis.kill()

    def _start(self) -> None:
        self._program = binary("valkey")
        self._port = free_port()
        # A server that is stopped must not stop whoever is to wake it.
        self.client = Redis(
            port=self._port, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
        )
        self.start_redis(None)
        self._start_cluster()
        self._add_gateways()
        self.api = ApiWitness(self.entrance)
        self.api.start()
        self.start_controller()
        self.producers = [self.start_producer(number) for number in range(self._sizes.producers)]
        self.workers = [self.start_worker(number) for number in range(self._sizes.workers)]
        self._wait_until_they_follow()

    def _start_cluster(self) -> None:
        with (self.directory / "cluster.log").open("wb") as log:
            self._cluster = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    sys.executable,
                    "-m",
                    "tests.chaos.cluster",
                    self.directory / "kube",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
        places = self._answer()
        self._server, self.entrance = places["server"], places["entrance"]
        self._netns = self.directory / "kube" / "netns"
        self._environment = {
            **variables(
                redis_url=f"redis://127.0.0.1:{self._port}/0",
                kubeconfig=places["kubeconfig"],
                netns_dir=self._netns,
                **SETTINGS,
            ),
            "CHAOS_WITHOUT": self._sizes.without,
            "CHAOS_SLOW": str(self._sizes.slow),
            "CHAOS_LATE": "{}-{}".format(*self._sizes.late),
        }

    def _add_gateways(self) -> None:
        """Of every kind: with two pods, without base address, with `promote_secondaries`."""
        for number in range(self._sizes.gateways):
            name = f"gw-{number}"
            no_default_eip = number % 4 == 1
            pods = self.ask(
                "add_gateway",
                name,
                pods=2 if number % 5 == 2 else 1,
                no_default_eip=no_default_eip,
                promote_secondaries=number % 3 == 0,
            )
            self.gateways.append(Gateway(name, pods, no_default_eip))
            for uid in pods:
                self.listen(uid, name)

    def start_redis(self, aof: Path | None) -> None:
        """Start the server, from append-only files or empty."""
        directory = self.directory / f"redis-{self._redis_number}"
        self._redis_number += 1
        self.redis = RedisServer(self._program, directory, aof, port=self._port, **AOF)

    def start_controller(self) -> None:
        """Start Kube-OVN's controller, or the next one."""
        arguments = ["--server", self.entrance, "--netns-dir", self._netns, "--records", self.records]
        self._controllers += 1
        seed = str(self._seed + self._controllers)
        log = self.directory / "controller.log"
        self.controller = Process("controller", log, "tests.chaos.controller", *map(str, arguments), "--seed", seed)

    def start_producer(self, number: int) -> Process:
        """Start the producer of that number, or the next one in its place."""
        return self._start_part("producer", number)

    def start_worker(self, number: int) -> Process:
        """Start the worker of that number, or the next one in its place; every other one has the other driver."""
        settings = {"driver": "netlink", "node_name": "sandbox-node"} if number % 2 else {"driver": "exec"}
        return self._start_part("worker", number, **settings)

    def _start_part(self, part: str, number: int, **settings: str) -> Process:
        log = self.directory / f"{part}-{number}.log"
        mark = {"CHAOS_PROCESS": str(len(self.numbers))}
        environment = {**self._environment, **variables(**settings), **mark}
        process = Process(f"{part} {number}", log, "tests.chaos.product", part, str(self.directory), env=environment)
        self.numbers[process] = len(self.numbers)
        return process

    def _wait_until_they_follow(self) -> None:
        deadline = time.monotonic() + 60
        client = self.client
        while client.hlen("eip-reclaimer:producers") < len(self.producers) or client.scard("rq:workers") < len(
            self.workers
        ):
            for process in (*self.producers, *self.workers, self.controller):
                process.expect_running()
            if time.monotonic() > deadline:
                raise TimeoutError("producers and workers do not start")
            time.sleep(0.1)

    @property
    def records(self) -> Path:
        """What the controller did."""
        return self.directory / "controller.jsonl"

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Let the cluster do something (`tests.chaos.cluster.Commands`)."""
        assert self._cluster.stdin is not None
        self._cluster.stdin.write(json.dumps([name, args, kwargs]) + "\n")
        self._cluster.stdin.flush()
        return self._answer()["value"]

    def _answer(self) -> dict[str, Any]:
        assert self._cluster.stdout is not None
        line = self._cluster.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the cluster's process ended"}
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}\n{(self.directory / 'cluster.log').read_text()[-3000:]}")
        return answer

    def listen(self, uid: str, gateway: str) -> None:
        """Witness a pod from now on."""
        self.pods[uid] = PodWitness(uid, gateway, self._netns / uid, self.directory)

    def post(self, path: str, **body: Any) -> None:
        """Let the API do something wrong (`sandbox.api.admin`)."""
        request = urllib.request.Request(
            f"{self._server}/sandbox{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def by_hand(self, *command: str) -> Process:
        """A command that an operator runs."""
        where = {"RQ_REDIS_URL": self._environment["EIP_RECLAIMER_REDIS_URL"]}
        return Process("operator", self.directory / "operator.log", *command, env={**self._environment, **where})
