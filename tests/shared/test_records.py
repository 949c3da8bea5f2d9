"""A record is found by all a person would look it up by, for as long as it lives and no longer."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from shared.keys import Keys
from shared.models import Outcome, Work, parse_work
from shared.records import UNFINISHED_DAYS, Records
from tests.payloads import RELEASE, release

pytestmark = pytest.mark.server

KEYS = Keys("test")
ADDRESS = RELEASE["addresses"][0]
DAY = 86400
HISTORY_SECONDS = 1


@pytest.fixture
def records(redis: Redis) -> Records:
    return Records(redis, KEYS, HISTORY_SECONDS / DAY)


def opened(records: Records, redis: Redis, work_id: str) -> Work:
    work = parse_work(release(id=work_id))
    with redis.pipeline() as pipe:
        records.open(pipe, work, "published")
        pipe.execute()
    return work


def close(records: Records, redis: Redis, work: Work) -> None:
    with redis.pipeline() as pipe:
        records.close(pipe, work, Outcome.RECLAIMED)
        pipe.execute()


def test_work_is_found_by_name_uid_address_and_id_oldest_first(records: Records, redis: Redis) -> None:
    for work_id in ("release-2", "release-1"):
        opened(records, redis, work_id)
    for term in (RELEASE["eip"], RELEASE["uid"], ADDRESS):
        assert records.find(term) == ["release-2", "release-1"]
    assert records.find("release-1") == ["release-1"]
    assert records.find("nobody") == []


def test_what_is_forgotten_leaves_nothing_behind(records: Records, redis: Redis) -> None:
    work = opened(records, redis, "release-1")
    assert redis.ttl(KEYS.index(ADDRESS)) > (UNFINISHED_DAYS - 1) * DAY
    close(records, redis, work)
    assert records.find(ADDRESS) == ["release-1"]
    time.sleep(HISTORY_SECONDS + 1.1)
    assert redis.keys("test:*") == []


def test_an_address_that_is_handed_out_again_and_again_does_not_collect_what_is_forgotten(
    records: Records, redis: Redis
) -> None:
    failed = opened(records, redis, "release-failed")
    for number in range(5):
        close(records, redis, opened(records, redis, f"release-{number}"))
    time.sleep(HISTORY_SECONDS + 0.1)
    opened(records, redis, "release-new")
    assert records.find(ADDRESS) == [failed.id, "release-new"]
    assert redis.zcard(KEYS.index(ADDRESS)) == 2


def test_the_last_of_many_to_be_forgotten_keeps_the_others_findable(records: Records, redis: Redis) -> None:
    failed = opened(records, redis, "release-failed")
    close(records, redis, opened(records, redis, "release-1"))
    time.sleep(HISTORY_SECONDS + 1.1)
    assert records.find(ADDRESS) == [failed.id]
