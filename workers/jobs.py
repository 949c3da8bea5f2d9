"""What a worker may run: the allow-list of job functions, checked before anything is imported or called.

RQ imports and calls whatever dotted name a job carries, and its callbacks, and posts to whatever webhook it names;
whoever can write to Redis could make a worker run anything. So `ReclaimJob` knows one function by its name, takes one
argument of it, and has no callbacks and no webhooks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.client import Pipeline
from rq import Queue
from rq.job import Job, JobStatus

from shared.errors import InvalidPayloadError
from shared.models import Work, parse_work
from shared.queue import JOB_FUNCTION
from workers.ahead import Ahead
from workers.failures import Verdict
from workers.opening import Opened

MAX_JOB_BYTES = 16_384
"""A job of ours is a few hundred bytes."""


def run(**_payload: object) -> None:
    """Stand behind the function's name for RQ's tools; jobs are run by `ReclaimWorker`.

    Raises:
        RuntimeError: always, because somebody started a plain `rq worker` on this queue.
    """
    raise RuntimeError("jobs of this queue are run by `eip-reclaimer worker`, not by `rq worker`")


class ReclaimJob(Job):
    """A job as this project's workers see it."""

    do: Callable[[Work, ReclaimJob], object]
    """Set by the worker: does the work; what it returns is the job's result."""
    request: Callable[[Ahead], object]
    """Set by the worker: requests of the API what the work will need, while it is read."""
    opening: Pipeline | None = None
    """Set by the worker: what Redis is told when the job starts; goes along with the first that it is asked."""
    opened: Opened | None = None
    """Set where the job was opened as it was taken; then nothing is told when it starts."""
    verdict: Verdict | None = None
    """What the worker decided about the last error."""
    retry_at: float | None = None
    """When it is tried again, seconds since the epoch; None when it is not."""

    def work(self) -> Work:
        """The work the job carries.

        Raises:
            InvalidPayloadError: it carries something else, or names another function.
            DeserializationError: what it carries is not what RQ writes.
        """
        if len(self.data) > MAX_JOB_BYTES:
            raise InvalidPayloadError(f"the job carries {len(self.data)} bytes; a job of ours has a few hundred")
        args, kwargs = self.args, self.kwargs
        if self.func_name != JOB_FUNCTION or self.instance is not None:
            raise InvalidPayloadError(
                f"the job asks for {self.func_name!r}, which workers do not run. Find out who can write to this Redis, "
                "then drop the job."
            )
        if args or not isinstance(kwargs, dict) or set(kwargs) != {"payload"}:
            raise InvalidPayloadError("the job's arguments are not those of a job of ours")
        work = parse_work(kwargs["payload"])
        if work.id != self.id:
            raise InvalidPayloadError(f"the job's id and that of its payload ({work.id}) are not the same")
        return work

    def _execute(self) -> Any:
        if self.opened is not None and self.opened.ahead is not None:
            self.request(self.opened.ahead)
        return self.do(self.work(), self)

    @property
    def func(self) -> Any:
        """Never imported."""
        return run

    @property
    def success_callback(self) -> None:
        """None of ours has one; a forged one is not called."""
        return

    @property
    def failure_callback(self) -> None:
        """None of ours has one; a forged one is not called."""
        return

    @property
    def stopped_callback(self) -> None:
        """None of ours has one; a forged one is not called."""
        return

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Post nowhere: none of ours has webhooks."""

    @property
    def should_retry(self) -> bool:
        """Whether the worker decided to try it again."""
        return self.retry_at is not None

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """Schedule the next try, in the transaction that ends this one."""
        self.schedule(queue, pipeline, self.retry_at or time.time())

    def schedule(self, queue: Queue, pipeline: Pipeline, at: float) -> None:
        """Let the job be queued again at a time (seconds since the epoch)."""
        self.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
        self.save(pipeline=pipeline, include_meta=True, include_result=False)
        # RQ's own schedule() counts in whole seconds.
        pipeline.zadd(queue.scheduled_job_registry.key, {self.id: at})
