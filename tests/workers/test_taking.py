"""A worker with a node's queue beside the general one loses no job with itself, just as one with one queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer

from shared.models import Work, parse_work
from shared.queue import WorkQueue
from tests.payloads import release
from tests.waiting import eventually
from workers.jobs import ReclaimJob
from workers.unbreakable import UnbreakableQueue

pytestmark = pytest.mark.server

Take = Callable[[int | None], tuple[ReclaimJob, Queue] | None]


@pytest.fixture
def queues(work_queue: WorkQueue) -> list[UnbreakableQueue]:
    names = (work_queue.node_queue("node-1"), work_queue.name)
    return [UnbreakableQueue(name, connection=work_queue.redis, serializer=JSONSerializer) for name in names]


@pytest.fixture
def take(work_queue: WorkQueue, queues: list[UnbreakableQueue]) -> Take:
    return lambda timeout: UnbreakableQueue.dequeue_any(  # type: ignore[return-value]
        queues, timeout, connection=work_queue.redis, job_class=ReclaimJob, serializer=JSONSerializer
    )


def publish(work_queue: WorkQueue, work_id: str) -> Work:
    work = parse_work(release(id=work_id))
    work_queue.publish_now([work], "published")
    return work


def test_a_job_is_in_between_until_it_is_started(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], take: Take
) -> None:
    publish(work_queue, "release-1")
    taken = take(None)
    assert taken is not None
    assert (taken[0].id, taken[1].name) == ("release-1", work_queue.name)
    assert queues[1].intermediate_queue.get_job_ids() == ["release-1"]
    assert queues[1].get_job_ids() == []
    assert take(None) is None


def test_the_nodes_own_jobs_come_first(work_queue: WorkQueue, queues: list[UnbreakableQueue], take: Take) -> None:
    for work_id in ("release-1", "release-2"):
        publish(work_queue, work_id)
    work_queue.redis.lmove(queues[1].key, queues[0].key, "RIGHT", "LEFT")
    taken = [take(None), take(None)]
    assert [each[0].id for each in taken if each] == ["release-2", "release-1"]
    assert queues[0].intermediate_queue.get_job_ids() == ["release-2"]


def test_a_job_that_is_waited_for_is_in_between_too(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], take: Take
) -> None:
    found: list[str] = []

    def wait() -> None:
        taken = take(5)
        found.append(taken[0].id if taken else "")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    publish(work_queue, "release-1")
    thread.join(10)
    assert found == ["release-1"]
    eventually(lambda: queues[1].intermediate_queue.get_job_ids() == ["release-1"], "it to be in between")


def test_no_job_is_told_as_rq_tells_it(take: Take) -> None:
    with pytest.raises(DequeueTimeout):
        take(1)
