"""One worker works on several gateways at the same time, and ends as one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.models import Outcome, Work, parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.payloads import release
from tests.waiting import eventually
from workers.answers import Result
from workers.jobs import ReclaimJob
from workers.reclaimer import Reclaimer
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server


class Watched(Reclaimer):
    """Work that lasts until it is let go."""

    def __init__(self) -> None:
        self.at_work: set[str] = set()
        self.most = 0
        self.let_go = threading.Event()
        self.rested: list[int] = []
        self._counting = threading.Lock()

    def run(self, work: Any, pods_done: Any = (), taken: Any = None, opening: Any = None, opened: Any = None) -> Result:
        if opening is not None:
            opening.execute()
        with self._counting:
            self.at_work.add(work.id)
            self.most = max(self.most, len(self.at_work))
        assert self.let_go.wait(20)
        with self._counting:
            self.at_work.remove(work.id)
        return Result(Outcome.RECLAIMED)

    def rest(self, _unused_for: float = 0.0) -> None:
        self.rested.append(threading.get_ident())


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def start(work_queue: WorkQueue, settings: Settings, watched: Watched) -> Callable[..., ReclaimWorker]:
    def start(at_once: int) -> ReclaimWorker:
        ours = settings.model_copy(update={"gateways_at_once": at_once})
        return ReclaimWorker(work_queue, watched, ours, "w1", threading.Event())

    return start


@pytest.fixture
def works(work_queue: WorkQueue) -> list[Work]:
    works = [parse_work(release(id=f"release-{number}", gateway=f"gw{number}")) for number in range(6)]
    work_queue.publish_now(works, "published")
    return works


def running(worker: ReclaimWorker, **kwargs: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: worker.work(**kwargs))
    thread.start()
    return thread


@pytest.mark.parametrize("at_once", [1, 4])
def test_it_works_on_as_many_gateways_as_it_may(
    work_queue: WorkQueue, start: Callable[..., ReclaimWorker], watched: Watched, works: list[Work], at_once: int
) -> None:
    thread = running(start(at_once), burst=True)
    eventually(lambda: len(watched.at_work) == at_once, "as many at work")
    (key,) = SimpleWorker.all_keys(work_queue.redis)
    worker = SimpleWorker.find_by_key(key, connection=work_queue.redis, serializer=JSONSerializer)
    assert worker is not None
    assert worker.current_execution_count == at_once
    assert len(work_queue.queue.started_job_registry.get_job_ids()) == at_once
    watched.let_go.set()
    thread.join(20)
    assert watched.most == at_once
    for work in works:
        assert Job.fetch(work.id, work_queue.redis, JSONSerializer).get_status() == JobStatus.FINISHED
    assert work_queue.queue.started_job_registry.get_job_ids() == []
    assert len(set(watched.rested)) == at_once


def test_told_to_end_it_finishes_what_it_has_and_takes_no_more(
    work_queue: WorkQueue, start: Callable[..., ReclaimWorker], watched: Watched, works: list[Work]
) -> None:
    worker = start(2)
    thread = running(worker)
    eventually(lambda: len(watched.at_work) == 2, "two at work")
    worker._stop.set()
    watched.let_go.set()
    thread.join(20)
    assert not thread.is_alive()
    finished = work_queue.queue.finished_job_registry.get_job_ids()
    assert len(finished) == 2
    assert set(finished) | set(work_queue.queue.get_job_ids()) == {work.id for work in works}
    assert SimpleWorker.all_keys(work_queue.redis) == []


def test_where_one_thread_cannot_go_on_none_does(
    work_queue: WorkQueue,
    start: Callable[..., ReclaimWorker],
    watched: Watched,
    works: list[Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = start(3)
    prepare = worker.prepare_execution

    def lost(job: ReclaimJob) -> Any:
        if job.id == "release-2":
            raise RedisConnectionError("gone")
        return prepare(job)

    monkeypatch.setattr(worker, "prepare_execution", lost)
    thread = running(worker)
    eventually(lambda: len(watched.at_work) == 2, "two at work")
    watched.let_go.set()
    thread.join(20)
    assert not thread.is_alive()
    assert "release-2" in work_queue.queue.intermediate_queue.get_job_ids()
    assert work_queue.queue.get_job_ids() == ["release-3", "release-4", "release-5"]


def test_its_pulse_is_that_of_the_thread_that_moves_least(
    start: Callable[..., ReclaimWorker], watched: Watched, works: list[Work]
) -> None:
    worker = start(2)
    thread = running(worker, burst=True)
    eventually(lambda: len(watched.at_work) == 2, "two at work")
    assert eventually(lambda: worker.pulse.age > 1.5, "it to be told that they do not move")
    watched.let_go.set()
    thread.join(20)
    assert worker.pulse.age < 1
