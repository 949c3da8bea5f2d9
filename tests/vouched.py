"""What a producer says of the inventory once it has caught up with the API, for tests that have none."""

from __future__ import annotations

from typing import Any

from shared.queue import WorkQueue
from shared.vouching import ask_if_vouched


def reign(work_queue: WorkQueue) -> str:
    """That of the Redis server that is there now."""
    redis: Any = work_queue.redis
    return f"{redis.info('server')['run_id']}:{redis.info('replication')['master_replid']}"


def vouch(work_queue: WorkQueue) -> None:
    """Say that the inventory can be relied on as it is now, and that a producer follows the API, for ever."""
    work_queue.redis.set(work_queue.keys.vouched, reign(work_queue))
    work_queue.redis.zadd(work_queue.keys.following, {"a producer": "inf"})


def is_vouched(work_queue: WorkQueue) -> bool:
    """Whether workers believe the inventory."""
    with work_queue.redis.pipeline() as pipe:
        ask_if_vouched(pipe, work_queue.keys)
        return bool(pipe.execute()[-1][0])
