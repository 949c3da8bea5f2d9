"""What a job costs beside its floor: RQ's own no-op job, and a look at the gateway by the same driver.

The releases are of addresses that are not there, as with a Kube-OVN that works: most of what the product does, most of
the time. One worker with the netlink driver works off what is queued before it starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.field import NODE, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved
from shared.models import Release, work_to_dict

NOOP, LOOK, BARE_LOOK, BARE_DELETE = "RQ no-op job", "driver's look", "pyroute2: look", "pyroute2: delete"
ONE, TEN, EACH = "ours, one gateway", "ours, ten gateways", "ours, a gateway each"
FIRST = "ours, a gateway each, never seen before"
OURS: dict[str, Any] = {"driver": "netlink", "node_name": NODE}
STAGED = {**OURS, "gateways_at_once": 1}
"""Where its time goes adds up for one thread only."""
GATEWAYS = 100
WAVES = 3
"""How often every gateway gets a job again: one that has two at once gets them done in one."""


def measure(field: Field, quick: bool) -> Measured:
    """Seconds per job, and per look."""
    turns, count = (2, 300) if quick else (5, 1000)
    field.gateway(GATEWAYS - 1)
    stages: dict[str, dict[str, float]] = {}
    floors: dict[str, list[float]] = {LOOK: [], BARE_LOOK: [], BARE_DELETE: []}

    def burst(side: str, works: Sequence[Release], *flags: str) -> float:
        field.work_queue.redis.flushdb()
        field.work_queue.publish_now(works, "published")
        told = field.told("benchmarks.burst", *flags, **(STAGED if flags else OURS))
        assert field.outcomes() == len(works)
        if flags:
            stages[side] = _per_job(told, len(works))
        return float(told["seconds"]) / len(works)

    def one_each() -> list[Release]:
        return [work for number in range(GATEWAYS) for work in field.absent(number, 1)]

    def waves(*flags: str) -> float:
        first, *later = (one_each() for _ in range(1 + WAVES))
        file = field.directory / "waves.json"
        file.write_text(json.dumps([[work_to_dict(work) for work in wave] for wave in later]), encoding="utf-8")
        field.work_queue.redis.flushdb()
        field.work_queue.publish_now(first, "published")
        told = field.told("benchmarks.burst", "--then", str(file), *flags, **(STAGED if flags else OURS))
        jobs = GATEWAYS * WAVES
        assert field.outcomes() == jobs + GATEWAYS
        if flags:
            stages[EACH] = _per_job(told, jobs)
        return float(told["seconds"]) / jobs

    def noop() -> float:
        field.work_queue.redis.flushdb()
        return float(field.told("benchmarks.peers.rq_noop", str(count))["seconds"]) / count

    def netlink() -> float:
        pod = field.cluster.pod("gw-0").uid
        told = field.told("benchmarks.peers.bare_netlink", str(field.cluster.netns_dir), pod, str(count))
        for side, name in ((BARE_LOOK, "look"), (BARE_DELETE, "delete"), (LOOK, "driver_look")):
            floors[side].append(told[name])
        return float(told["driver_look"])

    works: dict[str, Callable[[], list[Release]]] = {
        ONE: lambda: field.absent(0, count),
        TEN: lambda: [work for number in range(10) for work in field.absent(number, count // 10)],
        FIRST: one_each,
    }
    sides: dict[str, Callable[[], float]] = {NOOP: noop, LOOK: netlink, EACH: waves}
    for side, make in works.items():
        sides[side] = lambda side=side, make=make: burst(side, make())  # type: ignore[misc]
    values = interleaved(sides, turns)
    for side, make in works.items():
        burst(side, make(), "--stages")
    waves("--stages")
    # Turn by turn: a job, and one look.
    floor = [job + look for job, look in zip(values[NOOP], values[LOOK], strict=True)]
    return Measured(
        sides={**values, **floors},
        ratios=[
            Ratio(f"{side} / (RQ no-op + driver's look)", divided(values[side], floor), 1.2, limit, "lower")
            for side, limit in ((ONE, 2.0), (TEN, 2.0), (EACH, 3.0))
        ]
        + [Ratio(f"{FIRST} / (RQ no-op + driver's look)", divided(values[FIRST], floor), limit=4.0, better="lower")],
        facts={"jobs": count, "jobs where each has a gateway": GATEWAYS, "per job, one gateway at a time": stages},
    )


def _per_job(told: dict[str, dict[str, float]], jobs: int) -> dict[str, float]:
    """Milliseconds of each stage, and calls, per job; the rest is Python."""
    seconds = float(told["seconds"])  # type: ignore[arg-type]
    outside = sum(told["stages"].values())
    return {
        **{f"{stage}, ms": round(1000 * spent / jobs, 3) for stage, spent in told["stages"].items()},
        "python, ms": round(1000 * (seconds - outside) / jobs, 3),
        **{f"{stage}, calls": round(calls / jobs, 2) for stage, calls in told["calls"].items()},
    }


JOB = Case("job", "What does a job cost, beside RQ's no-op and a look at the gateway?", measure)
