"""Many EIPs: starting, listing, comparing, following; memory here and in Redis."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.field import Field
from benchmarks.harness import Case, Measured, Ratio, interleaved
from sandbox.processes import Process

EVENTS = 5000
TOUCHED = 1000
"""The events are about so many EIPs, however many others there are."""
MAIN = 10_000


def measure(field: Field, quick: bool) -> Measured:
    """A producer on inventories of each size: it is started, started again after a gap, and told of many events."""
    sizes = {1_000: 2, MAIN: 2} if quick else {1_000: 3, MAIN: 3, 100_000: 3}
    found: dict[int, list[dict[str, float]]] = {}
    sides: dict[str, list[float]] = {}
    for size, turns in sizes.items():
        planted = field.plant(0, size, in_kernel=False)
        # The API is in this process: what it holds is not to be looked through by its garbage collector meanwhile.
        gc.collect()
        gc.freeze()

        def one(size: int = size, eips: tuple[str, ...] = tuple(planted)) -> float:
            found.setdefault(size, []).append(_producer(field, eips))
            return found[size][-1]["start, list, difference: s"]

        sides |= interleaved({f"{size:,} EIPs: start, list, difference": one}, turns)
        field.uproot_all()
        gc.unfreeze()

    def each(size: int, what: str) -> list[float]:
        return [facts[what] for facts in found[size]]

    largest = max(sizes)
    growth = largest / MAIN if largest > MAIN else MAIN / 1_000
    smaller = MAIN if largest > MAIN else 1_000
    grown = [
        b / a
        for a, b in zip(
            each(smaller, "start, list, difference: s"), each(largest, "start, list, difference: s"), strict=False
        )
    ]
    cost = [a / b for a, b in zip(each(1_000, "events per second"), each(largest, "events per second"), strict=False)]
    return Measured(
        sides=sides,
        ratios=[
            Ratio(
                "10,000 EIPs: start, list, difference", each(MAIN, "start, list, difference: s"), 5, 12, "lower", "s"
            ),
            Ratio("10,000 EIPs: list and difference after a gap", each(MAIN, "after a gap: s"), 5, 12, "lower", "s"),
            Ratio(
                "10,000 EIPs: resident at the most", each(MAIN, "resident at the most: MiB"), 150, 200, "lower", "MiB"
            ),
            Ratio("10,000 EIPs: watch events", each(MAIN, "events per second"), 1000, 500, "higher", "/s"),
            Ratio(
                f"{largest:,} / {smaller:,} EIPs, time, beside {growth:g} times as many",
                [each / growth for each in grown],
                1.3,
                2,
                "lower",
            ),
            Ratio(f"cost of an event, {largest:,} / 1,000 EIPs known", cost, 1.3, 2.5, "lower"),
        ],
        facts={f"{size:,} EIPs": _medians(values) for size, values in found.items()},
    )


def _producer(field: Field, eips: tuple[str, ...]) -> dict[str, float]:
    redis, keys = field.work_queue.redis, field.work_queue.keys
    # Not in the background, which would count as memory of what comes next.
    redis.execute_command("FLUSHDB", "SYNC")  # type: ignore[no-untyped-call]
    before = _redis_memory(field)
    first = _started(field)
    facts = {
        "start, list, difference: s": first[1],
        "redis per EIP: bytes": (_redis_memory(field) - before) / len(eips),
        "resident after the list: MiB": _memory(first[0], "VmRSS"),
    }
    rounds = EVENTS // TOUCHED
    began = time.perf_counter()
    for number in range(rounds):
        version = field.touch(eips[:TOUCHED], f"{began}-{number}")
    field.watch_until(lambda: _version(field) >= version, "the events", 0.005)
    facts["events per second"] = EVENTS / (time.perf_counter() - began)
    facts["resident at the most: MiB"] = _memory(first[0], "VmHWM")
    _end(field, first[0])
    redis.delete(keys.checkpoint)
    again = _started(field)
    facts["after a gap: s"] = again[1]
    facts["resident at the most after a gap: MiB"] = _memory(again[0], "VmHWM")
    _end(field, again[0])
    return facts


def _started(field: Field) -> tuple[Process, float]:
    """A producer that has listed, and how long that took from the start of its process."""
    began = time.perf_counter()
    process = field.launch("producer", "cli", "producer")
    field.watch_until(lambda: _version(field) > 0, "the list", 0.01)
    return process, time.perf_counter() - began


def _end(field: Field, process: Process) -> None:
    field.processes.remove(process)
    process.stop()


def _version(field: Field) -> int:
    stored: Any = field.work_queue.redis.hget(field.work_queue.keys.checkpoint, "resource_version")
    return int(stored or 0)


def _redis_memory(field: Field) -> float:
    info: dict[str, Any] = field.work_queue.redis.info("memory")
    return float(info["used_memory"])


def _memory(process: Process, field: str) -> float:
    """MiB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def _medians(values: list[dict[str, float]]) -> dict[str, float]:
    middle: Callable[[list[float]], float] = lambda each: sorted(each)[len(each) // 2]  # noqa: E731
    return {name: round(middle([facts[name] for facts in values]), 2) for name in values[0]}


SCALE = Case("scale", "What do 10,000 and 100,000 EIPs cost a producer, and Redis?", measure)
