"""What the shell completes beside commands and options: ids of jobs, where Redis tells them at once.

A Redis that is away or slow completes nothing: whoever presses Tab wants neither to wait nor to read of it.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.settings import Settings

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
    """What Redis tells within our patience, which begins once all is loaded that is needed to ask."""
    import shared.connection
    import shared.queue  # noqa: F401
    from shared.settings import load_settings

    found: list[str] = []
    # Whatever goes wrong, here as there: there is nobody to be told.
    with suppress(Exception):
        asking = threading.Thread(target=_ask, args=(load_settings(), registries, found), daemon=True)
        asking.start()
        asking.join(PATIENCE_SECONDS)
    return [job_id for job_id in list(found) if job_id.startswith(incomplete) and job_id.isprintable()]


def _ask(settings: Settings, registries: tuple[str, ...], found: list[str]) -> None:
    from cli.options import open_queue

    with suppress(Exception):
        work_queue = open_queue(settings)
        for name in work_queue.names():
            queue = work_queue.open(name)
            for registry in registries:
                stored: list[bytes] = work_queue.redis.zrange(getattr(queue, registry).key, 0, MOST - 1, desc=True)  # type: ignore[assignment]
                found += [entry.decode(errors="surrogateescape").partition(":")[0] for entry in stored]
