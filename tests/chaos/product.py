"""The product's processes as the torture runs them: `python -m tests.chaos.product producer|worker DIRECTORY`.

A producer is just that. A worker notes in DIRECTORY/acts-N.jsonl, where N is CHAOS_PROCESS, when it had a gateway open
and when it changed it, and is slow between its look and its act, as often as CHAOS_SLOW says, so that races are really run;
CHAOS_LATE says how late, in seconds: from-to.
CHAOS_WITHOUT switches one of the product's safeguards off, to see that the referee notices.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.client import Pipeline

import producer.service
import workers.reclaimer
import workers.service
import workers.worker
from shared.difference import Change, Difference
from shared.inventory import Inventory
from shared.keys import Keys
from shared.kube.api import KubeApi
from shared.log import configure
from shared.models import Work
from shared.settings import Settings, load_settings
from workers.cluster import Cluster
from workers.gateways.interface import Driver, Fence, Gateway, GatewayPod, Snapshot, Step
from workers.lock import GatewayLock
from workers.owners import Owners

_numbers = itertools.count()
"""Over all drivers of this process: a worker that starts again has a new one."""
MUTATIONS = ("owner-check", "second-look", "lock", "transaction")


class _Changed(threading.local):
    """Of each thread, whether it changed the gateway that it opened last."""

    is_so = False


class WitnessedDriver:
    """Notes what a driver does, and when."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        self.name = driver.name
        self.enters_by_uid = driver.enters_by_uid
        self.changed = _Changed()
        self._driver = driver
        self._slow = float(os.environ["CHAOS_SLOW"])
        self._late = [float(seconds) for seconds in os.environ["CHAOS_LATE"].split("-")]
        # Not the process id: those come again.
        self._process = int(os.environ["CHAOS_PROCESS"])
        self._notes = (directory / f"acts-{self._process}.jsonl").open("a", buffering=1)

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[Gateway]:
        self.changed.is_so = False
        number = next(_numbers)
        self.note(number, "opened", pod=pod.uid, process=self._process)
        try:
            with self._driver.open(pod) as gateway:
                yield _WitnessedGateway(self, number, gateway)
        finally:
            self.note(number, "closed")

    def close(self, unused_for: float = 0.0) -> None:
        self._driver.close(unused_for)

    def hesitate(self) -> None:
        """Be slow before the first change of a gateway: what is put right at once has nothing to wait for."""
        if not self.changed.is_so and random.random() < self._slow:
            time.sleep(random.uniform(*self._late))

    def note(self, number: int, what: str, **more: Any) -> None:
        self._notes.write(json.dumps({"act": number, "what": what, "at": time.time(), **more}) + "\n")


class _WitnessedGateway:
    def __init__(self, driver: WitnessedDriver, number: int, gateway: Gateway) -> None:
        self._driver = driver
        self._number = number
        self._gateway = gateway

    def read(self) -> Snapshot:
        return self._gateway.read()

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        if not steps:
            return self._gateway.read()
        self._driver.hesitate()

        def passed() -> None:
            fence()
            self._driver.note(self._number, "began")

        self._driver.changed.is_so = True
        shown = self._gateway.carry_out(steps, passed)
        self._driver.note(self._number, "ended")
        return shown


class _NoLock(GatewayLock):
    """Has every gateway, always."""

    @classmethod
    def ask_for(
        cls, pipe: Pipeline, redis: Redis, keys: Keys, gateway: str, lifetime: float, holder: str = ""
    ) -> GatewayLock:
        pipe.delete(keys.taken(gateway))
        pipe.get(keys.lock(gateway))
        return cls(redis, keys, gateway, "nobody", lifetime, time.monotonic())

    def answered(self, answer: object) -> GatewayLock | None:
        return self

    def ensure_held(self) -> None:
        pass

    @contextmanager
    def transaction(self, unless_changed: int | None = None) -> Iterator[Pipeline]:
        with self._redis.pipeline(transaction=True) as pipe:
            yield pipe
            pipe.execute()
        self._released = True

    def release_unless_changed(self, generation: int) -> bool:
        self._released = True
        return True


def _ownerless(look: Callable[..., Owners], when: Callable[[], bool]) -> Callable[..., Owners]:
    def owners(cluster: Cluster, *asked: Any) -> Owners:
        found = look(cluster, *asked)
        return Owners() if when() else found

    return owners


def _commit_in_two(commit: Callable[..., Difference], pause: float) -> Callable[..., Difference]:
    """The inventory first, and the work that follows from it a moment later."""

    def commit_then_publish(
        inventory: Inventory, changes: Sequence[Change], version: int | None, **kwargs: bool
    ) -> Difference:
        queue = inventory.work_queue
        later: list[Work] = []
        publish, queue.publish = queue.publish, lambda _pipe, work, *_, **__: later.append(work)  # type: ignore[method-assign]
        try:
            result = commit(inventory, changes, version, **kwargs)
        finally:
            queue.publish = publish  # type: ignore[method-assign]
        if later:
            time.sleep(pause)
            queue.publish_now(later, "published")
        return result

    return commit_then_publish


def main() -> None:
    """Run until told to end, or killed."""
    part, directory = sys.argv[1], Path(sys.argv[2])
    without = os.environ.get("CHAOS_WITHOUT", "")
    settings = load_settings()
    configure(settings)
    if part == "producer":
        if without == "transaction":
            Inventory.commit = _commit_in_two(Inventory.commit, 0.5)  # type: ignore[method-assign]
        producer.service.run(settings)
        return
    opened = workers.service.open_driver
    drivers: list[WitnessedDriver] = []

    def open_driver(settings: Settings, api: KubeApi) -> Driver:
        drivers.append(WitnessedDriver(opened(settings, api), directory))
        return drivers[-1]

    workers.service.open_driver = open_driver
    if without == "owner-check":
        Cluster.owners = _ownerless(Cluster.owners, lambda: True)  # type: ignore[method-assign]
    if without == "second-look":
        Cluster.owners = _ownerless(Cluster.owners, lambda: drivers[-1].changed.is_so)  # type: ignore[method-assign]
    if without == "lock":
        workers.reclaimer.GatewayLock = _NoLock  # type: ignore[attr-defined]
        # It locks by itself what it opens.
        workers.worker.Opener = lambda *_: None  # type: ignore[assignment, attr-defined]
    workers.service.run(settings)


if __name__ == "__main__":
    main()
