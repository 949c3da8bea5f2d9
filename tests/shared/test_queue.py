"""What is published is what RQ itself would enqueue, key for key, beside what is ours."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError
from rq.job import Job
from rq.serializers import JSONSerializer

from shared.models import Work, parse_work
from shared.queue import WorkQueue
from tests.payloads import confirmation, release
from tests.rq_keys import stored

pytestmark = pytest.mark.server


@pytest.mark.parametrize("payload", [release(id="second"), confirmation(id="second")])
def test_a_job_is_enqueued_as_rq_does(work_queue: WorkQueue, payload: dict[str, Any]) -> None:
    redis, work, first = work_queue.redis, parse_work(payload), parse_work(release(id="first"))
    for each in (first, work):
        work_queue.queue.enqueue_job(work_queue.job(each), at_front=each.kind == "confirmation")
    expected = stored(redis)
    redis.flushdb()
    for each in (first, work):
        work_queue.publish_now([each], "published")
    assert stored(redis) == expected
    assert set(expected) == {"rq:queues", work_queue.queue.key, "rq:job:first", "rq:job:second"}


def test_rq_reads_what_the_job_carries(work_queue: WorkQueue) -> None:
    work: Work = parse_work(release())
    work_queue.publish_now([work], "published")
    job = Job.fetch(work.id, connection=work_queue.redis, serializer=JSONSerializer)
    assert parse_work(job.kwargs["payload"]) == work
    assert (job.get_status(), job.origin) == ("queued", work_queue.name)
    assert job.enqueued_at is not None


@pytest.mark.parametrize(
    "spoilt", ["pending", "pending_generation", "record", "trace", "index", "rq:queues", "rq:job:second", "queue"]
)
def test_a_key_that_is_not_ours_keeps_nothing_else_from_being_stored(work_queue: WorkQueue, spoilt: str) -> None:
    redis, keys, work = work_queue.redis, work_queue.keys, parse_work(release(id="second"))
    about = {"record": work.id, "trace": work.id, "index": work.eip}.get(spoilt, work.gateway)
    name = {"queue": work_queue.queue.key}.get(spoilt) or (spoilt if ":" in spoilt else getattr(keys, spoilt)(about))
    redis.flushdb()
    work_queue.publish_now([work], "published")
    expected = set(redis.scan_iter())
    redis.flushdb()
    redis.set(name, "not ours")
    with pytest.raises(ResponseError, match=r"WRONGTYPE|not an integer"):
        work_queue.publish_now([work], "published")
    assert set(redis.scan_iter()) == expected
    assert redis.get(name) == b"not ours"
