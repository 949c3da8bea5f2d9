"""Workers that die at an exact place, and how long what they had in hand waits for another.

Each kill is about one leaked address on a gateway of its own, so that many jobs wait side by side, as they do when
workers die; kills come at random moments, because those who recover a job look for it every few seconds only.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from redis import Redis

from sandbox.processes import Process
from shared.kube.api import KubeApi
from shared.models import Release
from shared.settings import load_settings
from tests.measuring import MeasuredStage
from tests.recovery.waits import Waits
from tests.vouched import vouch

ADDRESS = "10.1.69.205"
SURVIVORS = 3
"""How many workers run on."""
BATCH = 10
"""How many workers die one after another, before what they left is waited for."""
BETWEEN_KILLS = 5.0
"""Seconds, at most."""
PATIENCE = 240.0
"""Seconds after which a job is taken as lost."""
SHORTLY_BEFORE = 0.3
"""How many seconds before a retry is due the workers that know of it die."""
ATTEMPTS = 3
"""How many retries are tried for each kill that comes in time, on a machine that has much else to do."""


class Killer:
    """Starts workers and kills them. One for all kinds of kills, one after another."""

    def __init__(self, stage: MeasuredStage, gateways: list[str], seed: int) -> None:
        """`gateways` are there, and have no addresses but their own."""
        self._stage = stage
        self._redis = stage.work_queue.redis
        self._queue = stage.work_queue.queue
        self._gateways = gateways
        self._chance = random.Random(seed)
        self._directory = Path()
        self._workers: list[Process] = []
        self._started = 0
        settings = load_settings(kubeconfig=stage.cluster.kubeconfig)
        self._cluster_uid = KubeApi(settings).cluster_uid()

    def in_the_middle(self, place: str, kills: int, **settings: Any) -> Waits:
        """Kill workers with a job in hand at a place (`tests.recovery.held`): from the kill until the job's outcome."""
        self._begin(place)
        waits = Waits()
        for first in range(0, kills, BATCH):
            batch = range(first, min(first + BATCH, kills))
            self._grow_to(len(batch) + SURVIVORS, place, settings)
            killed: dict[str, float] = {}
            for number in batch:
                work = self._leak(self._gateways[number], f"{place}-{number}")
                hold = self._directory / work.id
                hold.touch()
                self._stage.work_queue.publish_now([work], "published")
                victim = self._stage.wait_for(lambda hold=hold: self._noted(hold.name), f"a worker to be {place}")  # type: ignore[misc]
                killed[work.id] = time.time()
                self._kill(victim)
                waits.count(_place_of(self._redis, self._queue.name, work.id))
                hold.unlink()
                time.sleep(self._chance.uniform(0, BETWEEN_KILLS))
            waits.seconds += [self._outcome(work, since) for work, since in killed.items()]
        self._end()
        return waits

    def before_a_retry(self, kills: int) -> Waits:
        """Kill the worker that scheduled a retry and the one that looked for due ones last: from the due time on."""

        def two(scheduler: Process) -> set[Process]:
            return {scheduler, max(self._workers, key=lambda each: self._note("promoted", each).stat().st_mtime_ns)}

        return self._retries("retry", kills, SURVIVORS + 2, two)

    def all_before_a_retry(self, kills: int) -> Waits:
        """Kill all workers before a retry is due, and start a new one when it is: from the due time on."""
        return self._retries("alone", kills, SURVIVORS, lambda _: set(self._workers))

    def _retries(self, what: str, kills: int, workers: int, victims: Callable[[Process], set[Process]]) -> Waits:
        self._begin(what)
        waits = Waits()
        for attempt in range(kills * ATTEMPTS):
            if len(waits.seconds) == kills:
                break
            self._grow_to(workers, "nowhere", {})
            job, due = self._schedule(self._gateways[attempt % len(self._gateways)], f"{what}-{attempt}")
            pid = _process_of(self._redis.hget(f"rq:job:{job}", "worker_name"))
            scheduler = next(worker for worker in self._workers if worker.pid == pid)
            _sleep_until(due - SHORTLY_BEFORE)
            killed = victims(scheduler)
            self._kill(*killed)
            in_time = self._redis.zscore(self._queue.scheduled_job_registry.key, job) is not None
            _sleep_until(due)
            if not self._workers:
                self._start("nowhere", {})
            seconds = self._start_of(job, due)
            if in_time:
                waits.count("one worker killed" if len(killed) == 1 else f"{len(killed)} workers killed")
                waits.seconds.append(seconds)
            else:
                waits.count("killed when it was queued already, not counted")
        self._end()
        return waits

    # Workers.

    def _begin(self, what: str) -> None:
        self._directory = self._stage.directory / f"{what}-{self._started}"
        self._directory.mkdir()
        self._redis.flushdb()
        vouch(self._stage.work_queue)

    def _end(self) -> None:
        self._kill(*self._workers)

    def _grow_to(self, size: int, place: str, settings: dict[str, Any]) -> None:
        """Have so many workers that wait for jobs."""
        while len(self._workers) < size:
            self._start(place, settings)
        for worker in self._workers:
            self._stage.wait_for(self._note("waiting", worker).exists, f"{worker.name} to wait for jobs")

    def _start(self, place: str, settings: dict[str, Any]) -> None:
        self._started += 1
        settings = settings or {"driver": ("exec", "netlink")[self._started % 2]}
        # Not the process id: those come again.
        name = f"worker-{self._started}"
        self._workers.append(
            self._stage.launch(name, "tests.recovery.held", str(self._directory), name, place, **settings)
        )

    def _kill(self, *victims: Process) -> None:
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)
        for victim in victims:
            self._workers.remove(victim)
            self._stage.end(victim)

    def _note(self, what: str, worker: Process) -> Path:
        return self._directory / f"{what}.{worker.name}"

    def _noted(self, what: str) -> Process | None:
        """Which worker noted that."""
        return next((worker for worker in self._workers if self._note(what, worker).exists()), None)

    # Jobs.

    def _leak(self, gateway: str, name: str) -> Release:
        """An address that leaked, and its release that is not published yet."""
        namespace = self._stage.cluster.pod(gateway).namespace
        if ADDRESS not in self._stage.cluster.addresses(gateway):
            namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
        return Release(
            id=f"release-{name}",
            cluster=self._cluster_uid,
            gateway=gateway,
            eip=None,
            uid=None,
            seen_at=time.time(),
            addresses=(ip_address(ADDRESS),),
            reason="leaked",
            was_ready=True,
        )

    def _schedule(self, gateway: str, name: str) -> tuple[str, float]:
        """A job whose first try has failed, and when the next is due; the cause is gone by then."""
        work = self._leak(gateway, name)
        self._stage.cluster.set_ready(gateway, ready=False)
        self._stage.work_queue.publish_now([work], "published")
        registry = self._queue.scheduled_job_registry.key
        due = self._stage.wait_for(lambda: self._redis.zscore(registry, work.id), "a retry to be scheduled")
        self._stage.cluster.set_ready(gateway, ready=True)
        return work.id, float(due)

    def _outcome(self, work: str, since: float) -> float | None:
        """How long after a moment the work's outcome was recorded."""
        while time.time() < since + PATIENCE:
            ends = [event["at"] for event in self._stage.work_queue.records.events(work) if event["event"] == "outcome"]
            if ends:
                return round(float(ends[0]) - since, 3)
            time.sleep(0.1)
        return None

    def _start_of(self, job: str, due: float) -> float | None:
        """How long after it was due a job was started, and that it came to an outcome."""
        while time.time() < due + PATIENCE:
            stored = self._redis.hget(f"rq:job:{job}", "started_at")
            started = datetime.fromisoformat(bytes(stored).decode()) if stored else datetime.fromtimestamp(0, UTC)  # type: ignore[arg-type]
            if started.timestamp() >= due:
                return round(started.timestamp() - due, 3) if self._outcome(job, due) is not None else None
            time.sleep(0.02)
        return None


def _place_of(redis: Redis, queue: str, job: str) -> str:
    with redis.pipeline() as pipe:
        pipe.hget(f"rq:job:{job}", "status")
        pipe.lpos(f"rq:queue:{queue}:intermediate", job)
        pipe.zrange(f"rq:wip:{queue}", 0, -1)
        status, place, started = pipe.execute()
    if status == b"started":
        return "started"
    registered = any(entry.decode().startswith(f"{job}:") for entry in started)
    where = "in the registry of started jobs" if registered else "not registered"
    return f"not started, {where}, {'in no list' if place is None else 'in the intermediate queue'}"


def _process_of(worker_name: Any) -> int:
    return int(bytes(worker_name).decode().split("-")[-2])


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.time()))
