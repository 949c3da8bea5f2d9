"""What a producer says of itself: whether it moves, and whether every release of now would become a job.

It is ready while it follows the API and Redis takes commits. Nobody sends it requests, so not being ready takes nothing
away from it; it is how operators, and updates that go step by step, see that a producer is not at work.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from producer.producer import TROUBLE_SECONDS
from shared.endpoint import Pulse, Report

if TYPE_CHECKING:
    from producer.gauges import RedisGauges
    from producer.producer import Producer
    from shared.settings import Settings

BUSY_SECONDS = 20.0
"""A loop that has not moved for so long waits for somebody who does not answer."""
WEDGED_SECONDS = 900.0
"""No list takes so long, however many pages it has and however slow the API is."""


class ProducerHealth:
    """See `shared.endpoint.Health`."""

    def __init__(self, settings: Settings, gauges: RedisGauges) -> None:
        self._wedged = WEDGED_SECONDS + 2 * settings.brake_recheck
        self._gauges = gauges
        self.pulse = Pulse()
        """Of the loop that starts the producer."""
        self.starting = "it has not connected to Redis and the API yet"
        """Why there is no producer yet."""
        self.producer: Producer | None = None

    def alive(self) -> Report:
        """See `shared.endpoint.Health.alive`."""
        age = (self.producer or self).pulse.age
        problems = [f"the main loop has not moved for {age:.0f} s"] if age > self._wedged else []
        return Report(problems, {"moved_seconds_ago": round(age, 1)})

    def ready(self) -> Report:
        """See `shared.endpoint.Health.ready`."""
        producer = self.producer
        if producer is None:
            return Report([self.starting])
        problems = []
        details: dict[str, Any] = {"known_eips": producer.known, "resource_version": producer.position}
        if producer.redis_trouble is not None:
            problems.append(f"Redis does not take commits: {producer.redis_trouble}")
        else:
            # Only then, or the answer would wait for Redis too.
            brake = self._gauges.brake()
            details["brake"] = asdict(brake) if brake else None
        trouble = producer.trouble
        if trouble is not None and time.monotonic() - trouble[1] > TROUBLE_SECONDS:
            problems.append(f"it cannot follow the API: {trouble[0]}")
        if producer.freshness.problem is not None:
            problems.append(producer.freshness.problem)
        if producer.position is None and not details.get("brake"):
            problems.append("it has no list of the EIPs yet")
        if producer.position is not None and not producer.has_followed:
            # One that it replaces goes on until then.
            problems.append("it has not caught up with the API yet")
        if producer.pulse.age > BUSY_SECONDS and not details.get("brake"):
            problems.append(f"it has waited for Redis or the API for {producer.pulse.age:.0f} s")
        return Report(problems, details)
