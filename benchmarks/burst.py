"""A worker of the product that works its queue off: prints how long that takes, its processor time, and where it went.

`python -m benchmarks.burst [--profile] [--stages]`; settings come from the environment, as for the command.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import resource
import sys
import time
from typing import Any

from benchmarks.stages import Stages
from shared.log import configure
from shared.settings import load_settings
from workers.service import build_worker


def main() -> None:
    """Work off, and tell."""
    settings = load_settings()
    configure(settings)
    worker = build_worker(settings)
    stages = Stages() if "--stages" in sys.argv else None
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    began, cpu = time.perf_counter(), _cpu()
    if profile is not None:
        profile.enable()
    worker.work(burst=True)
    if profile is not None:
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    facts: dict[str, Any] = {"seconds": time.perf_counter() - began, "cpu": _cpu() - cpu}
    if stages is not None:
        facts |= {"stages": stages.seconds, "calls": stages.calls}
    sys.stdout.write(json.dumps(facts) + "\n")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
