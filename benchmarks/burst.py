"""A worker of the product that works its queue off: prints how long that takes, its processor time, and where it went.

`python -m benchmarks.burst [--profile] [--stages] [--then FILE]`; settings come from the environment, as for the
command. With a file it tells only of the work in there, a list of waves in JSON: each is published once all before it
is done, so that the worker has been at each gateway before.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.stages import Stages
from shared.connection import connect
from shared.log import configure
from shared.models import parse_work
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from workers.service import build_worker


def main() -> None:
    """Work off, and tell."""
    settings = load_settings()
    configure(settings)
    worker = build_worker(settings)
    waves = _then(settings)
    if waves:
        worker.work(burst=True)
    stages = Stages() if "--stages" in sys.argv else None
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    facts: dict[str, Any] = {"seconds": 0.0, "cpu": 0.0}
    for publish in waves or [lambda: None]:
        publish()
        began, cpu = time.perf_counter(), _cpu()
        if profile is not None:
            profile.enable()
        worker.work(burst=True)
        if profile is not None:
            profile.disable()
        facts["seconds"] += time.perf_counter() - began
        facts["cpu"] += _cpu() - cpu
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    if stages is not None:
        facts |= {"stages": stages.seconds, "calls": stages.calls}
    sys.stdout.write(json.dumps(facts) + "\n")


def _then(settings: Settings) -> list[Callable[[], None]]:
    """What publishes each wave of the file."""
    if "--then" not in sys.argv:
        return []
    work_queue = WorkQueue(connect(settings), settings)
    waves = json.loads(Path(sys.argv[sys.argv.index("--then") + 1]).read_text(encoding="utf-8"))
    return [partial(work_queue.publish_now, [parse_work(each) for each in wave], "published") for wave in waves]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
