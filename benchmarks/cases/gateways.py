"""Many gateways at once: do workers add up, and does one worker use the time in which it waits for an exec?"""

from __future__ import annotations

import time

from benchmarks.field import EXEC_SECONDS, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved

ONE, FOUR, OVERLAPPING = "1 worker, one gateway at a time", "4 workers, one gateway at a time", "1 worker"
FOUR_OVERLAPPING = "4 workers"
EACH = 10


def measure(field: Field, quick: bool) -> Measured:
    """From the moment the releases are published, to workers that have nothing else to do, to the last outcome."""
    turns, gateways = (1, 40) if quick else (3, 100)
    field.exec_latency(EXEC_SECONDS)
    field.gateway(gateways - 1)

    def run(workers: int, **settings: int) -> float:
        works = [work for number in range(gateways) for work in field.leaks(number, EACH)]
        with field.product(producers=0, workers=workers, driver="exec", **settings):
            began = time.time()
            field.work_queue.publish_now(works, "published")
            field.wait_for_outcomes(len(works))
            seconds = max(field.gone_at(work.id) for work in works) - began
        assert all(field.on_kernel(number) == 0 for number in range(gateways))
        return seconds

    alone = {"gateways_at_once": 1}
    values = interleaved(
        {
            ONE: lambda: run(1, **alone),
            FOUR: lambda: run(4, **alone),
            OVERLAPPING: lambda: run(1),
            FOUR_OVERLAPPING: lambda: run(4),
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
        facts={"exec latency, s": EXEC_SECONDS, "gateways": gateways, "releases on each": EACH},
    )


GATEWAYS = Case(
    "gateways", "100 gateways with 10 releases each: what do more workers, or overlapping execs, bring?", measure
)
