"""Many gateways at once: do workers add up, and does one worker use the time in which it waits for an exec?"""

from __future__ import annotations

import statistics
import time

from benchmarks.field import EXEC_SECONDS, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved, processor_seconds

ONE, FOUR, OVERLAPPING = "1 worker, one gateway at a time", "4 workers, one gateway at a time", "1 worker"
FOUR_OVERLAPPING = "4 workers"
EACH = 10
POLL = 0.25
"""Seconds. Whoever asks is in the process of the API that the workers ask; records tell when the last was gone."""


def measure(field: Field, quick: bool) -> Measured:
    """From the first job that a worker takes, where it had nothing else to do, to the last address seen gone.

    To publish a thousand releases in one transaction takes the benchmark half a second, which is no worker's.
    """
    turns, gateways = (1, 40) if quick else (3, 100)
    field.exec_latency(EXEC_SECONDS)
    field.gateway(gateways - 1)

    used: dict[str, list[tuple[float, float, float]]] = {}

    def run(side: str, workers: int, **settings: int) -> float:
        works = [work for number in range(gateways) for work in field.leaks(number, EACH)]
        with field.product(producers=0, workers=workers, driver="exec", **settings) as processes:
            field.work_queue.publish_now(works, "published")
            before = sum(processor_seconds(process.pid) for process in processes), processor_seconds()
            began = time.time()
            field.wait_for_outcomes(len(works), POLL)
            by_workers = sum(processor_seconds(process.pid) for process in processes) - before[0]
            spent = (by_workers, processor_seconds() - before[1], time.time() - began)
            seconds = max(field.gone_at(work.id) for work in works) - min(field.taken_at(work.id) for work in works)
        used.setdefault(side, []).append(spent)
        assert all(field.on_kernel(number) == 0 for number in range(gateways))
        return seconds

    alone = {"gateways_at_once": 1}
    values = interleaved(
        {
            ONE: lambda: run(ONE, 1, **alone),
            FOUR: lambda: run(FOUR, 4, **alone),
            OVERLAPPING: lambda: run(OVERLAPPING, 1),
            FOUR_OVERLAPPING: lambda: run(FOUR_OVERLAPPING, 4),
        },
        turns,
    )
    return Measured(
        sides=values,
        ratios=[
            Ratio(f"{ONE} / {FOUR}", divided(values[ONE], values[FOUR]), target=3, limit=1.8),
            Ratio(f"{ONE} / {OVERLAPPING}", divided(values[ONE], values[OVERLAPPING]), target=3, limit=1.8),
            Ratio(f"{ONE} / {FOUR_OVERLAPPING}", divided(values[ONE], values[FOUR_OVERLAPPING])),
        ],
        facts={
            "exec latency, s": EXEC_SECONDS,
            "gateways": gateways,
            "releases on each": EACH,
            "processor time, medians": {side: _spent(found) for side, found in used.items()},
        },
    )


def _spent(found: list[tuple[float, float, float]]) -> dict[str, float]:
    """Of the workers, and of the whole machine with the sandbox and whoever else is on it."""
    workers, machine, wall = (statistics.median(values) for values in zip(*found, strict=True))
    return {
        "of workers, s": round(workers, 2),
        "of the whole machine, s": round(machine, 2),
        "cores that were busy": round(machine / wall, 2),
    }


GATEWAYS = Case(
    "gateways", "100 gateways with 10 releases each: what do more workers, or overlapping execs, bring?", measure
)
