"""A job that was waited for is opened in the moment it is taken.

It has started then, its gateway is locked, and what is pending there is known. That is one answer of Redis less to wait
for. What else a worker takes is opened by `workers.reclaimer`: jobs from a long queue, where nobody waits for one
release alone, and those that were tried before, which know more than their queue tells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.records import APPEND
from shared.scripts import Script
from workers import bookkeeping
from workers.lock import GatewayLock, new_token
from workers.pending import PENDING, Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rq import Queue
    from rq.executions import Execution
    from rq.worker import BaseWorker

    from shared.queue import WorkQueue
    from shared.settings import Settings

OPEN = (
    bookkeeping.START
    + APPEND
    + PENDING
    + """
local function open(job, gateway, lock, token, milliseconds, record, trace, line, seconds, generation, works, ...)
    local known = {redis.pcall('HGET', record .. job, 'outcome'), pending(generation .. gateway, works .. gateway)}
    -- A script is not rolled back: what is not ours is met before anything is locked.
    for _, answer in ipairs(known) do
        if type(answer) == 'table' and answer.err then return nil end
    end
    append(trace .. job, line, seconds)
    redis.call('SET', lock, token, 'PX', milliseconds)
    start(job, ...)
    return known
end
"""
)
"""Lua: open a job whose gateway nobody has; `Offer.arguments` are its arguments after the lock's key.

Returns nil, and has done nothing, where something is stored that is not ours.
"""

_GIVE_BACK = Script(
    bookkeeping.FORGET
    + """
local job, id, worker, queue = unpack(ARGV, 4)
local gateway = redis.pcall('HGET', ARGV[1] .. job, 'gateway')
if type(gateway) ~= 'string' or redis.pcall('GET', ARGV[2] .. gateway) ~= ARGV[3] then return 0 end
redis.call('DEL', ARGV[2] .. gateway)
forget(job, id, worker, queue)
redis.call('HSET', 'rq:job:' .. job, 'status', 'queued')
redis.call('LPUSH', 'rq:queue:' .. queue, job)
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What Redis said of a job's gateway when the job was taken."""

    gateway: str
    """By the job's record; what the job itself carries may be something else."""
    lock: GatewayLock
    execution: Execution
    outcome: bytes | None
    """The job's, where another job's worker has done its work."""
    pending: Pending

    def take_back(self, queue: Queue) -> None:
        """Undo it all, for a job of that queue which cannot even be read."""
        self.lock.release()
        bookkeeping.forget(self.execution.connection, self.execution, queue.name)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker would open a job with, if its gateway is free."""

    execution: Execution
    queue: Queue
    token: str
    arguments: Sequence[Any]
    locked: Callable[[str], GatewayLock]

    def opened(self, gateway: bytes, answer: Sequence[Any]) -> Opened:
        """What came of it, from the gateway's name and what `OPEN` returned."""
        outcome, pending = answer
        # A name that cannot be one is no work's: its job finds that out.
        name = gateway.decode(errors="replace")
        return Opened(name, self.locked(name), self.execution, outcome, Pending.answered(pending))


class Opener:
    """Opens jobs for one worker."""

    def __init__(self, worker: BaseWorker, work_queue: WorkQueue, settings: Settings, ttl: int) -> None:
        """`ttl` is how long an execution lives that nobody ends, seconds."""
        self._worker = worker
        self._work_queue = work_queue
        self._lifetime = settings.lock_lifetime
        self._ttl = ttl

    def offer(self, job_id: str, queue: Queue) -> Offer:
        """What to open a job of that queue with, now."""
        redis, keys, asked_at = self._work_queue.redis, self._work_queue.keys, time.monotonic()
        token = new_token(self._worker.name)
        execution = bookkeeping.execution_of(job_id, self._worker)
        taken = self._work_queue.records.to_append("taken", worker=self._worker.name, attempt=1)
        arguments = [
            *(token, int(1000 * self._lifetime), keys.record(""), keys.trace(""), *taken),
            *(keys.pending_generation(""), keys.pending("")),
            *bookkeeping.start_arguments(execution, queue.name, self._ttl)[1:],
        ]

        def locked(gateway: str) -> GatewayLock:
            return GatewayLock(redis, keys, gateway, token, self._lifetime, asked_at)

        return Offer(execution, queue, token, arguments, locked)

    def give_back(self, offer: Offer) -> bool:
        """Queue a job again that was opened without an answer: nobody knew that it was; whether it was.

        Raises:
            RedisError: try again later.
        """
        keys, execution = self._work_queue.keys, offer.execution
        who = [execution.job_id, execution.id, execution.worker_name, offer.queue.name]
        arguments = [keys.record(""), keys.lock(""), offer.token, *who]
        return bool(_GIVE_BACK.run(self._work_queue.redis, [], arguments))
