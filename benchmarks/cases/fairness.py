"""Does a gateway with a thousand releases, queued first, delay another gateway's one?"""

from __future__ import annotations

import statistics
import time

from benchmarks.field import EXEC_SECONDS, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved

HOT, COUNT = 0, 1000
OTHER = 1


def measure(field: Field, quick: bool) -> Measured:
    """From the other's publishing to its address seen gone, on an idle system and behind the thousand."""
    turns, idle_count = (2, 5) if quick else (5, 10)
    field.exec_latency(EXEC_SECONDS)
    field.gateway(OTHER)

    def idle(driver: str) -> float:
        works = field.leaks(OTHER, idle_count + 1)
        with field.product(producers=0, driver=driver):
            seconds = []
            for number, work in enumerate(works):
                began = time.time()
                field.work_queue.publish_now([work], "published")
                field.wait_for_outcomes(number + 1)
                seconds.append(field.gone_at(work.id) - began)
        return statistics.median(seconds[1:])

    def behind(driver: str) -> float:
        warm, hot, other = field.leaks(OTHER, 1), field.leaks(HOT, COUNT), field.leaks(OTHER, 1)
        with field.product(producers=0, driver=driver):
            field.work_queue.publish_now(warm, "published")
            field.wait_for_outcomes(1)
            field.work_queue.publish_now(hot, "published")
            began = time.time()
            field.work_queue.publish_now(other, "published")
            field.wait_for_outcomes(len(hot) + 2)
            return field.gone_at(other[0].id) - began

    sides = {}
    for driver in ("exec", "netlink"):
        sides[f"{driver}, idle"] = lambda driver=driver: idle(driver)
        sides[f"{driver}, behind 1,000"] = lambda driver=driver: behind(driver)
    values = interleaved(sides, turns)
    return Measured(
        sides=values,
        ratios=[
            # A delay of twice its time makes three times its time.
            Ratio(
                f"{driver}: behind 1,000 / idle",
                divided(values[f"{driver}, behind 1,000"], values[f"{driver}, idle"]),
                target=3,
                limit=8,
                better="lower",
            )
            for driver in ("exec", "netlink")
        ],
        facts={"exec latency, s": EXEC_SECONDS, "workers": 1},
    )


FAIRNESS = Case("fairness", "Is one gateway's release delayed by another's thousand?", measure)
