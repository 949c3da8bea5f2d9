"""Outcomes are counted by the hour, with the record of each, and forgotten with it."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from shared.keys import Keys
from shared.models import Outcome, parse_work
from shared.records import Records
from tests.payloads import release

pytestmark = pytest.mark.server

KEYS = Keys("test")
DAY = 86400


def close(redis: Redis, records: Records, outcome: Outcome, *, commit: bool = True) -> None:
    with redis.pipeline() as pipe:
        records.close(pipe, parse_work(release()), outcome)
        if commit:
            pipe.execute()


def this_hour() -> int:
    return int(time.time() // 3600)


def test_an_outcome_counts_in_the_hour_it_is_recorded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(redis, KEYS, 7)
    hour = this_hour()
    for offset, outcome in (
        (-2, Outcome.RECLAIMED),
        (0, Outcome.RECLAIMED),
        (0, Outcome.RECLAIMED),
        (0, Outcome.RESTORED),
    ):
        monkeypatch.setattr(time, "time", lambda offset=offset: (hour + offset) * 3600 + 5.0)
        close(redis, records, outcome)
    assert records.tally.hours(hour - 2, hour) == [{"reclaimed": 1}, {}, {"reclaimed": 2, "restored": 1}]


def test_an_outcome_that_is_not_recorded_does_not_count(redis: Redis) -> None:
    records = Records(redis, KEYS, 7)
    close(redis, records, Outcome.RECLAIMED, commit=False)
    assert records.tally.hours(this_hour() - 1, this_hour()) == [{}, {}]


def test_counts_are_kept_as_long_as_the_history(redis: Redis) -> None:
    close(redis, Records(redis, KEYS, 7), Outcome.RECLAIMED)
    (key,) = redis.keys("test:outcomes:*")
    assert 6.9 * DAY < redis.ttl(key) <= 7 * DAY
