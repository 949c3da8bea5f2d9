"""Ending the RQ jobs of work that another job took over, in the transaction that records their outcomes.

Such a job would only be started to find its outcome there; a thousand of them are seconds, in which other gateways'
jobs wait. What is written is what RQ writes when a job finishes. One that another worker has in its hands ends there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq.results import Result
from rq.utils import current_timestamp, now, utcformat

from shared.scripts import Script
from workers.bookkeeping import KEEP_FINISHED, stored_value

if TYPE_CHECKING:
    from redis.client import Pipeline

    from shared.models import Outcome

LONGEST_QUEUE = 20_000
"""In a longer queue jobs are not looked for: Redis serves nobody else meanwhile. They end when it is their turn."""

_END = Script(
    KEEP_FINISHED
    + """
local id, job = ARGV[1], 'rq:job:' .. ARGV[1]
local found = redis.call('HMGET', job, 'status', 'origin')
local status, origin = found[1], found[2]
if not origin then return 0 end
if status == 'queued' then
    local queue = 'rq:queue:' .. origin
    if redis.call('LLEN', queue) > tonumber(ARGV[8]) or redis.call('LREM', queue, 1, id) == 0 then return 0 end
elseif status ~= 'scheduled' or redis.call('ZREM', 'rq:scheduled:' .. origin, id) == 0 then
    return 0
end
redis.call('HSET', job, 'status', 'finished', 'started_at', ARGV[3], 'ended_at', ARGV[3], 'worker_name', ARGV[2])
keep_finished(id, origin, ARGV[6], ARGV[7], 'type', ARGV[4], 'worker_name', ARGV[2], 'return_value', ARGV[5])
return 1
"""
)


def end_job(pipe: Pipeline, job_id: str, outcome: Outcome, *, worker: str, keep_seconds: int) -> None:
    """Finish a job that waits in its queue, or for its time, with an outcome as its result.

    Args:
        pipe: the transaction that records the outcome.
        job_id: the job.
        outcome: its result.
        worker: who says so.
        keep_seconds: how long RQ keeps the finished job.
    """
    args = [
        job_id,
        worker,
        utcformat(now()),
        Result.Type.SUCCESSFUL.value,
        stored_value(outcome.value),
        current_timestamp(),
        keep_seconds,
        LONGEST_QUEUE,
    ]
    _END.join(pipe, [], args)
