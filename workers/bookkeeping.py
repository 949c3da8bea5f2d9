"""What RQ notes of a job that starts, and of one that ends well: one command each, in the caller's transaction.

RQ has 14 commands for the one and 18 for the other. To make, send, read and answer them all took a tenth of the time
that a release takes over netlink. What is stored in the end is what RQ stores, which the tests compare key for key.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.results import Result
from rq.utils import current_timestamp, utcformat
from rq.worker import WorkerStatus

from shared.scripts import Script

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline
    from rq.worker import BaseWorker

START = f"""
local function start(job, id, worker, queue, at, stamp, seconds, ttl)
    local both, key = job .. ':' .. id, 'rq:worker:' .. worker
    local execution, executions = 'rq:execution:' .. both, 'rq:executions:' .. job
    redis.call('HSET', execution, 'id', id, 'job_id', job, 'created_at', at, 'last_heartbeat', at,
        'worker_name', worker)
    redis.call('EXPIRE', execution, ttl)
    redis.call('ZADD', executions, seconds + ttl + 60, id)
    redis.call('EXPIRE', executions, ttl + 60)
    redis.call('ZADD', 'rq:wip:' .. queue, seconds + ttl, both)
    redis.call('SADD', key .. ':executions', both)
    redis.call('HSET', key, 'state', '{WorkerStatus.BUSY.value}', 'last_heartbeat', stamp)
    redis.call('EXPIRE', key, ttl)
    redis.call('EXPIRE', key .. ':executions', ttl)
    redis.call('HSET', 'rq:job:' .. job, 'last_heartbeat', stamp, 'status', '{JobStatus.STARTED.value}',
        'started_at', stamp, 'worker_name', worker)
    redis.call('PERSIST', 'rq:job:' .. job)
    redis.call('LREM', 'rq:queue:' .. queue .. ':intermediate', 1, job)
end
"""
"""Lua: note that a worker has started a job; `start_arguments` are its arguments."""

_START = Script(START + "start(unpack(ARGV))")

KEEP_FINISHED = """
local function keep_finished(job, queue, seconds, ttl, ...)
    local results = 'rq:results:' .. job
    redis.call('EXPIRE', 'rq:job:' .. job, ttl)
    redis.call('XADD', results, 'MAXLEN', '~', '10', '*', ...)
    redis.call('EXPIRE', results, ttl)
    redis.call('ZADD', 'rq:finished:' .. queue, seconds + ttl, job)
end
"""
"""Lua: a job that has finished is kept for `ttl` seconds from `seconds` (since the epoch) on, and so is its result."""

FORGET = """
local function forget(job, id, worker, queue)
    local both = job .. ':' .. id
    redis.call('DEL', 'rq:execution:' .. both)
    redis.call('ZREM', 'rq:wip:' .. queue, both)
    redis.call('ZREM', 'rq:executions:' .. job, id)
    redis.call('SREM', 'rq:worker:' .. worker .. ':executions', both)
end
"""
"""Lua: a job's execution by a worker is over, or never was."""

_FORGET = Script(FORGET + "forget(unpack(ARGV))")

_FINISH = Script(
    KEEP_FINISHED
    + FORGET
    + """
local job, id, worker, queue, started, ended, stamp, seconds, ttl = unpack(ARGV)
local key = 'rq:worker:' .. worker
redis.call('HINCRBY', key, 'successful_job_count', 1)
redis.call('HINCRBYFLOAT', key, 'total_working_time', ARGV[10])
redis.call('HSET', 'rq:job:' .. job, 'status', ARGV[11], 'ended_at', stamp, 'origin', queue, 'timeout', ARGV[12],
    'result_ttl', ttl)
keep_finished(job, queue, seconds, ttl, 'type', ARGV[13], 'worker_name', worker, 'return_value', ARGV[14],
    'execution_id', id, 'execution_started_at', started, 'execution_ended_at', ended)
forget(job, id, worker, queue)
if ARGV[15] == '1' then redis.call('HSET', key, 'state', ARGV[16]) end
"""
)


def start(pipe: Pipeline, job: Job, worker: BaseWorker, ttl: int) -> Execution:
    """Note that a worker has started a job, which is in between its queue and its end from now on.

    Args:
        pipe: the transaction that opens the job's work.
        job: it was taken off the queue in its `origin`.
        worker: whose it is.
        ttl: seconds after which a worker that still has it has died.
    """
    execution = execution_of(job.id, worker)
    _START.join(pipe, [], start_arguments(execution, job.origin, ttl))
    return has_started(job, execution, worker)


def execution_of(job_id: str, worker: BaseWorker) -> Execution:
    """A new execution of a job by a worker, which nobody knows of yet."""
    return Execution(uuid4().hex, job_id, worker.connection, worker.name)


def start_arguments(execution: Execution, queue_name: str, ttl: int) -> list[Any]:
    """What `START` is called with, for a job that was taken off that queue; `ttl` as in `start`."""
    at = execution.created_at
    who = (execution.job_id, execution.id, execution.worker_name, queue_name)
    return [*who, at.timestamp(), utcformat(at), current_timestamp(), ttl]


def has_started(job: Job, execution: Execution, worker: BaseWorker) -> Execution:
    """Let job and worker be as RQ's own functions leave them, once Redis knows of the execution, which is returned."""
    job.worker_name = worker.name
    job.started_at = job.last_heartbeat = worker.last_heartbeat = execution.created_at
    job._status, worker._state = JobStatus.STARTED, WorkerStatus.BUSY
    worker.executions[execution.id] = execution
    return execution


def forget(redis: Redis, execution: Execution, queue_name: str) -> None:
    """Take an execution back, of a job that cannot even be read."""
    _FORGET.run(redis, [], [execution.job_id, execution.id, execution.worker_name, queue_name])


def finish(pipe: Pipeline, job: Job, execution: Execution, worker: BaseWorker) -> None:
    """Note that a started job has ended well, with its `_result`; none of ours has dependents or repeats.

    Args:
        pipe: a transaction.
        job: what RQ calls its result is kept for `result_ttl` seconds, like the job itself.
        execution: what `start` returned.
        worker: whose it was.
    """
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.result_ttl
    worker.executions.pop(execution.id, None)
    job._status = JobStatus.FINISHED  # as RQ's own function leaves it
    idle = not worker.executions
    worker._state = WorkerStatus.IDLE if idle else WorkerStatus.BUSY
    _FINISH.join(
        pipe,
        [],
        [
            *(job.id, execution.id, worker.name, job.origin, execution.created_at.timestamp()),
            *(job.ended_at.timestamp(), utcformat(job.ended_at), current_timestamp(), job.result_ttl),
            *((job.ended_at - job.started_at).total_seconds(), JobStatus.FINISHED.value, job.timeout),
            *(Result.Type.SUCCESSFUL.value, stored_value(job._result), int(idle), WorkerStatus.IDLE.value),
        ],
    )


def stored_value(result: object) -> str:
    """A job's result as RQ stores it."""
    return b64encode(json.dumps(result).encode()).decode()
