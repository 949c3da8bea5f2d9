"""The RQ worker: takes jobs, lets the `Reclaimer` do them, and decides what becomes of what did not end in an outcome.

It runs jobs in its own process, with warm connections: a job is a few requests and netlink messages long, and mostly
waits for their answers. So a worker has several threads, each with a job and a gateway's lock of its own, as several
workers would have. One thread at a time waits for the next job, and works on it itself. To RQ they are one worker with
several executions.

A worker that dies in the middle of jobs is noticed when their gateways' locks have run out, and others take them over.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, worker_registration
from rq.executions import Execution
from rq.job import Job, Retry
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import SimpleWorker, WorkerStatus
from structlog.contextvars import bind_contextvars, clear_contextvars

from shared.endpoint import Pulse
from shared.errors import TransientError
from shared.log import get_logger, named
from shared.metrics import (
    JOB_RETRIES,
    JOB_SECONDS,
    JOBS_FAILED,
    JOBS_POSTPONED,
    JOBS_STARTED,
    TAKEOVERS,
    count_job_error,
)
from shared.models import Work
from shared.queue import WorkQueue, describe
from shared.settings import Settings
from workers import bookkeeping
from workers.deadline import Deadline
from workers.failures import ElsewhereError, GatewayBusyError, NotNowError, Verdict, backoff, classify
from workers.jobs import ReclaimJob
from workers.opening import Opener
from workers.reclaimer import Reclaimer
from workers.recovery import Recovery
from workers.taking import SuspendedError, Taker
from workers.unbreakable import UnbreakableQueue

if TYPE_CHECKING:
    from shared.kube.events import EventRecorder
    from workers.lock import GatewayLock

log = get_logger(__name__)

WAIT_SECONDS = 1
"""How late a worker without a job ends when it is told to."""
ALONE_SECONDS = 0.006
"""How long a job that was waited for has the interpreter to itself: about as long as it takes over netlink until the
address is gone. A thread that looked for the next job meanwhile would take a tenth of that time from it."""
HEARTBEAT_SECONDS = 5.0
IDLE_SECONDS = 30.0
"""A thread without a job for so long sees to it that the driver lets go of what none has used for as long."""
RECONNECT_SECONDS = 1.0
MAINTENANCE_SECONDS = 2
ORPHANS_SECONDS = 10
DUE_SECONDS = 0.25
"""How late a due retry is at most, while any worker lives."""
OVERTIME_SECONDS = 5
"""How long after its timeout a job is taken from its worker."""
DIED = Verdict(
    transient=True, reason="the worker that ran the job died or was stopped for too long", error="WorkerDied"
)
TOLD = ("taken", "waits_for")
"""What a job's meta remembers as traced already, until the next try."""


class Again(Retry):
    """What a job returns that is to be run again without costing it a retry."""

    def __init__(self, seconds: float, queue_name: str | None = None) -> None:
        """`seconds` from now, or at once on another queue."""
        super().__init__(max=1)
        self.seconds = seconds
        self.queue_name = queue_name


class ReclaimWorker(SimpleWorker):
    """Takes jobs from the general queue, and with `netlink` from its node's own.

    The overrides take a `ReclaimJob` where RQ says `Job`: RQ hands this worker jobs of its `job_class` only.
    """

    job_class = ReclaimJob
    death_penalty_class = Deadline

    def __init__(
        self,
        work_queue: WorkQueue,
        reclaimer: Reclaimer,
        settings: Settings,
        name: str,
        stop: threading.Event,
        events: EventRecorder | None = None,
    ) -> None:
        """`stop` ends the worker once its job is done."""
        self._pulses: dict[int, Pulse] = {}
        """By thread, of the loop that takes jobs."""
        self.redis_pulse = Pulse()
        """Of Redis, as far as it answers."""
        self._events = events
        self._work_queue = work_queue
        self._reclaimer = reclaimer
        self._settings = settings
        names = [work_queue.name]
        if settings.driver == "netlink" and settings.node_name:
            names.insert(0, work_queue.node_queue(settings.node_name))
        redis = work_queue.redis
        queues = [UnbreakableQueue(n, connection=redis, serializer=JSONSerializer, job_class=ReclaimJob) for n in names]
        super().__init__(
            list(queues),
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            queue_class=UnbreakableQueue,
            worker_ttl=20,
            maintenance_interval=MAINTENANCE_SECONDS,
        )
        self._recovery = Recovery(redis, work_queue, queues)
        self._overdue = settings.job_timeout + OVERTIME_SECONDS
        """When a job that is still running has lost its worker, seconds from its start."""
        opener = Opener(self, work_queue, settings, self._overdue, lambda: reclaimer.asks_ahead)
        self._taker = Taker(redis, work_queue.keys, queues, ReclaimJob, opener)
        self._taking = threading.Lock()
        """Held by the thread that waits for the next job, and sees to what is to be done now and then."""
        self._look_again_at = float("-inf")
        """When the next job is looked for at the earliest, on the monotonic clock."""
        self._broken = threading.Event()
        """Set when one thread cannot go on: then none does, and whoever runs the worker starts it anew."""
        self._completed = 0
        self._heard_of = float("-inf")
        """When RQ was told last that the worker lives, on the monotonic clock."""
        self._orphans_checked = self._cleaned = time.monotonic()
        self._maintained = float("-inf")
        self._stop = stop

    @property
    def pulse(self) -> Pulse:
        """That of the thread which has not moved for longest."""
        return max(list(self._pulses.values()) or [Pulse()], key=lambda pulse: pulse.age)

    def work(self, burst: bool = False, **_kwargs: Any) -> bool:  # type: ignore[override]
        """Work until told to stop, or with `burst` until there is nothing that can be worked on; whether there was."""
        self._recovery.promote_due()
        self._broken.clear()
        self._completed, self._heard_of = 0, float("-inf")
        ended = threading.Event()
        due = threading.Thread(target=self._promote_until, args=(ended,), name="due-jobs", daemon=True)
        others = [
            threading.Thread(target=self._serve, args=(burst,), name=f"gateway-{number}", daemon=True)
            for number in range(1, self._settings.threads)
        ]
        due.start()
        try:
            self.bootstrap(None)
            for thread in others:
                thread.start()
            self._serve(burst)
        finally:
            self._wait_for(others)
            ended.set()
            due.join(timeout=5)
            self.teardown()  # type: ignore[no-untyped-call]
            if self._events is not None:
                self._events.flush()
        return bool(self._completed)

    def _serve(self, burst: bool) -> None:
        """What each thread does: take a job, do it, take the next."""
        me = threading.get_ident()
        self._pulses[me] = Pulse()
        try:
            while (taken := self.dequeue_job_and_maintain_ttl(None if burst else WAIT_SECONDS)) is not None:
                self.execute_job(*taken)
                self._completed += 1
        except RedisError as error:
            log.error("worker lost redis with a job in hand", reason=str(error))
            self._broken.set()
        except Exception:
            log.exception("worker cannot go on")
            self._broken.set()
        finally:
            self._pulses.pop(me, None)
            self._reclaimer.rest()

    def _wait_for(self, threads: list[threading.Thread]) -> None:
        """Until each has ended its job; RQ is told meanwhile that the worker lives."""
        for thread in threads:
            while thread.is_alive():
                thread.join(HEARTBEAT_SECONDS)
                if thread.is_alive():
                    with suppress(RedisError):
                        self.heartbeat()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Any, Queue] | None:
        """Wait for the next job; None when told to stop, or where there is none and the timeout is None.

        RQ's own wait is ended by an exception out of the signal handler, also with a job in hand that nobody has
        started then; and it comes back to a Redis that was away after a minute only.
        """
        pulse, idle_since = self._pulses.setdefault(threading.get_ident(), Pulse()), time.monotonic()
        while not (self._stop.is_set() or self._broken.is_set()):
            pulse.beat()
            if time.monotonic() - idle_since > IDLE_SECONDS:
                self._reclaimer.rest(IDLE_SECONDS)
                idle_since = time.monotonic()
            if not self._taking.acquire(timeout=WAIT_SECONDS):
                continue
            try:
                if (early := self._look_again_at - time.monotonic()) > 0:
                    self._stop.wait(early)
                taken = self._take()
                if taken is not None or timeout is None:
                    return taken
                taken = self._taker.wait(timeout)
                if taken is not None:
                    opened = taken[0].opened
                    # Where it has many others to see to, it takes long anyway.
                    if opened is None or len(opened.pending.works) <= 1:
                        self._look_again_at = time.monotonic() + ALONE_SECONDS
                    return taken
            except SuspendedError:
                if timeout is None:
                    return None
                self.set_state(WorkerStatus.SUSPENDED)
                self._stop.wait(WAIT_SECONDS)
            except (RedisConnectionError, RedisTimeoutError) as error:
                log.error("worker lost redis, trying again", reason=str(error))
                self._stop.wait(RECONNECT_SECONDS)
            finally:
                self._taking.release()
        return None

    def _take(self) -> tuple[Any, Queue] | None:
        """See to what is to be done now and then, and take a job if there is one."""
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()
        with self.connection.pipeline(transaction=False) as pipe:
            if time.monotonic() - self._heard_of > HEARTBEAT_SECONDS:
                self._heard_of = time.monotonic()
                self.set_state(WorkerStatus.BUSY if self.executions else WorkerStatus.IDLE, pipeline=pipe)
                self.heartbeat(pipeline=pipe)
            return self._taker.take(pipe)

    def execute_job(self, job: ReclaimJob, queue: Queue) -> None:  # type: ignore[override]
        """Run a job here and now, never longer than a job of ours may take."""
        job.do, job.request = self._do, self._reclaimer.request
        # Whatever its record says: it fails and is replayed where it was found, and is kept as ours are.
        job.origin = queue.name
        job.timeout = self._settings.job_timeout
        job.result_ttl = int(self._settings.history_days * 86400)
        job.meta = _readable_meta(job)
        JOBS_STARTED.inc()
        bind_contextvars(work=job.id)
        try:
            with JOB_SECONDS.time():
                self.perform_job(job, queue, self.prepare_execution(job))
        finally:
            if job.opened is not None:
                # What failed early may have left it locked; where Redis is away, it runs out by itself.
                with suppress(RedisError):
                    job.opened.let_go()
            clear_contextvars()

    def prepare_execution(self, job: ReclaimJob) -> Execution:  # type: ignore[override]
        """Start a job, and with that take it out of the intermediate queue, in the transaction that opens its work.

        RQ takes two of its own. One that was opened as it was taken has started.
        """
        if job.opened is not None:
            job.meta["taken"] = True
            return bookkeeping.has_started(job, job.opened.execution, self)
        job.opening = self.connection.pipeline(transaction=True)
        return bookkeeping.start(job.opening, job, self, self._overdue)

    def _take_from_intermediate(self, pipe: Pipeline, job: Job) -> None:
        pipe.lrem(self._work_queue.open(job.origin).intermediate_queue_key, 1, job.id)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Leave what RQ does here to `prepare_execution`, right before."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Note when; what is written of the job next tells RQ that it lived until then."""
        job.ended_at = now()

    def handle_job_success(  # type: ignore[override]
        self, job: ReclaimJob, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """Finish a job in one step."""
        _see_started(job)
        with self.connection.pipeline(transaction=True) as pipe:
            bookkeeping.finish(pipe, job, execution, self)
            pipe.execute()

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """Take an execution out of RQ's registries, with whatever ends it."""
        super().cleanup_execution(job, pipeline, execution)
        if not self.executions:
            self.set_state(WorkerStatus.IDLE, pipeline=pipeline)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """The same for all."""
        return self._overdue

    def handle_exception(self, job: ReclaimJob, *exc_info: Any) -> None:  # type: ignore[override]
        """Judge what a job raised; `handle_job_failure` acts on it."""
        _see_started(job)
        job.verdict = classify(exc_info[1])
        if not job.verdict.foreseen:
            log.error("job raised", work=job.id, reason=job.verdict.reason, exc_info=exc_info)

    def handle_job_failure(  # type: ignore[override]
        self,
        job: ReclaimJob,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Schedule the next try of a job, or fail it with a reason that tells the operator what to do."""
        verdict = job.verdict or DIED
        job.verdict = None
        count_job_error(verdict.counted_as, transient=verdict.transient)
        attempts = int(job.meta.get("attempts", 0)) + 1
        who = {"worker": job.worker_name} | ({} if job.worker_name == self.name else {"noticed_by": self.name})
        pipe = self._work_queue.redis.pipeline(transaction=True)
        if job.opening is not None:
            # What failed may have been the transaction that would have done so.
            self._take_from_intermediate(pipe, job)
        if verdict.transient and attempts < self._settings.retry_attempts:
            pause = backoff(attempts, self._settings)
            kept = {name: value for name, value in job.meta.items() if name not in TOLD}
            job.meta = {**kept, "attempts": attempts, "last_error": verdict.reason}
            job.retry_at = time.time() + pause
            details = {"attempt": attempts, "pause": round(pause, 1)}
            JOB_RETRIES.inc()
            log.warning("job is retried", work=job.id, reason=verdict.reason, **details)
            self._work_queue.records.trace(pipe, job.id, "failed, retried", reason=verdict.reason, **details, **who)
        else:
            # A replay starts with all its tries.
            job.meta = {"last_error": verdict.reason, "cause": verdict.cause, "attempts_made": attempts}
            job.retry_at = None
            job.save_meta()  # type: ignore[no-untyped-call]
            exc_string = f"{verdict.reason}\n\n{exc_string}"
            JOBS_FAILED.inc()
            log.error("job failed", work=job.id, reason=verdict.reason, attempts=attempts)
            self._work_queue.records.trace(pipe, job.id, "failed", reason=verdict.reason, attempts=attempts, **who)
            self._give_up(pipe, job, verdict.reason)
        pipe.execute()
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def handle_job_retry(  # type: ignore[override]
        self,
        job: ReclaimJob,
        queue: Queue,
        retry: Retry,
        started_job_registry: StartedJobRegistry,
        execution: Execution,
    ) -> None:
        """Let a job run again that returned `Again`; it costs no retry and leaves no result."""
        assert isinstance(retry, Again)
        JOBS_POSTPONED.inc()
        with self.connection.pipeline() as pipe:
            if retry.queue_name is None:
                job.schedule(queue, pipe, time.time() + retry.seconds)
            else:
                self.queue_class(
                    retry.queue_name, connection=self.connection, serializer=JSONSerializer, job_class=ReclaimJob
                ).enqueue_job(job, pipeline=pipe)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            pipe.execute()

    @property
    def _stop_requested(self) -> bool:
        """RQ's own flag is our event, so that it counts whenever and by whomever that is set."""
        return self._stop.is_set()

    @_stop_requested.setter
    def _stop_requested(self, value: bool) -> None:
        if value:
            self._stop.set()

    def _install_signal_handlers(self) -> None:
        """Leave signals to whoever runs the worker, and sets its event."""

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Every few seconds, beginning with the first look at the queue."""
        return time.monotonic() - self._maintained > MAINTENANCE_SECONDS

    def run_maintenance_tasks(self) -> None:
        """Get jobs going again whose worker died; tidy RQ's registries."""
        self._maintained = time.monotonic()
        self._see_that_known()
        for job in self._recovery.take_abandoned():
            TAKEOVERS.inc()
            log.warning("job taken from a dead worker", work=job.id, worker=job.worker_name)
            job.meta = _readable_meta(job)
            self.handle_job_failure(job, self._work_queue.open(job.origin))
        self._recovery.requeue_stranded()
        if time.monotonic() - self._orphans_checked > ORPHANS_SECONDS:
            self._orphans_checked = time.monotonic()
            self._recovery.requeue_orphans()
        if time.monotonic() - self._cleaned > self._settings.job_timeout:
            self._cleaned = time.monotonic()
            self.clean_registries()  # type: ignore[no-untyped-call]

    @property
    def cluster_uid(self) -> str:
        """UID of the cluster whose jobs it does."""
        return self._reclaimer.cluster_uid

    def _see_that_known(self) -> None:
        """Register again with a Redis that came back without us: jobs go only to nodes where a worker is known."""
        if self.connection.sismember(self.redis_workers_keys, self.key):
            return
        log.warning("redis no longer knew this worker, registered again", worker=self.name)
        with self.connection.pipeline() as pipe:
            pipe.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipe)
            pipe.execute()

    def _do(self, work: Work, job: ReclaimJob) -> str | Again:
        bind_contextvars(**named(work))
        log.info("job started")
        told = job.meta.get("taken")
        try:
            pods_done = job.meta.get("pods_done", ())
            taken = partial(self._trace_taken, job)
            return self._reclaimer.run(work, pods_done, taken, job.opening, job.opened).outcome.value
        except NotNowError as later:
            if isinstance(later, GatewayBusyError) and not told:
                job.meta.pop("taken", None)
            self._trace_change(job, later.why)
            return Again(later.seconds)
        except ElsewhereError as elsewhere:
            name = self._queue_of(elsewhere.node)
            job.meta["pods_done"] = elsewhere.pods_done
            job.meta.pop("taken", None)
            self._work_queue.records.tell("sent on", {job.id: {"to_node": elsewhere.node, "worker": self.name}})
            return Again(0, name)

    def _queue_of(self, node: str) -> str:
        """The queue of the workers on a node.

        Raises:
            TransientError: there is no worker, so a job would lie there unseen.
        """
        name = self._work_queue.node_queue(node)
        if not SimpleWorker.all_keys(queue=self._work_queue.open(name)):
            raise TransientError(
                f"the gateway's pod runs on node {node}, where no worker with the netlink driver runs. "
                f"Start one there with EIP_RECLAIMER_NODE_NAME={node}, or use the exec driver."
            )
        return name

    def _trace_taken(self, job: ReclaimJob, pipe: Pipeline, lock: GatewayLock) -> None:
        """Trace that this worker has the gateway for the job, once per try: one that waits is taken every second."""
        if not job.meta.get("taken"):
            job.meta["taken"] = True
            attempt = int(job.meta.get("attempts", 0)) + 1
            lock.trace(pipe, self._work_queue.records, job.id, "taken", worker=self.name, attempt=attempt)

    def _trace_change(self, job: ReclaimJob, why: str) -> None:
        """Trace why a job is run again later, once per reason: it may be for many seconds, every second."""
        if job.meta.get("waits_for") == why:
            return
        job.meta["waits_for"] = why
        log.info("job waits", why=why)
        self._work_queue.records.tell("later", {job.id: {"why": why, "worker": self.name}})

    def _give_up(self, pipe: Any, job: ReclaimJob, reason: str) -> None:
        """A failed job's work is no longer taken over by others: it waits for a person."""
        work = self._work_queue.records.work(job.id)
        if work is None:
            return
        pipe.hdel(self._work_queue.keys.pending(work.gateway), job.id)
        if self._events is not None:
            self._events.tell_of(work, "ReclaimFailed", f"{describe(work)} failed: {reason}", warning=True)

    def _promote_until(self, ended: threading.Event) -> None:
        failing = False
        while not ended.wait(1.0 if failing else DUE_SECONDS):
            Deadline.strike()
            try:
                self._recovery.promote_due()
                self.redis_pulse.beat()
                failing = False
            except RedisError as error:
                if not failing:
                    log.error("due retries wait for redis", reason=str(error))
                failing = True


def _see_started(job: ReclaimJob) -> None:
    """Let Redis know of a job that ends before its work was opened; its work has been, otherwise."""
    if job.opening is not None and len(job.opening):
        job.opening.execute()


def _readable_meta(job: Any) -> dict[str, Any]:
    """What we noted in the job; nothing where somebody else wrote something else there."""
    return job.meta if isinstance(job.meta, dict) else {}


def worker_name() -> str:
    """A name for this worker that no other has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
