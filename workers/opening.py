"""A job that was waited for is opened in the moment it is taken.

It has started then, its gateway is locked, and what is pending there is known; where its release is likely to find its
address, owners are asked for as well (`workers.ahead`). Each is one answer of Redis less to wait for.

What else a worker takes is opened by `workers.reclaimer`: jobs that were there before anybody waited for them, and
those that were tried before, which know more than their queue tells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.records import APPEND
from shared.scripts import Script
from workers import bookkeeping
from workers.ahead import ASK_AHEAD, FORGET_ASKED, Ahead, asking
from workers.intents import Intents
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
    + ASK_AHEAD
    + """
local function open(job, gateway, lock, token, lifetime, record, trace, line, seconds, generation, works, more, ...)
    local fields = redis.pcall('HMGET', record .. job, 'outcome', 'payload')
    local found = pending(generation .. gateway, works .. gateway)
    -- A script is not rolled back: what is not ours is met before anything is locked.
    if fields.err or found.err then return nil end
    append(trace .. job, line, seconds)
    redis.call('SET', lock, token, 'PX', lifetime)
    more = tonumber(more)
    start(job, unpack({...}, more + 1))
    local asked = more > 0 and not fields[1] and ask_ahead(job, gateway, fields[2], found[2], ...)
    return {fields[1], found, asked}
end
"""
)
"""Lua: open a job whose gateway nobody has; `Offer.arguments` are its arguments after the lock's key.

What `Offer.opened` reads: an outcome, what is pending, and what was asked ahead with the first `more` arguments.
Returns nil, and has done nothing, where something is stored that is not ours.
"""

_GIVE_BACK = Script(
    bookkeeping.FORGET
    + FORGET_ASKED
    + """
local job, id, worker, queue, intents, intent = unpack(ARGV, 4)
local gateway = redis.pcall('HGET', ARGV[1] .. job, 'gateway')
if type(gateway) ~= 'string' or redis.pcall('GET', ARGV[2] .. gateway) ~= ARGV[3] then return 0 end
redis.call('DEL', ARGV[2] .. gateway)
forget(job, id, worker, queue)
local read, work = pcall(cjson.decode, redis.call('HGET', ARGV[1] .. job, 'payload'))
if read and type(work) == 'table' and type(work.addresses) == 'table' then
    forget_asked(gateway, work.addresses, intents, intent)
end
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
    ahead: Ahead | None = None
    """What was asked ahead for its release."""

    def let_go(self) -> None:
        """Leave the gateway to others, and nothing behind that was asked ahead in vain; nothing is done twice."""
        if self.ahead is not None:
            self.ahead.drop()
        self.lock.release()

    def take_back(self, queue: Queue) -> None:
        """Undo it all, for a job of that queue which cannot even be read."""
        self.let_go()
        bookkeeping.forget(self.execution.connection, self.execution, queue.name)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker would open a job with, if its gateway is free."""

    execution: Execution
    queue: Queue
    token: str
    intent: str
    """Recorded where something was asked ahead."""
    arguments: Sequence[Any]
    locked: Callable[[str], GatewayLock]
    ahead: Callable[[str, Sequence[Any]], Ahead]

    def opened(self, gateway: bytes, answer: Sequence[Any]) -> Opened:
        """What came of it, from the gateway's name and what `OPEN` returned."""
        outcome, pending, asked = answer
        # A name that cannot be one is no work's: its job finds that out.
        name = gateway.decode(errors="replace")
        ahead = self.ahead(name, asked) if asked else None
        return Opened(name, self.locked(name), self.execution, outcome, Pending.answered(pending), ahead)


class Opener:
    """Opens jobs for one worker."""

    def __init__(
        self,
        worker: BaseWorker,
        work_queue: WorkQueue,
        settings: Settings,
        ttl: int,
        ask_ahead: Callable[[], bool] = lambda: False,
    ) -> None:
        """Open jobs for `worker`.

        Args:
            worker: whose they are then.
            work_queue: where they are.
            settings: for the lock and the intents.
            ttl: how long an execution lives that nobody ends, seconds.
            ask_ahead: whether it is worth asking ahead, for a release.
        """
        self._worker = worker
        self._work_queue = work_queue
        self._lifetime = settings.lock_lifetime
        self._ttl = ttl
        self._ask_ahead = ask_ahead
        self._intents = Intents(work_queue.redis, work_queue.keys, settings.intent_lifetime)

    def offer(self, job_id: str, queue: Queue) -> Offer:
        """What to open a job of that queue with, now."""
        redis, keys, asked_at = self._work_queue.redis, self._work_queue.keys, time.monotonic()
        token = new_token(self._worker.name)
        execution = bookkeeping.execution_of(job_id, self._worker)
        taken = self._work_queue.records.to_append("taken", worker=self._worker.name, attempt=1)
        intent = self._intents.unplaced(job_id)
        asked = asking(keys, self._intents, intent) if self._ask_ahead() else []
        arguments = [
            *(token, int(1000 * self._lifetime), keys.record(""), keys.trace(""), *taken),
            *(keys.pending_generation(""), keys.pending("")),
            *(len(asked), *asked),
            *bookkeeping.start_arguments(execution, queue.name, self._ttl)[1:],
        ]

        def locked(gateway: str) -> GatewayLock:
            return GatewayLock(redis, keys, gateway, token, self._lifetime, asked_at)

        def ahead(gateway: str, answer: Sequence[Any]) -> Ahead:
            return Ahead(redis, keys, gateway, intent, asked_at, answer)

        return Offer(execution, queue, token, intent, arguments, locked, ahead)

    def give_back(self, offer: Offer) -> bool:
        """Queue a job again that was opened without an answer: nobody knew that it was; whether it was.

        Raises:
            RedisError: try again later.
        """
        keys, execution = self._work_queue.keys, offer.execution
        who = [execution.job_id, execution.id, execution.worker_name, offer.queue.name]
        meant = [keys.intent("%s", "%s"), offer.intent]
        arguments = [keys.record(""), keys.lock(""), offer.token, *who, *meant]
        return bool(_GIVE_BACK.run(self._work_queue.redis, [], arguments))
