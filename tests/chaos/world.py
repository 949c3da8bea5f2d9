"""The processes of a run, and the hand that strikes them.

Everything is started by the thread that makes the world: a process ends with the thread that started it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from sandbox.processes import ROOT, Process
from sandbox.redis_server import free_port
from tests.chaos.evidence import Evidence, Outage, Span
from tests.chaos.judge import QUIET_SECONDS
from tests.chaos.lives import Lives
from tests.chaos.script import Fault
from tests.chaos.witness import ApiWitness, PodWitness, acts, additions, depth, place, works
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
    "log_format": "json",
}
"""The product's settings that are not its defaults: everything is a few times faster."""
AOF = {"appendonly": "yes", "auto_aof_rewrite_percentage": "0"}
RECOVERY_SECONDS = 12.0
"""How long an outage is felt by those who try again with growing pauses of at most ten seconds."""
OPERATOR_SECONDS = 6.0
"""How long an operator looks on before saying that what the brake holds back is truly gone."""
TICK = 0.05
SAMPLE_SECONDS = 1.0


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
    without: str = ""
    """A safeguard of the product that is switched off."""


@dataclass
class _Gateway:
    name: str
    pods: list[str]
    no_default_eip: bool


@dataclass
class Told:
    """What the run tells the report besides the evidence."""

    struck: Counter[str] = field(default_factory=Counter)
    queue: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    began: float = 0.0
    created: int = 0
    events: int = 0


class World:
    """One run's processes. Use it as a context manager."""

    def __init__(self, directory: Path, sizes: Sizes, seed: int) -> None:
        self.directory = directory
        self.told = Told()
        self._sizes = sizes
        self._seed = seed
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._producers: list[Process] = []
        self._workers: list[Process] = []
        self._numbers: dict[Process, int] = {}
        self._stopped: dict[int, float] = {}
        self._stops: dict[int, list[Span]] = defaultdict(list)
        self._killed: dict[int, float] = {}
        self._outages: list[Outage] = []
        self._rolled_back = 0.0
        self._copies: dict[Fault, Path] = {}
        self._redis_number = 0
        self._controllers = 0
        self._pods: dict[str, PodWitness] = {}
        self._gateways: list[_Gateway] = []
        self._truthful_at = 0.0
        self._replayed_at = 0.0
        self._operator: Process | None = None

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        everyone = [*self._producers, *self._workers, *([self._controller] if hasattr(self, "_controller") else [])]
        for process in everyone:
            if process.running:
                process.kill()
        for witness in self._pods.values():
            witness.close()
        if hasattr(self, "_cluster"):
            assert self._cluster.stdin is not None
            self._cluster.stdin.close()
            self._cluster.wait(60)
        if hasattr(self, "_redis"):
            self._redis.kill()

    def run(self, faults: list[Fault]) -> Evidence:
        """Let EIPs live while everything goes wrong, wait until it is quiet, and take the evidence."""
        lives = Lives(
            self._entrance,
            self._api,
            [gateway.name for gateway in self._gateways],
            eips=self._sizes.eips,
            slots=self._sizes.slots,
            seed=self._seed,
        )
        began = self.told.began = time.time()
        for fault in faults:
            self._at(began + fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
            if fault.kind == "redis rolled back":
                self._at(began + max(0.0, fault.at - fault.detail), lambda fault=fault: self._copy(fault))  # type: ignore[misc]
        lives.start()
        while not lives.over or self._agenda:
            self._tick()
        quiet = time.time()
        while time.time() < quiet + QUIET_SECONDS and not self._calm():
            self._tick()
        lives.stop()
        self.told.created, self.told.events = lives.created, self._api.events
        return self._evidence(quiet)

    # Starting things.

    def _start(self) -> None:
        self._program = binary("valkey")
        self._port = free_port()
        # A server that is stopped must not stop whoever is to wake it.
        self._client = Redis(
            port=self._port, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
        )
        self._start_redis(None)
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
        self._server, self._entrance = places["server"], places["entrance"]
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
        }
        for number in range(self._sizes.gateways):
            name = f"gw-{number}"
            no_default_eip = number % 4 == 1
            pods = self._ask(
                "add_gateway",
                name,
                pods=2 if number % 5 == 2 else 1,
                no_default_eip=no_default_eip,
                promote_secondaries=number % 3 == 0,
            )
            self._gateways.append(_Gateway(name, pods, no_default_eip))
            for uid in pods:
                self._listen(uid, name)
        self._api = ApiWitness(self._entrance)
        self._api.start()
        self._start_controller()
        self._producers = [self._start_producer(number) for number in range(self._sizes.producers)]
        self._workers = [self._start_worker(number) for number in range(self._sizes.workers)]
        self._wait_until_they_follow()

    def _start_redis(self, aof: Path | None) -> None:
        directory = self.directory / f"redis-{self._redis_number}"
        self._redis_number += 1
        self._redis = RedisServer(self._program, directory, aof, port=self._port, **AOF)

    def _start_controller(self) -> None:
        arguments = ["--server", self._entrance, "--netns-dir", self._netns, "--records", self._records]
        self._controllers += 1
        seed = str(self._seed + self._controllers)
        log = self.directory / "controller.log"
        self._controller = Process("controller", log, "tests.chaos.controller", *map(str, arguments), "--seed", seed)

    def _start_producer(self, number: int) -> Process:
        return self._start_part("producer", number)

    def _start_worker(self, number: int) -> Process:
        return self._start_part("worker", number, driver=("exec", "netlink")[number % 2])

    def _start_part(self, part: str, number: int, **settings: str) -> Process:
        log = self.directory / f"{part}-{number}.log"
        mark = {"CHAOS_PROCESS": str(len(self._numbers))}
        environment = {**self._environment, **variables(**settings), **mark}
        process = Process(f"{part} {number}", log, "tests.chaos.product", part, str(self.directory), env=environment)
        self._numbers[process] = len(self._numbers)
        return process

    def _wait_until_they_follow(self) -> None:
        deadline = time.monotonic() + 60
        client = self._client
        while client.hlen("eip-reclaimer:producers") < len(self._producers) or client.scard("rq:workers") < len(
            self._workers
        ):
            for process in (*self._producers, *self._workers, self._controller):
                process.expect_running()
            if time.monotonic() > deadline:
                raise TimeoutError("producers and workers do not start")
            time.sleep(0.1)

    @property
    def _records(self) -> Path:
        return self.directory / "controller.jsonl"

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
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

    def _listen(self, uid: str, gateway: str) -> None:
        self._pods[uid] = PodWitness(uid, gateway, self._netns / uid, self.directory)

    # Time.

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), what))

    def _tick(self) -> None:
        while self._agenda and self._agenda[0][0] <= time.time():
            heapq.heappop(self._agenda)[2]()
        self._operate()
        if not self.told.queue or time.time() - self.told.queue[-1][0] >= SAMPLE_SECONDS:
            try:
                self.told.queue.append((time.time(), depth(self._client)))
            except RedisError:
                self.told.queue.append((time.time(), {}))
        time.sleep(TICK)

    def _operate(self) -> None:
        """Do an operator's part: once the API has recovered, say what is truly gone; replay what failed."""
        if self._operator is not None and self._operator.running:
            return
        self._operator = None
        try:
            state: bytes | None = self._client.get("eip-reclaimer:brake")  # type: ignore[assignment]
            failed = self._client.zcard("rq:failed:eip-reclaimer")
        except RedisError:
            return
        now = time.time()
        if state and now >= self._truthful_at and now - json.loads(state)["since"] >= OPERATOR_SECONDS:
            self.told.struck["operator released the brake"] += 1
            self._operator = self._by_hand("cli", "brake", "release")
        elif failed and now - self._replayed_at >= OPERATOR_SECONDS:
            self._replayed_at = now
            self.told.struck["operator replayed failed jobs"] += 1
            self._operator = self._by_hand("rq.cli", "requeue", "--queue", "eip-reclaimer", "--all")

    def _by_hand(self, *command: str) -> Process:
        where = {"RQ_REDIS_URL": self._environment["EIP_RECLAIMER_REDIS_URL"]}
        return Process("operator", self.directory / "operator.log", *command, env={**self._environment, **where})

    def _calm(self) -> bool:
        """Whether nothing is left to be done."""
        client = self._client
        followed = int(client.hget("eip-reclaimer:checkpoint", "resource_version") or 0)
        if followed < self._api.version or client.exists("eip-reclaimer:brake"):
            return False
        if any(client.hlen(key) for key in client.scan_iter("eip-reclaimer:pending:*")):
            return False
        waiting = depth(client)
        return not (waiting["queued"] or waiting["started"] or waiting["scheduled"])

    # Striking.

    def _strike(self, fault: Fault) -> None:
        self.told.struck[fault.kind] += 1
        kind, over = fault.kind, time.time() + fault.seconds
        match kind:
            case "worker killed":
                self._kill(self._workers, fault.target, self._start_worker, over)
            case "producer killed":
                self._kill(self._producers, fault.target, self._start_producer, over)
            case "worker stopped":
                self._stop(self._workers[fault.target], over)
            case "producer stopped":
                self._stop(self._producers[fault.target], over)
            case "all producers stopped":
                for producer in self._producers:
                    self._stop(producer, over)
                self._outage("producers", over)
            case "redis killed":
                self._redis.kill()
                self._outage("redis", over)
                self._at(over, self._restart_redis)
            case "redis rolled back":
                self._redis.kill()
                self._outage("redis", over)
                self._at(over, lambda: self._restart_redis(self._copies[fault]))
            case "redis stopped":
                os.kill(self._redis.pid, signal.SIGSTOP)
                self._outage("redis", over)
                pid = self._redis.pid
                self._at(over, lambda: os.kill(pid, signal.SIGCONT))
            case "api down" | "api refuses":
                self._post("/faults/answer", code=fault.detail or 0, seconds=fault.seconds)
                self._outage("api", over)
            case "api slow":
                self._post("/faults/slow", delay=fault.detail, seconds=fault.seconds)
                self._outage("api", over)
            case "api lists too little":
                self._post("/faults/partial-lists", fraction=fault.detail, seconds=fault.seconds)
                self._truthful_at = over + OPERATOR_SECONDS
                self._outage("api", over)
            case "watches cut":
                self._post("/watches/cut", how=fault.detail)
            case "history compacted":
                self._post("/compact")
                self._post("/watches/cut", how="end")
            case "pod replaced" | "gateway without pods":
                self._end_pod(self._gateways[fault.target], over)
            case "commands go wrong":
                gateway = self._gateways[fault.target]
                for pod in gateway.pods:
                    self._ask("set_fault", gateway.name, pod, *fault.detail)
            case "controller killed":
                self._controller.kill()
                self._at(over, self._start_controller)

    def _kill(self, group: list[Process], number: int, start: Callable[[int], Process], over: float) -> None:
        process = group[number]
        process.expect_running()
        self._killed[self._numbers[process]] = time.time()
        self._stopped.pop(self._numbers[process], None)
        process.kill()

        def again() -> None:
            group[number] = start(number)

        self._at(over, again)

    def _stop(self, process: Process, over: float) -> None:
        number = self._numbers[process]
        if not process.running or number in self._stopped:
            return
        os.kill(process.pid, signal.SIGSTOP)
        self._stopped[number] = time.time()

        def wake() -> None:
            since = self._stopped.pop(number, None)
            if since is not None and process.running:
                os.kill(process.pid, signal.SIGCONT)
                self._stops[number].append((since, time.time()))

        self._at(over, wake)

    def _outage(self, what: Any, over: float) -> None:
        self._outages.append(Outage(what, time.time(), over + RECOVERY_SECONDS))

    def _copy(self, fault: Fault) -> None:
        copy = self.directory / f"copy-{fault.at}"
        shutil.copytree(self._redis.directory / "appendonlydir", copy)
        self._copies[fault] = copy

    def _restart_redis(self, aof: Path | None = None) -> None:
        if aof is not None:
            self._rolled_back = time.time()
        self._start_redis(aof or self._redis.directory / "appendonlydir")

    def _end_pod(self, gateway: _Gateway, over: float) -> None:
        uid = gateway.pods.pop(0)
        self._pods[uid].end()
        self._ask("remove_pod", gateway.name, uid)

        def again() -> None:
            new = self._ask("add_pod", gateway.name, no_default_eip=gateway.no_default_eip)
            gateway.pods.append(new)
            self._listen(new, gateway.name)

        self._at(over, again)

    def _post(self, path: str, **body: Any) -> None:
        request = urllib.request.Request(
            f"{self._server}/sandbox{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    # The end.

    def _evidence(self, quiet: float) -> Evidence:
        for gateway in self._gateways:
            for uid in gateway.pods:
                self._pods[uid].look()
        end = time.time()
        found = works(self._client)
        for process in (*self._producers, *self._workers):
            process.expect_running()
        self._api.stop()
        self._controller.stop()
        put_on = list(additions(self._records))
        place(self._api.lives, put_on)
        return Evidence(
            lives=list(self._api.lives.values()),
            pods={uid: witness.pod for uid, witness in self._pods.items()},
            changes=[change for witness in self._pods.values() for change in witness.changes()],
            additions=put_on,
            acts=acts(self.directory),
            foreign=[foreign for witness in self._pods.values() for foreign in witness.foreign()],
            works=found,
            killed=self._killed,
            stopped=dict(self._stops),
            outages=self._outages,
            rolled_back=self._rolled_back,
            lock_life=LOCK_LIFE,
            quiet=quiet,
            end=end,
        )
