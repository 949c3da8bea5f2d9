"""What is sampled of the product while it works: its processes, their namespaces, and what lies in Redis.

Sockets are counted by their descriptors, because netlink's are in no list of connections; namespaces by their inodes,
among those that our own processes are in or hold open, because others on this machine have some too.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from sandbox.processes import Process
from tests.soak.growth import TOLERANCES

MB = 1024 * 1024
PREFIX = "eip-reclaimer"
SIZES = {
    "index": "zcard",
    "inventory": "hlen",
    "owners": "scard",
    "producers": "hlen",
    "tombstones": "zcard",
    "trace": "llen",
    "rq:executions": "zcard",
    "rq:failed": "zcard",
    "rq:finished": "zcard",
    "rq:results": "xlen",
    "rq:scheduled": "zcard",
    "rq:wip": "zcard",
    "rq:workers": "scard",
}
"""By kind of key, the command that says how much is in one of them."""


class Samples:
    """Series of samples, all of the same length: one value for each of `seconds`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.series: dict[str, dict[str, list[float]]] = {kind: {} for kind in TOLERANCES}

    def add(self, seconds: float, taken: dict[str, dict[str, float]]) -> None:
        """Add what was found at a time; what was not found is 0, and was so before it was found first."""
        for kind, values in taken.items():
            for name in values:
                self.series.setdefault(kind, {}).setdefault(name, [0.0] * len(self.seconds))
        self.seconds.append(round(seconds, 1))
        for kind, named in self.series.items():
            for name, values_so_far in named.items():
                values_so_far.append(round(taken.get(kind, {}).get(name, 0.0), 2))


def of_processes(processes: list[Process]) -> dict[str, dict[str, float]]:
    """Of each process: memory, descriptors, sockets, threads; and the namespaces that all of them are in or hold."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for process in processes:
        process.expect_running()
        about = psutil.Process(process.pid)
        links = list(_descriptors(process.pid))
        found["resident memory, MB"][process.name] = about.memory_info().rss / MB
        found["descriptors"][process.name] = len(links)
        found["sockets"][process.name] = sum(link.startswith("socket:") for link in links)
        found["threads"][process.name] = about.num_threads()
        held = sum(link.startswith("net:") for link in links)
        found["namespaces"][f"held open by {process.name}"] = held
    found["namespaces"]["in all"] = len(set(_namespaces()))
    return dict(found)


def of_redis(redis: Redis) -> dict[str, dict[str, float]]:
    """How many keys there are of each kind, and how much is in those that hold many things."""
    keys: Counter[str] = Counter()
    sizes: list[str] = []
    with redis.pipeline(transaction=False) as pipe:
        for key in redis.scan_iter(count=2000):
            kind = kind_of(key.decode())
            keys[kind] += 1
            if kind in SIZES:
                sizes.append(kind)
                pipe.execute_command(SIZES[kind], key)  # type: ignore[no-untyped-call]
        # A key that expires in between has 0.
        answers = pipe.execute(raise_on_error=True)
    entries: Counter[str] = Counter()
    for kind, size in zip(sizes, answers, strict=True):
        entries[kind] += int(size)
    memory = int(redis.info("memory")["used_memory"])
    return {
        "redis keys": dict(keys),
        "redis entries": dict(entries),
        "redis memory, MB": {"used": memory / MB},
    }


def kind_of(key: str) -> str:
    """What a key is about: `record` for `eip-reclaimer:record:…`, `rq:job` for `rq:job:…`."""
    first, second, *_ = [*key.split(":", 2), ""]
    return second if first == PREFIX else f"{first}:{second}"


class Logs:
    """Reads on in the JSON lines that workers and producers write."""

    def __init__(self, processes: list[Process]) -> None:
        self._files: dict[Path, int] = {process.log: 0 for process in processes}
        self.outcomes: Counter[str] = Counter()
        """How often each outcome was recorded."""
        self.complaints: Counter[str] = Counter()
        """How often each warning and error was logged."""

    def read_on(self) -> None:
        """Count what came on top."""
        for file, offset in self._files.items():
            with file.open("rb") as log:
                log.seek(offset)
                for line in log:
                    if line.endswith(b"\n"):
                        self._files[file] += len(line)
                        self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            self.complaints[line.decode(errors="replace").strip()[:100]] += 1
            return
        if event.get("event") == "done":
            self.outcomes[event["outcome"]] += 1
        if event.get("level") in ("warning", "error", "critical"):
            self.complaints[f"{event['event']}: {event.get('reason', '')}"[:300]] += 1


def _descriptors(pid: int) -> Iterator[str]:
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            yield os.readlink(descriptor.path)


def _namespaces() -> Iterator[int]:
    """Network namespaces by inode; a descriptor's link says it as `net:[4026531840]`."""
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with suppress(OSError, psutil.NoSuchProcess):
            yield os.stat(f"/proc/{process.pid}/ns/net").st_ino
            for link in _descriptors(process.pid):
                if link.startswith("net:["):
                    yield int(link[5:-1])
