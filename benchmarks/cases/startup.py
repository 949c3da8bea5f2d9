"""How long a person waits for `--help`, and a cluster for a worker that can take jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from rq import Worker

from benchmarks.field import Field
from benchmarks.harness import Case, Measured, Ratio, interleaved
from sandbox.processes import ROOT

HELP, WORKER, PYTHON, KUBERNETES = "--help", "worker ready", "python alone", "import of all of kubernetes' client"


def measure(field: Field, quick: bool) -> Measured:
    """Processes from their start to their end, or to the worker's registration."""
    turns = 3 if quick else 10

    def program(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, env={**os.environ})
        return time.perf_counter() - began

    def worker() -> float:
        redis = field.work_queue.redis
        redis.flushdb()
        began = time.perf_counter()
        process = field.launch("worker", "cli", "worker", driver="exec")
        field.watch_until(lambda: Worker.count(connection=redis) > 0, "the worker", 0.005)
        seconds = time.perf_counter() - began
        field.processes.remove(process)
        process.stop()
        return seconds

    values = interleaved(
        {
            HELP: lambda: program("-m", "cli", "--help"),
            WORKER: worker,
            PYTHON: lambda: program("-c", "pass"),
            KUBERNETES: lambda: program("-c", "import kubernetes.client"),
        },
        turns,
    )
    return Measured(
        sides=values,
        ratios=[
            Ratio("--help", values[HELP], 0.3, 0.8, "lower", "s"),
            Ratio("worker ready", values[WORKER], 2, 4, "lower", "s"),
        ],
    )


STARTUP = Case("startup", "How long until `--help` is there, and until a worker takes jobs?", measure)
