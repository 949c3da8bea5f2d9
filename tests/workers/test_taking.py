"""Which job is taken next: none is lost with a worker, none is taken of a gateway that somebody works on."""

from __future__ import annotations

import threading
import time

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import suspend

from shared.models import Work, parse_work
from shared.queue import WorkQueue
from tests.payloads import release
from tests.waiting import eventually
from workers.jobs import ReclaimJob
from workers.lock import GatewayLock
from workers.taking import SuspendedError, Taker
from workers.unbreakable import UnbreakableQueue

pytestmark = pytest.mark.server


def opened(work_queue: WorkQueue, *names: str) -> list[UnbreakableQueue]:
    return [UnbreakableQueue(name, connection=work_queue.redis, serializer=JSONSerializer) for name in names]


@pytest.fixture
def queues(work_queue: WorkQueue) -> list[UnbreakableQueue]:
    """A node's, and the general one."""
    return opened(work_queue, work_queue.node_queue("node-1"), work_queue.name)


@pytest.fixture
def taker(work_queue: WorkQueue, queues: list[UnbreakableQueue]) -> Taker:
    return Taker(work_queue.redis, work_queue.keys, queues, ReclaimJob)


@pytest.fixture
def behind(work_queue: WorkQueue, taker: Taker, monkeypatch: pytest.MonkeyPatch) -> Taker:
    """One that will wait for a job behind that of a gateway which another worker has, for as long as it is told."""
    monkeypatch.setattr("workers.taking.BUSY_PAUSE", 60.0)
    publish(work_queue, "busy-1")
    lock(work_queue, "gw1")
    assert take(work_queue, taker) is None
    return taker


def take(work_queue: WorkQueue, taker: Taker) -> str | None:
    with work_queue.redis.pipeline(transaction=False) as pipe:
        taken = taker.take(pipe)
    return taken[0].id if taken else None


def publish(work_queue: WorkQueue, work_id: str, gateway: str = "gw1") -> Work:
    work = parse_work(release(id=work_id, gateway=gateway))
    work_queue.publish_now([work], "published")
    return work


def lock(work_queue: WorkQueue, gateway: str) -> GatewayLock:
    held = GatewayLock.try_acquire(work_queue.redis, work_queue.keys, gateway, 30)
    assert held is not None
    return held


def test_a_job_is_in_between_until_it_is_started(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], taker: Taker
) -> None:
    publish(work_queue, "release-1")
    assert take(work_queue, taker) == "release-1"
    assert queues[1].intermediate_queue.get_job_ids() == ["release-1"]
    assert queues[1].get_job_ids() == []
    assert take(work_queue, taker) is None


def test_the_nodes_own_jobs_come_first(work_queue: WorkQueue, queues: list[UnbreakableQueue], taker: Taker) -> None:
    for number in (1, 2):
        publish(work_queue, f"release-{number}", f"gw{number}")
    work_queue.redis.lmove(queues[1].key, queues[0].key, "RIGHT", "LEFT")
    assert [take(work_queue, taker), take(work_queue, taker)] == ["release-2", "release-1"]
    assert queues[0].intermediate_queue.get_job_ids() == ["release-2"]


@pytest.mark.parametrize("of_a_node", [True, False])
def test_a_job_that_is_waited_for_is_in_between_too(work_queue: WorkQueue, of_a_node: bool) -> None:
    names = [work_queue.node_queue("node-1")] * of_a_node + [work_queue.name]
    queues = opened(work_queue, *names)
    taker = Taker(work_queue.redis, work_queue.keys, queues, ReclaimJob)
    assert take(work_queue, taker) is None
    found: list[str] = []

    def wait() -> None:
        taken = taker.wait(5)
        found.append(taken[0].id if taken else "")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    publish(work_queue, "release-1")
    thread.join(10)
    assert found == ["release-1"]
    eventually(lambda: queues[-1].intermediate_queue.get_job_ids() == ["release-1"], "it to be in between")


def test_waiting_ends_where_none_comes(work_queue: WorkQueue, taker: Taker) -> None:
    assert take(work_queue, taker) is None
    assert taker.wait(1) is None


def test_jobs_of_a_gateway_that_somebody_has_are_passed_over_and_keep_their_places(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], taker: Taker
) -> None:
    busy = [f"busy-{number}" for number in range(120)]
    for work_id in busy:
        publish(work_queue, work_id, "gw1")
    publish(work_queue, "other-1", "gw2")
    held = lock(work_queue, "gw1")
    assert take(work_queue, taker) == "other-1"
    assert take(work_queue, taker) is None
    assert queues[1].get_job_ids() == busy
    held.release()
    assert take(work_queue, taker) == "busy-0"


def test_a_job_that_comes_for_a_busy_gateway_while_one_waits_goes_back(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], taker: Taker
) -> None:
    lock(work_queue, "gw1")
    assert take(work_queue, taker) is None
    threading.Timer(0.2, publish, (work_queue, "release-1")).start()
    assert taker.wait(5) is None
    assert queues[1].get_job_ids() == ["release-1"]
    assert queues[1].intermediate_queue.get_job_ids() == []


def test_where_only_busy_gateways_have_jobs_the_next_look_is_soon(work_queue: WorkQueue, taker: Taker) -> None:
    publish(work_queue, "release-1")
    held = lock(work_queue, "gw1")
    assert take(work_queue, taker) is None
    began = time.monotonic()
    assert taker.wait(5) is None
    assert time.monotonic() - began < 1
    held.release()
    assert take(work_queue, taker) == "release-1"


@pytest.mark.parametrize("while_it_waits", [True, False])
def test_a_job_that_comes_behind_those_of_busy_gateways_is_taken_at_once(
    work_queue: WorkQueue,
    queues: list[UnbreakableQueue],
    taker: Taker,
    while_it_waits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.taking.BUSY_PAUSE", 60.0)
    busy = [f"busy-{number}" for number in range(120)]
    for work_id in busy:
        publish(work_queue, work_id, "gw1")
    lock(work_queue, "gw1")
    assert take(work_queue, taker) is None
    if while_it_waits:
        threading.Timer(0.2, publish, (work_queue, "other-1", "gw2")).start()
    else:
        publish(work_queue, "other-1", "gw2")
    taken = taker.wait(30)
    assert taken is not None
    assert taken[0].id == "other-1"
    assert queues[1].get_job_ids() == busy


def test_of_two_that_come_behind_those_of_busy_gateways_the_older_is_taken(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker
) -> None:
    for number in (2, 3):
        publish(work_queue, f"other-{number}", f"gw{number}")
    taken = behind.wait(5)
    assert taken is not None
    assert taken[0].id == "other-2"
    assert take(work_queue, behind) == "other-3"
    assert queues[1].get_job_ids() == ["busy-1"]


def test_one_that_comes_behind_them_and_is_of_a_busy_gateway_itself_keeps_its_place(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker
) -> None:
    publish(work_queue, "busy-2")
    assert behind.wait(0.2) is None
    threading.Timer(0.2, publish, (work_queue, "other-1", "gw2")).start()
    taken = behind.wait(5)
    assert taken is not None
    assert taken[0].id == "other-1"
    assert queues[1].get_job_ids() == ["busy-1", "busy-2"]
    assert queues[1].intermediate_queue.get_job_ids() == ["other-1"]


def test_one_that_comes_behind_them_is_one_workers_only(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(work_queue, "other-1", "gw2")
    look = behind._ends
    another = Taker(work_queue.redis, work_queue.keys, queues, ReclaimJob)
    taken_by_another: list[str | None] = []

    def late() -> tuple[list[list[bytes]], list[list[bytes]]]:
        seen = look()
        if not taken_by_another:
            taken_by_another.append(take(work_queue, another))
            # As if it had been done with it by now.
            work_queue.redis.delete(work_queue.keys.taken("gw2"))
        return seen

    monkeypatch.setattr(behind, "_ends", late)
    assert behind.wait(0.3) is None
    assert taken_by_another == ["other-1"]
    assert queues[1].intermediate_queue.get_job_ids() == ["other-1"]


def test_one_that_comes_behind_them_on_one_queue_is_seen_beside_one_on_another(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker
) -> None:
    work_queue.redis.lmove(queues[1].key, queues[0].key, "LEFT", "LEFT")
    publish(work_queue, "busy-2")
    assert take(work_queue, behind) is None
    publish(work_queue, "busy-3")
    work_queue.redis.lmove(queues[1].key, queues[0].key, "RIGHT", "RIGHT")
    publish(work_queue, "other-1", "gw2")
    taken = behind.wait(5)
    assert taken is not None
    assert taken[0].id == "other-1"


@pytest.mark.parametrize("comes", [True, False])
def test_waiting_behind_them_ends_where_one_comes_first_or_they_are_fewer(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker, comes: bool
) -> None:
    publish(work_queue, "busy-2")
    assert take(work_queue, behind) is None
    if comes:
        publish(work_queue, "first", "gw2")
        work_queue.redis.lmove(queues[1].key, queues[1].key, "RIGHT", "LEFT")
    else:
        queues[1].remove("busy-1")
    publish(work_queue, "last", "gw3")
    began = time.monotonic()
    assert behind.wait(30) is None
    assert time.monotonic() - began < 10
    assert take(work_queue, behind) == ("first" if comes else "last")


def test_none_that_comes_behind_them_is_taken_while_workers_are_suspended(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], behind: Taker
) -> None:
    suspend(work_queue.redis)
    publish(work_queue, "other-1", "gw2")
    assert behind.wait(0.3) is None
    assert queues[1].get_job_ids() == ["busy-1", "other-1"]
    assert queues[1].intermediate_queue.get_job_ids() == []


@pytest.mark.parametrize("waited_for", [False, True])
def test_one_job_of_a_gateway_is_taken_and_the_next_when_its_worker_has_had_the_lock(
    work_queue: WorkQueue, queues: list[UnbreakableQueue], waited_for: bool
) -> None:
    taker = Taker(work_queue.redis, work_queue.keys, queues[1:], ReclaimJob)
    if waited_for:
        assert take(work_queue, taker) is None
        threading.Timer(0.2, publish, (work_queue, "release-1")).start()
        taken = taker.wait(5)
        assert taken is not None
    else:
        publish(work_queue, "release-1")
        assert take(work_queue, taker) == "release-1"
    publish(work_queue, "release-2")
    assert take(work_queue, taker) is None
    lock(work_queue, "gw1").release()
    assert take(work_queue, taker) == "release-2"


def test_where_the_worker_dies_before_it_asks_for_the_lock_the_gateway_waits_a_moment(
    work_queue: WorkQueue, taker: Taker
) -> None:
    for work_id in ("release-1", "release-2"):
        publish(work_queue, work_id)
    assert take(work_queue, taker) == "release-1"
    began = time.monotonic()
    assert eventually(lambda: take(work_queue, taker), "the other job") == "release-2"
    assert 0.5 < time.monotonic() - began < 5


@pytest.mark.parametrize("record", [b"no hash", None])
def test_a_job_of_no_known_gateway_is_taken(work_queue: WorkQueue, taker: Taker, record: bytes | None) -> None:
    publish(work_queue, "release-1")
    work_queue.redis.delete(work_queue.keys.record("release-1"))
    if record is not None:
        work_queue.redis.set(work_queue.keys.record("release-1"), record)
    lock(work_queue, "gw1")
    assert take(work_queue, taker) == "release-1"


def test_one_whose_job_is_gone_is_no_job(work_queue: WorkQueue, queues: list[UnbreakableQueue], taker: Taker) -> None:
    publish(work_queue, "release-1")
    work_queue.redis.delete(Job.key_for("release-1"))
    assert take(work_queue, taker) is None
    assert queues[1].intermediate_queue.get_job_ids() == []


def test_nothing_is_taken_while_workers_are_suspended(work_queue: WorkQueue, taker: Taker) -> None:
    publish(work_queue, "release-1")
    suspend(work_queue.redis)
    with pytest.raises(SuspendedError):
        take(work_queue, taker)
    assert work_queue.queue.get_job_ids() == ["release-1"]
