"""What a worker is told of what is pending: all of a little, and of a lot no more than a round needs."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from shared.models import parse_work
from shared.queue import WorkQueue
from tests.payloads import release
from tests.pending import leave_pending
from workers.pending import ROUND_SIZE, Pending

pytestmark = pytest.mark.server


def asked(work_queue: WorkQueue) -> Pending:
    with work_queue.redis.pipeline(transaction=True) as pipe:
        Pending.ask_for(pipe, work_queue.keys, "gw1")
        return Pending.answered(pipe.execute()[-1])


def test_a_gateway_without_work_has_none(work_queue: WorkQueue) -> None:
    pending = asked(work_queue)
    assert (pending.generation, pending.works) == (0, {})


def test_all_of_a_little_is_told(work_queue: WorkQueue) -> None:
    works = [parse_work(release(id=f"release-{number}")) for number in range(30)]
    for work in works:
        leave_pending(work_queue, work)
    pending = asked(work_queue)
    assert pending.generation == 30
    assert {parse_work(payload).id for payload in pending.works.values()} == {work.id for work in works}


@pytest.mark.parametrize("count", [ROUND_SIZE + 1, 5 * ROUND_SIZE])
def test_of_a_lot_at_least_a_round_is_told_and_not_much_more(work_queue: WorkQueue, count: int) -> None:
    stored: dict[Any, Any] = {f"release-{number}".encode(): f"{number:0300}".encode() for number in range(count)}
    work_queue.redis.hset(work_queue.keys.pending("gw1"), mapping=stored)
    pending = asked(work_queue)
    assert ROUND_SIZE <= len(pending.works) < 2 * ROUND_SIZE
    assert pending.works.items() <= stored.items()


@pytest.mark.parametrize("key", ["pending", "pending_generation"])
def test_what_is_not_ours_is_an_error(work_queue: WorkQueue, key: str) -> None:
    work_queue.redis.sadd(getattr(work_queue.keys, key)("gw1"), "not ours")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        asked(work_queue)
