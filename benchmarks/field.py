"""Where benchmarks take place: the real parts, and EIPs by the thousand that come and go at one stroke.

API, gateways and their namespaces are the sandbox's; the Redis protocol server, producers, workers and peers are
processes of their own. EIPs are written straight into the API's store, and leave it the same way: what is measured is
what follows from an event, not how fast one can be caused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import pairwise
from math import inf
from typing import Any

from rq import Worker

from sandbox import objects
from sandbox.api.resources import BY_PATH, NAMESPACES
from sandbox.processes import ROOT, Process
from shared.models import Release
from tests.conftest import variables
from tests.measuring import MeasuredStage
from tests.prepared import add_addresses
from tests.vouched import is_vouched, vouch

EIPS = BY_PATH["kubeovn.io", "iptables-eips"]
SUBNET, CIDR, ROUTER, LENGTH = "external", "10.64.0.0/12", "10.79.255.254", 12
NODE = "sandbox-node"
EXEC_SECONDS = 0.065
"""The median of a trivial exec on a real kubelet (measured there; the sandbox lets every exec wait so long)."""
PATIENCE = 300.0
POLL = 0.02
"""Seconds between two looks at how far they are, where they tell of times themselves."""

QUIET = {"audit_interval": 0, "events": "false", "log_level": "warning", "external_subnet": SUBNET}
"""Settings of the product in every case: no audits meanwhile, and no Events, which nobody's peer sends either."""


class Field(MeasuredStage):
    """The stage with gateways `gw-0`, `gw-1`, … on one wide subnet."""

    def __init__(self) -> None:
        super().__init__(**QUIET)
        self._gateways = 0
        self._planted = 0

    def __enter__(self) -> Field:
        super().__enter__()
        self.cluster.add_subnet(SUBNET, CIDR, ROUTER)
        return self

    @property
    def environment(self) -> dict[str, str]:
        """How other processes find Redis, the API and the namespaces."""
        return dict(self._environment)

    def gateway(self, number: int) -> str:
        """The name of a gateway, which is there from now on."""
        while self._gateways <= number:
            self.cluster.add_gateway(f"gw-{self._gateways}", (SUBNET,))
            self._gateways += 1
        return f"gw-{number}"

    def exec_latency(self, seconds: float) -> None:
        """How long every exec waits before its command begins."""
        self.cluster.server.executions.latency = seconds

    # EIPs and addresses.

    def plant(self, gateway: int, count: int, *, in_kernel: bool = True) -> dict[str, str]:
        """Add so many ready EIPs of a gateway, and their addresses to its kernel; the addresses by EIP."""
        name = self.gateway(gateway)
        made = {}
        for _ in range(count):
            self._planted += 1
            made[f"eip-{self._planted}"] = _address(self._planted)
        self.cluster.background.call(self._write(name, made))
        if in_kernel:
            add_addresses(self.cluster, name, made.values(), LENGTH)
        return made

    def vanish(self, eips: Sequence[str]) -> float:
        """Take EIPs out of the API, all in one go, as after the last finalizer; when that began, since the epoch."""
        return self.cluster.background.call(self._remove(eips))

    def touch(self, eips: Sequence[str], mark: str) -> int:
        """Change something about each EIP that nobody cares for; the last one's resourceVersion."""
        return self.cluster.background.call(self._annotate(eips, mark))

    def uproot_all(self) -> None:
        """Take every EIP out of the API, unseen."""
        self.cluster.background.call(self._remove([key[1] for key in self._stored()]))

    def leaks(self, gateway: int, count: int) -> list[Release]:
        """So many addresses on a gateway's kernel that no EIP owns, and the work of releasing each."""
        name = self.gateway(gateway)
        addresses = []
        for _ in range(count):
            self._planted += 1
            addresses.append(_address(self._planted))
        add_addresses(self.cluster, name, addresses, LENGTH)
        return [self.release(name, address) for address in addresses]

    def absent(self, gateway: int, count: int) -> list[Release]:
        """The work of releasing so many addresses that a gateway does not have."""
        name = self.gateway(gateway)
        self._planted += count
        return [self.release(name, _address(self._planted - number)) for number in range(count)]

    def release(self, gateway: str, address: str) -> Release:
        """The work of releasing one address."""
        return Release(
            id=f"release-{uuid.uuid4()}",
            cluster=self._cluster_uid(),
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

    def on_kernel(self, gateway: int) -> int:
        """How many addresses a gateway's external interface has, beside its own."""
        return len(self.cluster.addresses(f"gw-{gateway}")) - 1

    # The product.

    @contextmanager
    def product(self, *, producers: int = 1, workers: int = 1, **settings: Any) -> Iterator[list[Process]]:
        """Producers and workers on an empty Redis, ready; they end with the block."""
        redis = self.work_queue.redis
        redis.flushdb()
        settings = {"node_name": NODE, **settings} if settings.get("driver") == "netlink" else settings
        started = [self.launch(f"producer-{n}", "cli", "producer", **settings) for n in range(producers)]
        started += [self.launch(f"worker-{n}", "cli", "worker", **settings) for n in range(workers)]
        try:
            if producers:
                self.wait_for(lambda: is_vouched(self.work_queue), "the producer to have caught up")
            else:
                vouch(self.work_queue)
            self.wait_for(lambda: Worker.count(connection=redis) >= workers, "the workers")
            yield started
        finally:
            for process in reversed(started):
                self.processes.remove(process)
                process.stop()

    def outcomes(self) -> int:
        """How many pieces of work have ended."""
        hour = int(time.time() // 3600)
        return sum(sum(counted.values()) for counted in self.work_queue.records.tally.hours(hour - 1, hour))

    def wait_for_outcomes(self, count: int, poll: float = POLL) -> None:
        """Wait until so many pieces of work have ended since Redis was empty."""
        self.watch_until(lambda: self.outcomes() >= count, f"{count} outcomes", poll)

    def watch_until(self, condition: Callable[[], bool], what: str, poll: float = POLL) -> None:
        """Look again and again, seldom enough not to be in the way of what is measured."""
        deadline = time.monotonic() + PATIENCE
        while True:
            # What has just been caused goes its way first: the API is in this process.
            time.sleep(poll)
            if condition():
                return
            if time.monotonic() > deadline:
                words = "\n".join(f"--- {process.name}\n{process.last_words()}" for process in self.processes)
                raise TimeoutError(f"waited {PATIENCE:g} s for {what}\n{words}")

    def gone_at(self, work_id: str) -> float:
        """When a worker saw the address gone that it had deleted, since the epoch; else when it told the outcome."""
        events = {event["event"]: event["at"] for event in self.work_queue.records.events(work_id)}
        return float(events.get("deleted") or events["outcome"])

    def taken_at(self, work_id: str) -> float:
        """When a worker took the job first, since the epoch; for ever where another job's worker did its work."""
        taken = (event["at"] for event in self.work_queue.records.events(work_id) if event["event"] == "taken")
        return float(next(taken, inf))

    def milestones(self, work_id: str, began: float) -> dict[str, float]:
        """How long a release took from each step of its life to the next, ms, from the event at `began` on."""
        records = self.work_queue.records
        work = records.work(work_id)
        assert work is not None
        events = {event["event"]: float(event["at"]) for event in records.events(work_id)}
        reached = {"event": began, "seen by the producer": work.seen_at} | {
            step: events[name]
            for step, name in (
                ("being published", "published"),
                ("taken by a worker", "taken"),
                ("seen gone", "deleted"),
                ("outcome recorded", "outcome"),
            )
        }
        steps = list(reached)
        return {after: 1000 * (reached[after] - reached[before]) for before, after in pairwise(steps)}

    def work_of(self, eip: str) -> str:
        """Id of the release of an EIP."""
        return self.work_queue.records.find(eip)[-1]

    # Peers and other programs.

    @contextmanager
    def peer(self, module: str, *arguments: str) -> Iterator[Peer]:
        """A peer that follows the API, ready; it ends with the block."""
        process = self.launch("peer", f"benchmarks.peers.{module}", *arguments)
        peer = Peer(process)
        try:
            self.watch_until(lambda: peer.lines("ready") != [], f"{module} to be ready")
            yield peer
        finally:
            self.processes.remove(process)
            process.stop()
            process.log.unlink()

    def told(self, module: str, *arguments: str, **settings: Any) -> dict[str, Any]:
        """Run a program to its end; the JSON object it printed last."""
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment, **variables(**settings)},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{module} failed:\n{ended.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found

    # The API's own store; these run in its event loop.

    async def _write(self, gateway: str, eips: dict[str, str]) -> None:
        store = self.cluster.server.store
        for name, address in eips.items():
            store.write(EIPS, ("", name), _eip(name, gateway, address), None)

    async def _remove(self, eips: Sequence[str]) -> float:
        store = self.cluster.server.store
        collection = store.collections[EIPS]
        began = time.time()
        for name in eips:
            entry = collection.get(("", name))
            assert entry is not None, name
            store.remove(entry)
        return began

    async def _annotate(self, eips: Sequence[str], mark: str) -> int:
        store = self.cluster.server.store
        collection = store.collections[EIPS]
        for name in eips:
            entry = collection.get(("", name))
            assert entry is not None, name
            metadata = {**entry.content["metadata"], "annotations": {"mark": mark}}
            store.write(EIPS, entry.key, {**entry.content, "metadata": metadata}, entry)
        return store.version

    def _stored(self) -> list[tuple[str, str]]:
        return [entry.key for entry in self.cluster.server.store.collections[EIPS].now()]

    def _cluster_uid(self) -> str:
        entry = self.cluster.server.store.collections[NAMESPACES].get(("", "kube-system"))
        assert entry is not None
        return str(entry.content["metadata"]["uid"])


class Peer:
    """A peer that runs, and tells of what it did on lines of JSON."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def lines(self, word: str) -> list[Any]:
        """What it has told under a word."""
        self.process.expect_running()
        lines = [json.loads(line) for line in self.process.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if word in line]


def _address(number: int) -> str:
    """The n-th address of the subnet that an EIP may have."""
    return str(ip_address(int(ip_address("10.65.0.0")) + number))


def _eip(name: str, gateway: str, address: str) -> dict[str, Any]:
    content = objects.eip(name, gateway, v4ip=address, external_subnet=SUBNET)
    content["metadata"] |= {
        "uid": str(uuid.uuid4()),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": objects.eip_labels(gateway, SUBNET, [address]),
    }
    content["spec"]["macAddress"] = "00:00:00:11:22:33"
    content["status"] = {"ip": address, "ready": True}
    return content
