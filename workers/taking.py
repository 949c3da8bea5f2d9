"""Which job a worker takes next: the first one whose gateway nobody works on.

Whoever has a gateway takes over what is pending there, and ends those jobs with its own (`workers.ending`). So a job
whose gateway is being worked on is left where it is: whoever took it could only hand it back. That is what keeps a
thousand releases of one gateway from standing in the way of another gateway's one, and it keeps the queue's order in
all else; but a job that comes while a worker waits behind those of busy gateways is that worker's at once.

A gateway counts as worked on from the moment one of its jobs is taken, for as long as it takes to ask for its lock; a
job that was waited for is taken together with it (`workers.opening`).
A job is off the queue and in RQ's intermediate queue in one step, so that none is lost with a worker that dies then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.suspension import WORKERS_SUSPENDED

from shared.log import get_logger
from shared.scripts import Script
from workers.opening import OPEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.client import Pipeline
    from rq import Queue

    from shared.keys import Keys
    from workers.jobs import ReclaimJob
    from workers.opening import Offer, Opener
    from workers.unbreakable import UnbreakableQueue

log = get_logger(__name__)

LOOKED_THROUGH = 5000
"""Jobs of busy gateways that are passed over at most: Redis serves nobody else meanwhile."""
BUSY_PAUSE = 0.02
"""How soon the queue is looked at again where all its jobs are of busy gateways, seconds."""
NEWS_PAUSE = 0.003
"""How soon it is seen meanwhile that another job has come, seconds."""
NEWEST = 50
"""How many of a queue's last jobs are looked at where more than one has come."""
TAKEN_SECONDS = 1.0
"""How long a gateway counts as worked on whose worker has not asked for its lock yet, and may have died."""
PAUSE_PER_PASSED = 1e-5
"""How much later for each job that has to be passed over, so that looking takes Redis a tenth of its time at most."""

_STORED = """
local function stored(id)
    local found = redis.pcall('HGETALL', 'rq:job:' .. id)
    -- Where something else is stored, there is no job.
    return found.err and {} or found
end
"""

_TAKE = Script(
    _STORED
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 'suspended' end
local busy, passed = {}, 0
for number = 2, #KEYS do
    local queue, start = KEYS[number], tonumber(ARGV[6])
    while passed < tonumber(ARGV[5]) do
        local ids = redis.call('LRANGE', queue, start, start < 0 and -1 or start + 49)
        for _, id in ipairs(ids) do
            local gateway = redis.pcall('HGET', ARGV[1] .. id, 'gateway')
            -- A record that is none, whoever wrote it, says nothing.
            if type(gateway) ~= 'string' then gateway = nil end
            if gateway and busy[gateway] == nil then
                busy[gateway] = redis.call('EXISTS', ARGV[2] .. gateway, ARGV[3] .. gateway) > 0
            end
            if not gateway or not busy[gateway] then
                if gateway then redis.call('SET', ARGV[3] .. gateway, id, 'PX', ARGV[4]) end
                redis.call('LREM', queue, 1, id)
                redis.call('RPUSH', queue .. ':intermediate', id)
                return {queue, id, stored(id)}
            end
            passed = passed + 1
        end
        if start < 0 or #ids < 50 then break end
        start = start + 50
    end
end
-- In the same moment, so that no job comes unseen between this look and the next.
local first, last = {}, {}
for number = 2, #KEYS do
    first[number - 1] = redis.call('LRANGE', KEYS[number], 0, 0)
    last[number - 1] = redis.call('LRANGE', KEYS[number], -1, -1)
end
return {passed, first, last}
"""
)

_UNLESS_BUSY = Script(
    _STORED
    + OPEN
    + """
local job, how = ARGV[5], ARGV[6]
local found, gateway = stored(job), redis.pcall('HGET', ARGV[1] .. job, 'gateway')
local named = type(gateway) == 'string'
local lock, taken = named and ARGV[2] .. gateway, named and ARGV[3] .. gateway
local busy = named and redis.call('EXISTS', lock, taken) > 0
if how == 'queued' then
    if busy or redis.call('EXISTS', KEYS[3]) == 1 or redis.call('LREM', KEYS[1], -1, job) == 0 then return false end
elseif busy then
    if how == 'popped' or redis.call('LREM', KEYS[2], 1, job) == 1 then redis.call('LPUSH', KEYS[1], job) end
    return false
end
if how ~= 'moved' then redis.call('RPUSH', KEYS[2], job) end
if not named then return {found} end
-- What was tried before has something in its meta.
if #ARGV > 6 and #found > 0 and redis.call('HEXISTS', 'rq:job:' .. job, 'meta') == 0 then
    local opened = open(job, gateway, lock, unpack(ARGV, 7))
    if opened then return {found, gateway, opened} end
end
redis.call('SET', taken, job, 'PX', ARGV[4])
return {found}
"""
)


class SuspendedError(Exception):
    """Somebody suspended all workers of this Redis (`rq suspend`)."""


class Taker:
    """Takes jobs off some queues, the first one's before those of the others."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        queues: Sequence[UnbreakableQueue],
        job_class: type[ReclaimJob],
        opener: Opener | None = None,
    ) -> None:
        """With an `opener`, a job that is waited for is opened as it is taken where that can be (`workers.opening`)."""
        self._redis = redis
        self._opener = opener
        self._unanswered: Offer | None = None
        """What a job may have been opened with that we never heard of."""
        self._queues = queues
        self._job_class = job_class
        self._args = [keys.record(""), keys.lock(""), keys.taken(""), int(1000 * TAKEN_SECONDS)]
        self._passed = 0
        """How many jobs the last look passed over."""
        self._first: list[list[bytes]] = []
        self._last: list[list[bytes]] = []
        """Each queue's first and last job at that moment, if it has one."""

    def take(self, pipe: Pipeline) -> tuple[ReclaimJob, Queue] | None:
        """The next job that can be worked on now; None where there is none.

        Args:
            pipe: what else Redis is to be told, in the same round trip.

        Raises:
            SuspendedError: no job is to be taken.
        """
        return self._take(pipe, 0)

    def _take(self, pipe: Pipeline, start: int) -> tuple[ReclaimJob, Queue] | None:
        self._settle_unanswered()
        keys = [WORKERS_SUSPENDED, *(queue.key for queue in self._queues)]
        while True:
            _TAKE.join(pipe, keys, [*self._args, LOOKED_THROUGH, start])
            taken = pipe.execute()[-1]
            if taken == b"suspended":
                raise SuspendedError
            if isinstance(taken[0], int):
                self._passed, self._first, self._last = taken
                return None
            found = self._read(taken[0].decode(), taken[1].decode(), taken[2])
            if found is not None:
                return found

    def wait(self, seconds: float) -> tuple[ReclaimJob, Queue] | None:
        """Right after `take` found none: wait for a job that comes.

        Args:
            seconds: how long at most.

        Returns:
            the job; None when it is time to `take` again.
        """
        if self._passed:
            return self._wait_behind(min(BUSY_PAUSE + PAUSE_PER_PASSED * self._passed, seconds))
        key, job_id, how = self._blocking(seconds)
        return None if job_id is None else self._unless_busy(key, job_id, how)

    def _wait_behind(self, seconds: float) -> tuple[ReclaimJob, Queue] | None:
        """Wait for a job that comes behind those of busy gateways; when one is free again, nobody says so."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(NEWS_PAUSE, left))
            first, last_two = self._ends()
            if first != self._first:
                # One came that is to be taken before all others, or those that were passed over are fewer.
                return None
            before, self._last = self._last, [two[-1:] for two in last_two]
            if self._last == before:
                continue
            newcomer = self._only_newcomer(before, last_two)
            if newcomer is not None:
                found = self._unless_busy(*newcomer, "queued")
            else:
                with self._redis.pipeline(transaction=False) as pipe:
                    found = self._take(pipe, -NEWEST)
            if found is not None or not self._passed:
                return found
        return None

    def _only_newcomer(self, before: list[list[bytes]], last_two: list[list[bytes]]) -> tuple[str, str] | None:
        """Queue and id of the one job that came, where it is one; `before` is each queue's last at the look before."""
        changed = [each for each in zip(self._queues, before, last_two, strict=True) if each[1] != each[2][-1:]]
        queue, last, two = changed[0]
        return (queue.key, two[-1].decode()) if len(changed) == 1 and two and two[:-1] == last else None

    def _unless_busy(self, key: str, job_id: str, how: str) -> tuple[ReclaimJob, Queue] | None:
        """That job, opened where that can be; None where its gateway is busy, or another worker has taken it.

        Args:
            key: of its queue.
            job_id: the job.
            how: whether it is "queued" yet, was "popped" off its queue, or "moved" to the intermediate queue.
        """
        queue = self._queue(key)
        offer = self._opener.offer(job_id, queue) if self._opener is not None else None
        arguments = [*self._args, job_id, how, *(offer.arguments if offer is not None else ())]
        try:
            answer = _UNLESS_BUSY.run(self._redis, [key, f"{key}:intermediate", WORKERS_SUSPENDED], arguments)
        except (RedisConnectionError, RedisTimeoutError):
            self._unanswered = offer
            raise
        if answer is None:
            return None
        stored, *opening = answer
        found = self._read(key, job_id, stored)
        if offer is not None and opening:
            opened = offer.opened(*opening)
            if found is not None:
                found[0].opened = opened
            else:
                opened.take_back(queue)
        return found

    def _settle_unanswered(self) -> None:
        """See that no gateway stays locked for a job that was opened while Redis was lost."""
        if self._unanswered is None or self._opener is None:
            return
        if self._opener.give_back(self._unanswered):
            log.warning("job queued again, redis was lost as it was taken", work=self._unanswered.execution.job_id)
        self._unanswered = None

    def _ends(self) -> tuple[list[list[bytes]], list[list[bytes]]]:
        """Each queue's first job, and its last two, as far as it has them."""
        with self._redis.pipeline(transaction=False) as pipe:
            for queue in self._queues:
                pipe.lrange(queue.key, 0, 0)
                pipe.lrange(queue.key, -2, -1)
            found: list[list[bytes]] = pipe.execute()
        return found[::2], found[1::2]

    def _blocking(self, seconds: float) -> tuple[str, str | None, str]:
        """The queue, the job, and whether it was moved to the intermediate queue or has yet to be put there."""
        keys = [queue.key for queue in self._queues]
        found: Any
        if len(keys) == 1:
            found = self._redis.blmove(keys[0], f"{keys[0]}:intermediate", seconds)  # type: ignore[arg-type]
            return keys[0], found.decode() if found else None, "moved"
        # Redis cannot wait for one of several lists and move: who dies now leaves it to who looks for orphans.
        found = self._redis.blpop(keys, seconds)
        return (found[0].decode(), found[1].decode(), "popped") if found else (keys[0], None, "")

    def _read(self, key: str, job_id: str, stored: list[bytes]) -> tuple[ReclaimJob, Queue] | None:
        return self._queue(key).read(job_id, dict(zip(stored[::2], stored[1::2], strict=True)), self._job_class)

    def _queue(self, key: str) -> UnbreakableQueue:
        return next(each for each in self._queues if each.key == key)
