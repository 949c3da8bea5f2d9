"""Getting jobs going again: retries that are due, jobs whose worker died, work whose job was lost.

Every worker does this, and each step is atomic or harmless when done twice, so nothing depends on one process being
alive. RQ's own scheduler and registry maintenance would do part of it, minutes late (kube-ovn-facts, §5).
"""

from __future__ import annotations

import time
from typing import cast

from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from shared.errors import InvalidPayloadError
from shared.log import get_logger
from shared.models import parse_work
from shared.queue import WorkQueue
from workers.jobs import ReclaimJob
from workers.unbreakable import UnbreakableQueue

log = get_logger(__name__)

STRANDED_SECONDS = 5.0
"""A job that was taken off the queue so long ago without being started has lost its worker in between."""
LOCKLESS_SECONDS = 1.5
"""A job that runs for so long while nobody has its gateway's lock has lost its worker, and the worker its lock."""
ORPHANED_SECONDS = 5.0
"""A job that should be queued, and was in no list so long ago and is not now, was lost with a worker."""
BATCH = 500

_PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(due) do
    redis.call('ZREM', KEYS[1], id)
    local job = 'rq:job:' .. id
    if redis.call('EXISTS', job) == 1 then
        redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[3])
        if string.sub(id, 1, 8) == 'confirm-' then
            redis.call('LPUSH', KEYS[2], id)
        else
            redis.call('RPUSH', KEYS[2], id)
        end
    end
end
return #due
"""

_REQUEUE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', 'rq:job:' .. ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
"""

_FORGET_IF_EMPTY = "if redis.call('HLEN', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[1]) end"


class Recovery:
    """Recovers the jobs of some queues."""

    def __init__(self, redis: Redis, work_queue: WorkQueue, queues: list[UnbreakableQueue]) -> None:
        self._redis = redis
        self._work_queue = work_queue
        self._queues = queues
        self._promote = redis.register_script(_PROMOTE)
        self._requeue = redis.register_script(_REQUEUE)
        self._forget_if_empty = redis.register_script(_FORGET_IF_EMPTY)
        self._stranded_since: dict[str, float] = {}
        self._lockless_since: dict[str, float] = {}
        self._missing_since: dict[str, float] = {}

    def promote_due(self) -> int:
        """Queue the jobs whose time has come; how many."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        return sum(
            int(
                self._promote(
                    keys=[queue.scheduled_job_registry.key, queue.key], args=[repr(time.time()), BATCH, stamp]
                )
            )
            for queue in self._queues
        )

    def take_abandoned(self) -> list[ReclaimJob]:
        """Take jobs out of the started registry whose worker stopped answering; the jobs, still unqueued."""
        abandoned = []
        lockless = set()
        for queue in self._queues:
            registry = queue.started_job_registry
            entries: list[tuple[bytes, float]] = self._redis.zrange(registry.key, 0, -1, withscores=True)  # type: ignore[assignment]
            for name, expires in entries:
                entry = name.decode()
                job_id = registry.parse_job_id(entry)
                if not self._is_locked(job_id):
                    lockless.add(entry)
                if expires > time.time() and not self._lost_its_lock(entry, lockless):
                    continue
                if not self._redis.zrem(registry.key, entry):
                    continue
                # One that cannot be read fails with that.
                found = queue.read(job_id, self._redis.hgetall(ReclaimJob.key_for(job_id)), ReclaimJob)  # type: ignore[arg-type]
                if found is not None and found[0].get_status(refresh=False) == JobStatus.STARTED:
                    abandoned.append(found[0])
        self._lockless_since = {entry: at for entry, at in self._lockless_since.items() if entry in lockless}
        return abandoned

    def requeue_stranded(self) -> None:
        """Queue jobs again that a worker took off the queue and did not live to start."""
        now = time.monotonic()
        present = set()
        for queue in self._queues:
            started = {queue.started_job_registry.parse_job_id(entry) for entry in self._started(queue)}
            for job_id in queue.intermediate_queue.get_job_ids():
                present.add(job_id)
                since = self._stranded_since.setdefault(job_id, now)
                if job_id in started or now - since < STRANDED_SECONDS:
                    continue
                if self._requeue(keys=[queue.intermediate_queue_key, queue.key], args=[job_id]):
                    log.warning("job queued again, its worker died before starting it", work=job_id)
        self._stranded_since = {job_id: since for job_id, since in self._stranded_since.items() if job_id in present}

    def requeue_orphans(self) -> None:
        """See that every piece of pending work has a job that will come to it."""
        keys = self._work_queue.keys
        missing: set[str] = set()
        listed = self._listed()
        for name in self._redis.sscan_iter(keys.pending_gateways):
            gateway = cast("bytes", name).decode()
            pending = {work_id.decode(): text for work_id, text in self._redis.hscan_iter(keys.pending(gateway))}
            for work_id, status in self._statuses(list(pending)).items():
                if status == JobStatus.QUEUED:
                    if work_id not in listed and self._see_that_queued(work_id):
                        missing.add(work_id)
                elif status not in (JobStatus.STARTED, JobStatus.SCHEDULED):
                    self._see_to(gateway, work_id, pending[work_id], has_job=status is not None)
            self._forget_if_empty(keys=[keys.pending(gateway), keys.pending_gateways], args=[gateway])
        self._missing_since = {work_id: at for work_id, at in self._missing_since.items() if work_id in missing}

    def _listed(self) -> set[str]:
        """The jobs on our queues and in between, in that order: a job that is taken meanwhile is in one of them."""
        found: set[str] = set()
        for queue in self._queues:
            for key in (queue.key, queue.intermediate_queue_key):
                entries: list[bytes] = self._redis.lrange(key, 0, -1)  # type: ignore[assignment]
                found |= {entry.decode() for entry in entries}
        return found

    def _statuses(self, job_ids: list[str]) -> dict[str, str | None]:
        """Of each job; None where there is no such job."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(ReclaimJob.key_for(job_id), "status")
            answers: list[bytes | None] = pipe.execute()
        return {job_id: text.decode() if text else None for job_id, text in zip(job_ids, answers, strict=True)}

    def _see_to(self, gateway: str, work_id: str, payload: bytes, *, has_job: bool) -> None:
        """Publish pending work again that has no job, and forget what has ended."""
        if not has_job:
            try:
                work = parse_work(payload)
            except InvalidPayloadError as error:
                log.error("pending entry rejected", work=work_id, reason=str(error))
            else:
                if self._work_queue.records.outcome(work_id) is None and work.id == work_id:
                    self._work_queue.publish_now([work], "published again", why="its job was lost")
                    return
        self._redis.hdel(self._work_queue.keys.pending(gateway), work_id)

    def _see_that_queued(self, job_id: str) -> bool:
        """See to a job that should be queued and is in none of our lists; whether it is in no other either."""
        job = self._job(job_id)
        if job is None:
            return False
        queue = self._work_queue.open(job.origin)
        if any(self._redis.lpos(key, job_id) is not None for key in (queue.key, queue.intermediate_queue_key)):
            return False
        now = time.monotonic()
        if now - self._missing_since.setdefault(job_id, now) >= ORPHANED_SECONDS:
            log.warning("job queued again, it was in no list", work=job_id)
            queue.push_job_id(job_id)
            return False
        return True

    def _is_locked(self, job_id: str) -> bool:
        """Whether somebody has the gateway that a job is about; where it is about none, its time tells alone."""
        gateway = self._work_queue.records.field(job_id, "gateway")
        return not gateway or bool(self._redis.exists(self._work_queue.keys.lock(gateway)))

    def _lost_its_lock(self, entry: str, lockless: set[str]) -> bool:
        """Whether a started job has been without a lock at each look for a while: for moments it always is."""
        now = time.monotonic()
        return entry in lockless and now - self._lockless_since.setdefault(entry, now) >= LOCKLESS_SECONDS

    def _started(self, queue: Queue) -> list[str]:
        entries: list[bytes] = self._redis.zrange(queue.started_job_registry.key, 0, -1)  # type: ignore[assignment]
        return [entry.decode() for entry in entries]

    def _job(self, job_id: str) -> ReclaimJob | None:
        try:
            job = ReclaimJob.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return None
        return cast("ReclaimJob", job)
