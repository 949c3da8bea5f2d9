"""Failed jobs: each is found whatever it is, replayed as RQ would, and dropped with a trace."""

from __future__ import annotations

import json
import threading
import time
import zlib
from base64 import b64encode

import pytest
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared.failed import FailedJob, FailedJobs, NoFailedJobError, NotReplayedError, Selection, grouped
from shared.queue import WorkQueue
from tests.failing import fail, fail_job
from tests.payloads import release

pytestmark = pytest.mark.server

NO_POD = "gateway gw1 exists, but no pod of it runs"
REFUSED = "the API answered 403"


@pytest.fixture
def failed(work_queue: WorkQueue) -> FailedJobs:
    return FailedJobs(work_queue)


def test_an_empty_redis_has_none(failed: FailedJobs) -> None:
    assert failed.all() == []
    assert failed.count() == 0


def test_what_a_person_wants_to_know_of_each(failed: FailedJobs, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", NO_POD, cause="NoActivePodError", age=60)
    (job,) = failed.all()
    assert (job.id, job.queue, job.gateway, job.reason) == ("release-1", work_queue.name, "gw1", NO_POD)
    assert (job.cause, job.attempts, job.readable) == ("NoActivePodError", 3, True)
    assert job.description == "release 10.1.69.205 on gw1 (EIP eip-1, deleted)"
    assert job.failed_at == pytest.approx(time.time() - 60, abs=5)
    assert failed.of("release-1") == job


def test_those_of_nodes_queues_too_and_of_no_others(failed: FailedJobs, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", NO_POD, age=20)
    fail(work_queue, "release-2", NO_POD, queue=work_queue.node_queue("node-1"), age=10)
    stranger = work_queue.open("somebody-elses").enqueue("os.getcwd", job_id="theirs")
    fail_job(work_queue, stranger, "whatever", queue="somebody-elses")
    assert [(job.id, job.queue) for job in failed.all()] == [
        ("release-1", "eip-reclaimer"),
        ("release-2", "eip-reclaimer@node-1"),
    ]
    assert failed.count() == 2


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), ["old", "other", "new"]),
        (Selection(gateway="gw2"), ["other"]),
        (Selection(reason="NO POD"), ["old", "new"]),
        (Selection(reason="noactivepoderror"), ["new"]),
        (Selection(reason="NoActivePod"), []),
        (Selection(older_than=3600), ["old"]),
        (Selection(newer_than=60), ["new"]),
        (Selection(older_than=60, newer_than=3600), ["other"]),
        (Selection(reason="answered", gateway="gw1"), []),
    ],
)
def test_selections(failed: FailedJobs, work_queue: WorkQueue, selection: Selection, meant: list[str]) -> None:
    fail(work_queue, "old", NO_POD, age=7200)
    fail(work_queue, "other", REFUSED, gateway="gw2", age=600)
    fail(work_queue, "new", NO_POD, cause="NoActivePodError")
    assert [job.id for job in failed.all(selection)] == meant


def test_groups_tell_causes_apart_where_reasons_differ_by_names_only(failed: FailedJobs, work_queue: WorkQueue) -> None:
    for number in range(3):
        fail(work_queue, f"release-{number}", f"gateway gw{number} …", cause="NoActivePodError", gateway=f"gw{number}")
    fail(work_queue, "release-9", REFUSED)
    first, second = grouped(failed.all())
    assert (first.cause, first.count, first.gateways) == ("NoActivePodError", 3, ("gw0", "gw1", "gw2"))
    assert (second.cause, second.reason, second.count) == (None, REFUSED, 1)
    assert first.oldest <= first.newest


def test_a_replayed_job_is_queued_where_it_failed_and_its_trace_says_by_whom(
    failed: FailedJobs, work_queue: WorkQueue
) -> None:
    queue = work_queue.open(work_queue.node_queue("node-1"))
    fail(work_queue, "release-1", NO_POD, queue=queue.name)
    fail(work_queue, "release-2", NO_POD)
    # Whatever somebody wrote into it since.
    work_queue.redis.hset("rq:job:release-1", "origin", "somebody-elses")
    failed.replay("release-1", "ops@jump-host")
    assert queue.get_job_ids() == ["release-1"]
    assert [job.id for job in failed.all()] == ["release-2"]
    assert Job.fetch("release-1", work_queue.redis, JSONSerializer).get_status() == JobStatus.QUEUED
    *_, replayed = work_queue.records.events("release-1")
    assert (replayed["event"], replayed["by"]) == ("replayed", "ops@jump-host")


def test_what_is_not_failed_is_not_replayed_and_the_reason_told(failed: FailedJobs, work_queue: WorkQueue) -> None:
    with pytest.raises(NoFailedJobError, match="no failed job has the id release-1: eip-reclaimer failed list"):
        failed.replay("release-1", "ops")
    fail(work_queue, "release-1", NO_POD)
    failed.replay("release-1", "ops")
    told = work_queue.records.events("release-1")
    with pytest.raises(NoFailedJobError, match="release-1 is not failed, it is queued"):
        failed.replay("release-1", "ops")
    assert work_queue.records.events("release-1") == told
    assert work_queue.queue.get_job_ids() == ["release-1"]


def test_a_job_that_redis_does_not_take_back_stays_failed(failed: FailedJobs, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", NO_POD)
    work_queue.redis.set(work_queue.queue.key, "of another type")
    with pytest.raises(NotReplayedError, match="release-1: RQ cannot"):
        failed.replay("release-1", "ops")
    assert [job.id for job in failed.all()] == ["release-1"]
    assert [event["event"] for event in work_queue.records.events("release-1")][-2:] == ["replayed", "not replayed"]
    work_queue.redis.delete(work_queue.queue.key)
    failed.replay("release-1", "ops")
    assert work_queue.queue.get_job_ids() == ["release-1"]


def test_of_many_who_replay_a_job_one_succeeds(failed: FailedJobs, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", NO_POD)
    refused: list[str] = []

    def replay() -> None:
        try:
            failed.replay("release-1", "ops")
        except NoFailedJobError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=replay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert work_queue.queue.get_job_ids() == ["release-1"]


def test_a_dropped_job_is_gone_and_its_record_says_who_dropped_it_and_why_it_had_failed(
    failed: FailedJobs, work_queue: WorkQueue
) -> None:
    fail(work_queue, "release-1", NO_POD)
    fail(work_queue, "release-2", NO_POD)
    failed.drop("release-1", "ops@jump-host")
    assert [job.id for job in failed.all()] == ["release-2"]
    assert work_queue.redis.keys("rq:*release-1*") == []
    published, dropped = work_queue.records.events("release-1")
    assert published["event"] == "published"
    assert (dropped["event"], dropped["by"], dropped["reason"]) == ("dropped", "ops@jump-host", NO_POD)
    assert work_queue.records.find("eip-1") == ["release-1", "release-2"]
    with pytest.raises(NoFailedJobError):
        failed.drop("release-1", "ops@jump-host")
    assert len(work_queue.records.events("release-1")) == 2


def test_a_job_that_somebody_requeues_at_that_moment_is_not_dropped(
    failed: FailedJobs, work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(work_queue, "release-1", NO_POD)
    look = failed.of

    def look_while_another_requeues(job_id: str) -> FailedJob:
        found = look(job_id)
        work_queue.queue.failed_job_registry.requeue(job_id)
        return found

    monkeypatch.setattr(failed, "of", look_while_another_requeues)
    with pytest.raises(NoFailedJobError, match="release-1 is not failed, it is queued"):
        failed.drop("release-1", "ops")
    assert work_queue.queue.get_job_ids() == ["release-1"]
    assert work_queue.queue.fetch_job("release-1") is not None
    assert work_queue.records.events("release-1")[-1]["event"] == "published"


FORGED = {
    "nothing at all": None,
    "no data": {"origin": "eip-reclaimer"},
    "meta that is none": {"data": "[]", "meta": "{"},
    "a time that is none": {"data": "[]", "ended_at": "yesterday"},
    "meta of another shape": {"data": "[]", "meta": json.dumps({"cause": [], "last_error": 7, "attempts_made": "x"})},
    "what RQ cannot read": {"data": "[]", "timeout": "soon", "status": "odd", "created_at": "\udcff"},
    "another type": "text",
    "a bomb": {"data": "[]"},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_job_is_listed_refused_and_dropped(failed: FailedJobs, work_queue: WorkQueue, forged: str) -> None:
    redis, stored = work_queue.redis, FORGED[forged]
    if isinstance(stored, str):
        redis.set("rq:job:forged", stored)
        redis.set("rq:results:forged", stored)
    elif stored:
        redis.hset(
            "rq:job:forged", mapping={name: text.encode(errors="surrogateescape") for name, text in stored.items()}
        )
        text = b64encode(zlib.compress(bytes(100_000_000))) if forged == "a bomb" else b"not base64!"
        redis.xadd("rq:results:forged", {"type": "2", "exc_string": text})
    registry = work_queue.queue.failed_job_registry
    redis.zadd(registry.key, {"forged": time.time() + 60})
    fail(work_queue, "release-1", NO_POD)
    assert {job.id for job in failed.all()} == {"forged", "release-1"}
    assert grouped(failed.all())
    assert len(failed.explanation("forged")) <= 1_000_000
    if forged in ("meta that is none", "meta of another shape", "a bomb"):
        # RQ reads it, and a worker will refuse it: that is for the worker to say.
        failed.replay("forged", "ops")
        assert work_queue.queue.get_job_ids() == ["forged"]
    else:
        with pytest.raises(NotReplayedError, match="eip-reclaimer failed drop forged"):
            failed.replay("forged", "ops")
        assert {job.id for job in failed.all()} == {"forged", "release-1"}
        failed.drop("forged", "ops")
        assert redis.keys("rq:*:forged") == []
    assert [job.id for job in failed.all()] == ["release-1"]
    assert redis.keys("eip-reclaimer:*forged*") == []


def test_an_id_that_is_no_text_can_be_dropped(failed: FailedJobs, work_queue: WorkQueue) -> None:
    work_queue.redis.zadd(work_queue.queue.failed_job_registry.key, {b"\xff\x1b[2J": time.time() + 60})
    (job,) = failed.all()
    with pytest.raises(NotReplayedError):
        failed.replay(job.id, "ops")
    failed.drop(job.id, "ops")
    assert failed.all() == []


def test_all_that_was_noted_of_a_failure_can_be_read(failed: FailedJobs, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", NO_POD)
    assert failed.explanation("release-1").splitlines()[0] == NO_POD
    assert "Traceback" in failed.explanation("release-1")
    assert failed.explanation("release-2") == ""


def test_a_payload_does_not_matter_to_who_lists(failed: FailedJobs, work_queue: WorkQueue) -> None:
    job = work_queue.queue.enqueue(
        "os.system", kwargs=release(gateway="; reboot"), job_id="odd", serializer=JSONSerializer
    )
    work_queue.queue.remove(job)
    fail_job(work_queue, job, "rejected")
    (listed,) = failed.all()
    assert (listed.id, listed.gateway, listed.reason) == ("odd", None, "rejected")
