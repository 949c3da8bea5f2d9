"""A run: EIPs live, faults strike, an operator does its part, and in the end the evidence is taken."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from sandbox.processes import Process
from tests.chaos.evidence import Evidence, Outage, Span
from tests.chaos.judge import QUIET_SECONDS
from tests.chaos.lives import Lives
from tests.chaos.parts import LOCK_LIFE, Gateway, Parts, Sizes
from tests.chaos.script import Fault
from tests.chaos.witness import acts, additions, depth, place, works

RECOVERY_SECONDS = 12.0
"""How long an outage is felt by those who try again with growing pauses of at most ten seconds."""
OPERATOR_SECONDS = 6.0
"""How long an operator looks on before saying that what the brake holds back is truly gone."""
TICK = 0.05
SAMPLE_SECONDS = 1.0


@dataclass
class Told:
    """What the run tells the report besides the evidence."""

    struck: Counter[str] = field(default_factory=Counter)
    queue: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    began: float = 0.0
    created: int = 0
    events: int = 0


class World:
    """One run on some parts."""

    def __init__(self, parts: Parts, sizes: Sizes, seed: int) -> None:
        self.told = Told()
        self._parts = parts
        self._sizes = sizes
        self._seed = seed
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopped: dict[int, float] = {}
        self._stops: dict[int, list[Span]] = defaultdict(list)
        self._killed: dict[int, float] = {}
        self._outages: list[Outage] = []
        self._rolled_back = 0.0
        self._copies: dict[Fault, Path] = {}
        self._truthful_at = 0.0
        self._replayed_at = 0.0
        self._operator: Process | None = None

    def run(self, faults: list[Fault]) -> Evidence:
        """Let EIPs live while everything goes wrong, wait until it is quiet, and take the evidence."""
        lives = Lives(
            self._parts.entrance,
            self._parts.api,
            [gateway.name for gateway in self._parts.gateways],
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
        self.told.created, self.told.events = lives.created, self._parts.api.events
        return self._evidence(quiet)

    # Time.

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), what))

    def _tick(self) -> None:
        self._parts.api.check()
        while self._agenda and self._agenda[0][0] <= time.time():
            heapq.heappop(self._agenda)[2]()
        self._operate()
        if not self.told.queue or time.time() - self.told.queue[-1][0] >= SAMPLE_SECONDS:
            try:
                self.told.queue.append((time.time(), depth(self._parts.client)))
            except RedisError:
                self.told.queue.append((time.time(), {}))
        time.sleep(TICK)

    def _operate(self) -> None:
        """Do an operator's part: once the API has recovered, say what is truly gone; replay what failed."""
        if self._operator is not None and self._operator.running:
            return
        self._operator = None
        try:
            state: bytes | None = self._parts.client.get("eip-reclaimer:brake")  # type: ignore[assignment]
            failed = self._parts.client.zcard("rq:failed:eip-reclaimer")
        except RedisError:
            return
        now = time.time()
        if state and now >= self._truthful_at and now - json.loads(state)["since"] >= OPERATOR_SECONDS:
            self.told.struck["operator released the brake"] += 1
            self._operator = self._parts.by_hand("cli", "brake", "release")
        elif failed and now - self._replayed_at >= OPERATOR_SECONDS:
            self._replayed_at = now
            self.told.struck["operator replayed failed jobs"] += 1
            self._operator = self._parts.by_hand("rq.cli", "requeue", "--queue", "eip-reclaimer", "--all")

    def _calm(self) -> bool:
        """Whether nothing is left to be done."""
        client = self._parts.client
        followed = int(client.hget("eip-reclaimer:checkpoint", "resource_version") or 0)
        if followed < self._parts.api.version or client.exists("eip-reclaimer:brake"):
            return False
        if any(client.hlen(key) for key in client.scan_iter("eip-reclaimer:pending:*")):
            return False
        waiting = depth(client)
        return not (waiting["queued"] or waiting["started"] or waiting["scheduled"])

    # Striking.

    def _strike(self, fault: Fault) -> None:
        self.told.struck[fault.kind] += 1
        # By the script's clock: where we are late, what ends first still ends before the next one begins.
        kind, over = fault.kind, self.told.began + fault.over
        match kind:
            case "worker killed":
                self._kill(self._parts.workers, fault.target, self._parts.start_worker, over)
            case "producer killed":
                self._kill(self._parts.producers, fault.target, self._parts.start_producer, over)
            case "worker stopped":
                self._stop(self._parts.workers[fault.target], over)
            case "producer stopped":
                self._stop(self._parts.producers[fault.target], over)
            case "all producers stopped":
                for producer in self._parts.producers:
                    self._stop(producer, over)
                self._outage("producers", over)
            case "redis killed":
                self._parts.redis.kill()
                self._outage("redis", over)
                self._at(over, self._restart_redis)
            case "redis rolled back":
                self._parts.redis.kill()
                self._outage("redis", over)
                self._at(over, lambda: self._restart_redis(self._copies[fault]))
            case "redis stopped":
                os.kill(self._parts.redis.pid, signal.SIGSTOP)
                self._outage("redis", over)
                pid = self._parts.redis.pid
                self._at(over, lambda: os.kill(pid, signal.SIGCONT))
            case "api down" | "api refuses":
                self._parts.post("/faults/answer", code=fault.detail or 0, seconds=fault.seconds)
                self._outage("api", over)
            case "api slow":
                self._parts.post("/faults/slow", delay=fault.detail, seconds=fault.seconds)
                self._outage("api", over)
            case "api lists too little":
                self._parts.post("/faults/partial-lists", fraction=fault.detail, seconds=fault.seconds)
                self._truthful_at = over + OPERATOR_SECONDS
                self._outage("api", over)
            case "watches cut":
                self._parts.post("/watches/cut", how=fault.detail)
            case "history compacted":
                self._parts.post("/compact")
                self._parts.post("/watches/cut", how="end")
            case "pod replaced" | "gateway without pods":
                self._end_pod(self._parts.gateways[fault.target], over)
            case "commands go wrong":
                gateway = self._parts.gateways[fault.target]
                for pod in gateway.pods:
                    self._parts.ask("set_fault", gateway.name, pod, *fault.detail)
            case "controller killed":
                self._parts.controller.kill()
                self._at(over, self._parts.start_controller)

    def _kill(self, group: list[Process], number: int, start: Callable[[int], Process], over: float) -> None:
        process = group[number]
        process.expect_running()
        self._killed[self._parts.numbers[process]] = time.time()
        self._stopped.pop(self._parts.numbers[process], None)
        process.kill()

        def again() -> None:
            group[number] = start(number)

        self._at(over, again)

    def _stop(self, process: Process, over: float) -> None:
        number = self._parts.numbers[process]
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
        copy = self._parts.directory / f"copy-{fault.at}"
        shutil.copytree(self._parts.redis.directory / "appendonlydir", copy)
        self._copies[fault] = copy

    def _restart_redis(self, aof: Path | None = None) -> None:
        if aof is not None:
            self._rolled_back = time.time()
        self._parts.start_redis(aof or self._parts.redis.directory / "appendonlydir")

    def _end_pod(self, gateway: Gateway, over: float) -> None:
        uid = gateway.pods.pop(0)
        self._parts.pods[uid].end()
        self._parts.ask("remove_pod", gateway.name, uid)

        def again() -> None:
            new = self._parts.ask("add_pod", gateway.name, no_default_eip=gateway.no_default_eip)
            gateway.pods.append(new)
            self._parts.listen(new, gateway.name)

        self._at(over, again)

    # The end.

    def _evidence(self, quiet: float) -> Evidence:
        for gateway in self._parts.gateways:
            for uid in gateway.pods:
                self._parts.pods[uid].look()
        end = time.time()
        found = works(self._parts.client)
        for process in (*self._parts.producers, *self._parts.workers):
            process.expect_running()
        self._parts.api.stop()
        self._parts.controller.stop()
        put_on = list(additions(self._parts.records))
        place(self._parts.api.lives, put_on)
        return Evidence(
            lives=list(self._parts.api.lives.values()),
            pods={uid: witness.pod for uid, witness in self._parts.pods.items()},
            changes=[change for witness in self._parts.pods.values() for change in witness.changes()],
            additions=put_on,
            acts=acts(self._parts.directory),
            foreign=[foreign for witness in self._parts.pods.values() for foreign in witness.foreign()],
            works=found,
            killed=self._killed,
            stopped=dict(self._stops),
            outages=self._outages,
            rolled_back=self._rolled_back,
            lock_life=LOCK_LIFE,
            quiet=quiet,
            end=end,
        )
