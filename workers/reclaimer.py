"""From one job to what becomes of it: the gateway's lock, everything pending for the gateway, and the records.

Who holds the lock works off what is pending in one go and records each outcome; a job whose outcome is recorded
finishes at once. So a thousand releases on one gateway cost a few rounds, and one gateway never holds up more than
one worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING

from redis.client import Pipeline
from structlog.contextvars import bound_contextvars

from shared.errors import InvalidPayloadError, PermanentError
from shared.log import get_logger, named
from shared.metrics import EVENT_TO_GONE, OUTCOMES
from shared.models import Outcome, Release, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from workers import precedence
from workers.answers import Answer, Result
from workers.earlier import Earlier, EarlierTries
from workers.ending import end_job
from workers.failures import GatewayBusyError, NotNowError
from workers.lock import GatewayLock
from workers.pending import ROUND_SIZE, Pending
from workers.precedence import among
from workers.round import Known, Round

if TYPE_CHECKING:
    from shared.kube.events import EventRecorder
    from workers.ahead import Ahead
    from workers.opening import Opened

log = get_logger(__name__)


def _untold(_pipe: Pipeline, _lock: GatewayLock) -> None:
    pass


class Reclaimer:
    """Does the work of jobs. Safe across threads."""

    def __init__(
        self,
        work_queue: WorkQueue,
        gateway_round: Round,
        settings: Settings,
        cluster_uid: str,
        worker: str,
        events: EventRecorder | None = None,
    ) -> None:
        self._events = events
        self._work_queue = work_queue
        self._redis = work_queue.redis
        self._keys = work_queue.keys
        self._round = gateway_round
        self._tries = EarlierTries(work_queue)
        self._settings = settings
        self._keep_seconds = int(settings.history_days * 86400)
        self.cluster_uid = cluster_uid
        """Whose jobs it does."""
        self._worker = worker

    def run(
        self,
        work: Work,
        pods_done: Collection[str] = (),
        taken: Callable[[Pipeline, GatewayLock], None] = _untold,
        opening: Pipeline | None = None,
        opened: Opened | None = None,
    ) -> Result:
        """Do a piece of work now, and with it what else is pending for its gateway.

        Args:
            work: what the job carries.
            pods_done: UIDs of the gateway's pods that were done on other nodes.
            taken: is handed the transaction that opens the work, and the lock that it asks for.
            opening: that transaction, where something else is in it already.
            opened: what it would have answered, where the job was opened as it was taken.

        Raises:
            NotNowError: to be run again a little later.
            ElsewhereError: to be run again on another node.
            TransientError: to be retried.
            PermanentError: never to be retried as it is.
        """
        if work.cluster != self.cluster_uid:
            raise PermanentError(
                f"this job is about the cluster with the UID {work.cluster}, this worker is in {self.cluster_uid}. "
                "Nothing was done. Give each cluster a Redis database, or a key prefix and queue, of its own."
            )
        # Where an exec is waited for, the interpreter is not what is short.
        with bound_contextvars(**named(work)), precedence.first() if self._round.looks_at_once else nullcontext():
            lock: GatewayLock | None
            # The gateway that was locked is that of the job's record, and another where somebody forged one of them.
            if opened is not None and opened.gateway == work.gateway:
                lock, ended, pending = opened.lock, opened.outcome, opened.pending
                known = Known(opened.ahead)
            else:
                lock, ended, pending, earlier = self._open(work, taken, opening)
                known = Known(earlier=earlier)
            try:
                # Only finished work has an outcome: what failed is decided anew when replayed.
                if ended is not None:
                    return Result(Outcome(ended.decode()), {"why": "taken over by another job of the gateway"})
                if lock is None:
                    raise GatewayBusyError("another worker has the gateway", self._settings.busy_pause)
                return self._work_off(work, pods_done, lock, pending, known)
            finally:
                if known.ahead is not None:
                    # Before anybody else is at the gateway, who would take it for what a dead worker left.
                    known.ahead.drop()
                if lock is not None:
                    lock.release()

    def _open(
        self, work: Work, taken: Callable[[Pipeline, GatewayLock], None], opening: Pipeline | None
    ) -> tuple[GatewayLock | None, bytes | None, Pending, Earlier]:
        """The gateway's lock unless another has it, an outcome if there is one, what is pending, what tries left."""
        releases = [work] if isinstance(work, Release) else []
        with opening if opening is not None else self._redis.pipeline(transaction=True) as pipe:
            others = len(pipe)
            asked = GatewayLock.ask_for(
                pipe, self._redis, self._keys, work.gateway, self._settings.lock_lifetime, self._worker
            )
            # At the same moment: who had the gateway until now may just have done it.
            self._work_queue.records.ask_for(pipe, work.id, "outcome")
            self._tries.ask_for(pipe, releases)
            Pending.ask_for(pipe, self._keys, work.gateway)
            so_far = len(pipe)
            taken(pipe, asked)
            answers = pipe.execute()[others:so_far]
        _, held, ended, *left, pending = answers
        earlier = EarlierTries.answered(releases, left[: 2 * len(releases)])
        return asked.answered(held), ended, Pending.answered(pending), earlier

    @property
    def asks_ahead(self) -> bool:
        """Whether it is worth asking ahead for a release that was waited for."""
        return self._round.asks_ahead

    def request(self, ahead: Ahead) -> None:
        """Ask the API too, ahead of the work."""
        self._round.request(ahead)

    def rest(self, unused_for: float = 0.0) -> None:
        """Let go of what is open for later, and has not been used for so many seconds."""
        self._round.rest(unused_for)

    def _work_off(
        self,
        work: Work,
        pods_done: Collection[str],
        lock: GatewayLock,
        pending: Pending,
        known: Known,
    ) -> Result:
        own: Answer | None = None
        give_up = time.monotonic() + self._settings.job_timeout / 2
        while True:
            precedence.last(len(pending.works))
            seen, works = pending.generation, self._works(work, pending.works, finished=isinstance(own, Result))
            if works:
                # Where our own work has been says nothing of what others came with since.
                been = () if isinstance(own, Result) else pods_done
                answers = self._round.work_off(work.gateway, works, lock.fence, been, known)
                # By the next round it may be otherwise.
                known = Known()
                self._record(work, works, answers, lock, seen)
                own = answers.get(work.id, own)
            else:
                lock.release_unless_changed(seen)
            if lock.released or time.monotonic() > give_up:
                break
            with self._redis.pipeline(transaction=True) as pipe:
                Pending.ask_for(pipe, self._keys, work.gateway)
                pending = Pending.answered(pipe.execute()[-1])
        if isinstance(own, Result):
            return own
        raise own or NotNowError("the gateway was left to another worker", self._settings.busy_pause)

    def _works(self, own: Work, pending: dict[bytes, bytes], *, finished: bool) -> list[Work]:
        """The next round's, our own work first unless it is finished."""
        works: list[Work] = [] if finished else [own]
        for work_id, payload in among(pending.items()):
            if work_id.decode() != own.id and len(works) < ROUND_SIZE:
                other = self._readable(own.gateway, work_id.decode(), payload)
                works += [other] if other is not None else []
        return works

    def _readable(self, gateway: str, work_id: str, payload: bytes) -> Work | None:
        try:
            taken = parse_work(payload)
        except InvalidPayloadError as error:
            log.error("pending entry rejected", work=work_id, reason=str(error))
            self._redis.hdel(self._keys.pending(gateway), work_id)
            return None
        # Its own job answers for it, and fails with a reason.
        same = taken.id == work_id and taken.gateway == gateway and taken.cluster == self.cluster_uid
        return taken if same else None

    def _record(
        self, own: Work, works: list[Work], answers: dict[str, Answer], lock: GatewayLock, generation: int
    ) -> None:
        """Record what ended, in one transaction with its leaving the pending work; let go of the lock if that was all.

        Raises:
            LockLostError: nothing was recorded, because another worker may have come to outcomes of its own since.
        """
        records = self._work_queue.records
        ended = [(work, answer) for work in works if isinstance(answer := answers.get(work.id), Result)]
        with lock.transaction(unless_changed=generation) as pipe:
            for work, result in among(ended):
                over = {} if work.id == own.id else {"taken_over_by": own.id}
                records.close(pipe, work, result.outcome, worker=self._worker, **over, **result.details)
                if work.id != own.id:
                    end_job(pipe, work.id, result.outcome, worker=self._worker, keep_seconds=self._keep_seconds)
            if ended:
                pipe.hdel(self._keys.pending(own.gateway), *(work.id for work, _ in ended))
        for work, result in among(ended):
            # Named in full: in the context is the job that this one may have been taken over by.
            whose = {"work": work.id, "gateway": work.gateway, "eip": work.eip, "uid": work.uid}
            log.info("done", outcome=result.outcome.value, taken_over=work.id != own.id, **whose)
            self._count(work, result.outcome)
            self._tell(work, result)

    @staticmethod
    def _count(work: Work, outcome: Outcome) -> None:
        OUTCOMES.labels(outcome.value).inc()
        if outcome is Outcome.RECLAIMED and work.kind == "release":
            EVENT_TO_GONE.labels("yes" if work.was_ready else "no").observe(max(time.time() - work.seen_at, 0))

    def _tell(self, work: Work, result: Result) -> None:
        """Tell of what changed a gateway, or has to be."""
        leaked = result.details.get("leaked")
        if leaked:
            log.warning("audit found addresses that nobody owns", leaked=leaked)
        if self._events is None:
            return
        if work.kind == "audit":
            if leaked:
                then = "each is released" if work.apply else "to release them: eip-reclaimer audit --apply"
                message = f"nobody owns {', '.join(leaked)}, which gateway {work.gateway} carries; {then}"
                self._events.tell_of(work, "LeakFound", message, warning=True)
            return
        addresses = ", ".join(map(str, work.addresses))
        if result.outcome is Outcome.RECLAIMED:
            message = f"{addresses} taken off gateway {work.gateway}, which nobody owns any more, and seen gone"
            self._events.tell_of(work, "Reclaimed", message, warning=False)
        elif result.outcome is Outcome.RESTORED:
            message = (
                f"{addresses} put back on gateway {work.gateway}: it has an owner ({result.details.get('owners')})"
            )
            self._events.tell_of(work, "Restored", message, warning=True)
