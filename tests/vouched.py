"""What a producer says of the inventory once it has caught up with the API, for tests that have none."""

from __future__ import annotations

from typing import Any

from shared.queue import WorkQueue


def run_id(work_queue: WorkQueue) -> str:
    """Of the Redis server process that is there now."""
    server: Any = work_queue.redis.info("server")
    return str(server["run_id"])


def vouch(work_queue: WorkQueue) -> None:
    """Say that the inventory can be relied on as it is now."""
    work_queue.redis.set(work_queue.keys.vouched, run_id(work_queue))


def is_vouched(work_queue: WorkQueue) -> bool:
    """Whether somebody has said so."""
    stored: bytes | None = work_queue.redis.get(work_queue.keys.vouched)  # type: ignore[assignment]
    return stored is not None and stored.decode() == run_id(work_queue)
