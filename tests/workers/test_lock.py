"""The gateway's lock: one holder, who loses it with time, and lets go only of what nobody added to meanwhile."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from shared.errors import InvalidPayloadError, LockLostError
from shared.keys import Keys
from shared.settings import load_settings
from workers.lock import MOMENT_SECONDS, GatewayLock

pytestmark = pytest.mark.server


def acquired(redis: Redis, keys: Keys, lifetime: float = 30, gateway: str = "gw1") -> GatewayLock | None:
    return GatewayLock.try_acquire(redis, keys, gateway, lifetime, "me")


def held(redis: Redis, keys: Keys, lifetime: float = 30) -> GatewayLock:
    lock = acquired(redis, keys, lifetime)
    assert lock is not None
    return lock


def test_it_has_one_holder_per_gateway(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys)
    assert acquired(redis, keys) is None
    assert acquired(redis, keys, gateway="gw2") is not None
    lock.release()
    assert acquired(redis, keys) is not None


def test_it_says_who_holds_it(redis: Redis, keys: Keys) -> None:
    held(redis, keys)
    assert str(redis.get(keys.lock("gw1"))).startswith("b'me/")


def test_it_frees_itself(redis: Redis, keys: Keys) -> None:
    held(redis, keys, lifetime=0.05)
    time.sleep(0.1)
    assert acquired(redis, keys) is not None


def test_a_holder_prolongs_it(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys, lifetime=10)
    redis.pexpire(keys.lock("gw1"), 1_000)
    lock.ensure_held()
    assert redis.pttl(keys.lock("gw1")) > 9_000


def test_a_holder_records_what_it_did(redis: Redis, keys: Keys) -> None:
    with held(redis, keys).transaction() as pipe:
        pipe.set("record", "done")
    assert redis.get("record") == b"done"


@pytest.mark.parametrize("another", [False, True])
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_holder_whose_lock_ran_out_records_nothing(redis: Redis, keys: Keys, another: bool, meanwhile: bool) -> None:
    lock = held(redis, keys)

    def lose() -> None:
        redis.delete(keys.lock("gw1"))
        if another:
            held(redis, keys)

    if not meanwhile:
        lose()
    with pytest.raises(LockLostError, match="before what was done there was recorded"), lock.transaction() as pipe:
        pipe.set("record", "done")
        lose()
    assert not redis.exists("record")


def test_a_holder_whose_lock_ran_out_is_told(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys)
    redis.delete(keys.lock("gw1"))
    with pytest.raises(LockLostError, match="gw1 ran out before the change"):
        lock.ensure_held()
    assert not redis.exists(keys.lock("gw1"))


def test_a_holder_whose_lock_is_anothers_is_told_and_leaves_it(redis: Redis, keys: Keys) -> None:
    late = held(redis, keys)
    redis.delete(keys.lock("gw1"))
    now = held(redis, keys)
    with pytest.raises(LockLostError):
        late.ensure_held()
    late.release()
    assert late.release_unless_changed(0)
    now.ensure_held()


def test_a_change_is_fenced_by_the_clock_for_a_moment_and_by_redis_from_then_on(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = held(redis, keys)
    redis.pexpire(keys.lock("gw1"), 20_000)
    monkeypatch.setattr("workers.lock.MOMENT_SECONDS", 60.0)
    lock.fence()
    assert redis.pttl(keys.lock("gw1")) <= 20_000
    monkeypatch.setattr("workers.lock.MOMENT_SECONDS", 0.0)
    lock.fence()
    assert redis.pttl(keys.lock("gw1")) > 20_000
    redis.delete(keys.lock("gw1"))
    asked_at = lock._asked_at
    with pytest.raises(LockLostError, match="gw1 ran out before the change"):
        lock.fence()
    # Nothing was granted, so no moment begins.
    assert lock._asked_at == asked_at


def test_no_lock_runs_out_within_that_moment() -> None:
    with pytest.raises(InvalidPayloadError, match="LOCK_LIFETIME"):
        load_settings(lock_lifetime=50 * MOMENT_SECONDS)


def test_it_is_kept_when_work_came_since_it_was_looked_at(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys)
    redis.set(keys.pending_generation("gw1"), 3)
    assert not lock.release_unless_changed(2)
    lock.ensure_held()
    assert lock.release_unless_changed(3)
    assert acquired(redis, keys) is not None


def test_it_is_let_go_of_with_the_record_unless_work_came(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys)
    redis.set(keys.pending_generation("gw1"), 3)
    with lock.transaction(unless_changed=2) as pipe:
        pipe.set("record", "first")
    assert not lock.released
    lock.ensure_held()
    with lock.transaction(unless_changed=3) as pipe:
        pipe.set("record", "second")
    assert (redis.get("record"), lock.released) == (b"second", True)
    assert acquired(redis, keys) is not None


def test_it_stays_held_by_a_transaction_that_says_nothing_of_it(redis: Redis, keys: Keys) -> None:
    lock = held(redis, keys)
    with lock.transaction() as pipe:
        pipe.set("record", "done")
    assert not lock.released
    lock.ensure_held()


def test_it_is_let_go_of_when_there_never_was_pending_work(redis: Redis, keys: Keys) -> None:
    assert held(redis, keys).release_unless_changed(0)
