"""What the shell completes beside commands and options: ids of jobs, where Redis tells them at once.

A Redis that is away or slow completes nothing: whoever presses Tab wants neither to wait nor to read of it.
"""

from __future__ import annotations

import threading
from contextlib import suppress

PATIENCE_SECONDS = 0.5
MOST = 200
"""More are no help."""


def failed_jobs(incomplete: str) -> list[str]:
    """Ids of failed jobs, those that failed last."""
    return _soon(("failed_job_registry",), incomplete)


def trace_terms(incomplete: str) -> list[str]:
    """Ids of jobs that failed, wait for their next try, or are running."""
    return _soon(("failed_job_registry", "scheduled_job_registry", "started_job_registry"), incomplete)


def _soon(registries: tuple[str, ...], incomplete: str) -> list[str]:
    found: list[str] = []
    asking = threading.Thread(target=_ask, args=(registries, found), daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return [job_id for job_id in list(found) if job_id.startswith(incomplete) and job_id.isprintable()]


def _ask(registries: tuple[str, ...], found: list[str]) -> None:
    # Whatever goes wrong: there is nobody here to be told.
    with suppress(Exception):
        from cli.options import open_queue
        from shared.settings import load_settings

        work_queue = open_queue(load_settings())
        for name in work_queue.names():
            queue = work_queue.open(name)
            for registry in registries:
                ids = work_queue.redis.zrange(getattr(queue, registry).key, 0, MOST - 1, desc=True)
                found.extend(job_id.decode().partition(":")[0] for job_id in ids)  # type: ignore[union-attr]
