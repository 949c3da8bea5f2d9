"""The floor of a job: RQ's own SimpleWorker with a job that does nothing. Prints how long N of them take."""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from redis import Redis
from rq import Queue, SimpleWorker


def nothing(number: int) -> int:
    """Do nothing."""
    return number


def main(count: int) -> None:
    """Queue so many jobs, and time a worker that runs them."""
    redis = Redis.from_url(os.environ["EIP_RECLAIMER_REDIS_URL"])
    queue = Queue("noop", connection=redis)
    queue.enqueue_many([Queue.prepare_data(nothing, (number,)) for number in range(count)])
    worker = SimpleWorker([queue], connection=redis)
    began, cpu = time.perf_counter(), _cpu()
    worker.work(burst=True, logging_level="WARNING")
    facts = {"seconds": time.perf_counter() - began, "cpu": _cpu() - cpu, "jobs": worker.successful_job_count or count}
    sys.stdout.write(json.dumps(facts) + "\n")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]))
