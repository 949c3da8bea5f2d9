"""A worker runs jobs of ours and nothing else, whatever lies in its queue."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from shared.models import parse_work
from shared.queue import JOB_FUNCTION, WorkQueue
from shared.settings import Settings
from tests.payloads import release
from workers.answers import Result
from workers.reclaimer import Reclaimer
from workers.worker import ReclaimWorker

pytestmark = pytest.mark.server


class NothingDone(Reclaimer):
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, work: Any, pods_done: Any = (), taken: Any = None, opening: Any = None, opened: Any = None) -> Result:
        self.asked.append(work.id)
        raise NotImplementedError

    def rest(self, _unused_for: float = 0.0) -> None:
        pass


@pytest.fixture
def done(work_queue: WorkQueue, settings: Settings) -> NothingDone:
    return NothingDone()


@pytest.fixture
def worker(work_queue: WorkQueue, settings: Settings, done: NothingDone) -> ReclaimWorker:
    return ReclaimWorker(work_queue, done, settings, "w1", threading.Event())


def expect_rejected(worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone, *reasons: str) -> None:
    """The one job in the queue fails with a reason, nothing is run, and the worker works on."""
    (job_id,) = work_queue.queue.get_job_ids()
    work_queue.publish_now([parse_work(release())], "published")
    worker.work(burst=True)
    assert done.asked == ["release-u1"]
    assert job_id in work_queue.queue.failed_job_registry.get_job_ids()
    text = told(work_queue.redis, job_id)
    assert all(reason in text for reason in reasons), text


def told(redis: Redis, job_id: str) -> str:
    job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    result = job.latest_result()
    assert result is not None
    return str(result.exc_string).split("\n", 1)[0]


def enqueue(work_queue: WorkQueue, function: str, *args: Any, **kwargs: Any) -> None:
    work_queue.queue.enqueue_call(function, args=args, kwargs=kwargs, job_id="forged")


@pytest.mark.parametrize(
    "function",
    [
        "os.system",
        "builtins.eval",
        "subprocess.check_output",
        "workers.jobs.parse_work",
        "workers.jobs.ReclaimJob.work",
        "workers.worker._readable_meta",
        "workers.jobs.run.__globals__",
        "",
        "no.such.module",
    ],
)
def test_another_function_is_neither_imported_nor_run(
    function: str, worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone, tmp_path: Path
) -> None:
    enqueue(work_queue, function or "placeholder", f"touch {tmp_path}/forged")
    if not function:
        rewrite(work_queue, ["", None, [], {}])
    expect_rejected(worker, work_queue, done, "which workers do not run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once anybody has imported the module `trap`."""
    path = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(f"open({str(path)!r}, 'w')\ndef run(*_, **__): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def test_a_module_that_a_job_names_is_not_imported(
    worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone, sprung: Path
) -> None:
    enqueue(work_queue, "trap.run")
    expect_rejected(worker, work_queue, done, "which workers do not run")
    assert not sprung.exists()


@pytest.mark.parametrize("callback", ["success_callback_name", "failure_callback_name", "stopped_callback_name"])
def test_a_callback_is_neither_imported_nor_run(
    callback: str, worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone, sprung: Path
) -> None:
    enqueue(work_queue, JOB_FUNCTION, payload={})
    work_queue.redis.hset("rq:job:forged", callback, "trap.run")
    expect_rejected(worker, work_queue, done, "payload rejected")
    assert not sprung.exists()


def rewrite(work_queue: WorkQueue, data: Any) -> None:
    """Edit the queued job's data by hand."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    work_queue.redis.hset("rq:job:forged", "data", raw)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04\x95", "cannot be read"),
        (b"not json", "cannot be read"),
        (b"", "cannot be read"),
        ([], "cannot be read"),
        (17, "cannot be read"),
        ([JOB_FUNCTION, None, [], {}], "not those of a job of ours"),
        ([JOB_FUNCTION, None, ["x"], {"payload": release(id="forged")}], "not those of a job of ours"),
        ([JOB_FUNCTION, None, [], {"payload": release(id="forged"), "more": 1}], "not those of a job of ours"),
        ([JOB_FUNCTION, None, [], []], "not those of a job of ours"),
        ([JOB_FUNCTION, "os", [], {"payload": release(id="forged")}], "which workers do not run"),
        ([[JOB_FUNCTION], None, [], {}], "which workers do not run"),
        ([JOB_FUNCTION, None, [], {"payload": release()}], "are not the same"),
        ([JOB_FUNCTION, None, [], {"payload": release(id="forged", addresses=["x"])}], "addresses"),
        ([JOB_FUNCTION, None, [], {"payload": release(id="forged", subnet="x" * 20_000)}], "bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_job_edited_by_hand_is_rejected_with_a_reason(
    data: Any, reason: str, worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone
) -> None:
    enqueue(work_queue, JOB_FUNCTION, payload={})
    rewrite(work_queue, data)
    expect_rejected(worker, work_queue, done, reason)


@pytest.mark.parametrize(
    ("field", "value"),
    [("meta", "no json"), ("created_at", "yesterday"), ("timeout", "long"), ("origin", "elsewhere"), ("status", "odd")],
)
def test_a_job_whose_record_is_spoilt_does_not_end_the_worker(
    field: str, value: str, worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone
) -> None:
    enqueue(work_queue, JOB_FUNCTION, payload={})
    work_queue.redis.hset("rq:job:forged", field, value)
    expect_rejected(worker, work_queue, done)


def test_a_job_without_a_record_does_not_end_the_worker(
    worker: ReclaimWorker, work_queue: WorkQueue, done: NothingDone
) -> None:
    work_queue.queue.push_job_id("no-such-job")
    work_queue.publish_now([parse_work(release())], "published")
    worker.work(burst=True)
    assert done.asked == ["release-u1"]


def test_a_plain_rq_worker_says_which_worker_to_use(work_queue: WorkQueue) -> None:
    work_queue.publish_now([parse_work(release())], "published")
    SimpleWorker([work_queue.queue], connection=work_queue.redis, serializer=JSONSerializer).work(burst=True)
    job = work_queue.queue.fetch_job("release-u1")
    assert job is not None
    assert "eip-reclaimer worker" in str(job.latest_result().exc_string)  # type: ignore[union-attr]
