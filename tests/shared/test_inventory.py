"""The one transaction: inventory, work and position together, once, whoever else commits."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.exceptions import WatchError

from shared.connection import connect
from shared.difference import Gone, Seen
from shared.errors import WrongClusterError
from shared.inventory import Inventory, RedisWentBackError
from shared.models import Confirmation, Release
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.shared.test_difference import A, B, eip
from tests.vouched import is_vouched, reign
from tests.waiting import eventually

pytestmark = pytest.mark.server


@pytest.fixture
def inventory(work_queue: WorkQueue) -> Inventory:
    return Inventory(work_queue, "c1", "p1")


@pytest.fixture
def other(work_queue: WorkQueue) -> Inventory:
    return Inventory(work_queue, "c1", "p2")


def owners(work_queue: WorkQueue, gateway: str, address: str) -> set[Any]:
    return {uid.decode() for uid in work_queue.redis.smembers(work_queue.keys.owners(gateway, address))}  # type: ignore[union-attr]


def test_a_release_is_recorded_pending_and_queued_at_once(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([Seen(eip("u1", A))], 10)
    assert owners(work_queue, "gw1", A) == {"u1"}
    inventory.commit([Gone("u1", "deleted")], 12)
    assert inventory.all() == {}
    assert inventory.checkpoint() == 12
    assert owners(work_queue, "gw1", A) == set()
    assert isinstance(work_queue.records.work("release-u1"), Release)
    assert work_queue.redis.hkeys(work_queue.keys.pending("gw1")) == [b"release-u1"]
    assert work_queue.redis.get(work_queue.keys.pending_generation("gw1")) == b"1"
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    job = work_queue.queue.fetch_job("release-u1")
    assert job is not None
    assert job.description == f"release {A} on gw1 (EIP eip-u1, deleted)"
    assert work_queue.records.find("eip-u1") == work_queue.records.find(A) == ["release-u1"]


def test_the_same_seen_by_two_is_published_once(inventory: Inventory, other: Inventory, work_queue: WorkQueue) -> None:
    for each in (inventory, other):
        each.commit([Seen(eip("u1", A))], 10)
    for each in (inventory, other):
        each.commit([Gone("u1", "deleted", eip("u1", A, resource_version=12))], 12)
    assert work_queue.queue.get_job_ids() == ["release-u1"]


def test_a_lagging_producer_neither_brings_back_nor_sets_back(inventory: Inventory, other: Inventory) -> None:
    inventory.commit([Seen(eip("u1", A)), Seen(eip("u2", B, resource_version=11))], 11)
    inventory.commit([Gone("u1", "deleted")], 12)
    result = other.commit([Seen(eip("u1", A)), Seen(eip("u2", B, gateway="gw0", resource_version=9))], 10)
    assert not result
    assert set(inventory.all()) == {"u2"}
    assert inventory.all()["u2"].gateway == "gw1"
    assert inventory.checkpoint() == 12


def test_two_that_commit_at_the_same_moment_publish_once(
    work_queue: WorkQueue, inventory: Inventory, other: Inventory
) -> None:
    inventory.commit([Seen(eip("u1", A))], 10)
    rival = threading.Thread(target=other.commit, args=([Gone("u1", "deleted")], 12))
    attempts = []

    def interfere(step: str) -> None:
        attempts.append(step)
        if attempts == ["watch", "execute"]:
            rival.start()
            rival.join()

    result = Inventory(work_queue, "c1", "p3", interfere).commit([Gone("u1", "deleted")], 12)
    assert attempts == ["watch", "execute", "watch", "execute", "committed"]
    assert not result
    assert work_queue.queue.get_job_ids() == ["release-u1"]


def test_an_owner_of_what_is_being_taken_away_is_confirmed(inventory: Inventory, work_queue: WorkQueue) -> None:
    keys = work_queue.keys
    work_queue.redis.set(keys.intent("gw1", A), json.dumps({"anything": 1}))
    result = inventory.commit([Seen(eip("u1", A, "fd00::5"))], 10)
    (work,) = result.works
    assert isinstance(work, Confirmation)
    assert (work.gateway, work.uid, list(map(str, work.addresses))) == ("gw1", "u1", [A])
    assert work_queue.queue.get_job_ids() == [work.id]
    # Once is enough, while it owns the address.
    assert inventory.commit([Seen(eip("u1", A, "fd00::5", resource_version=11))], 11).works == []


def test_an_intent_recorded_during_the_commit_is_seen(work_queue: WorkQueue) -> None:
    steps = []

    def intend(step: str) -> None:
        steps.append(step)
        if steps == ["watch", "execute"]:
            work_queue.redis.set(work_queue.keys.intent("gw1", A), json.dumps({"anything": 1}))

    (work,) = Inventory(work_queue, "c1", "p1", intend).commit([Seen(eip("u1", A))], 10).works
    assert work.kind == "confirmation"


def test_confirmations_are_served_before_releases(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([Seen(eip("u1", A))], 10)
    inventory.commit([Gone("u1", "deleted")], 11)
    work_queue.redis.set(work_queue.keys.intent("gw1", A), json.dumps({"anything": 1}))
    inventory.commit([Seen(eip("u2", A))], 12)
    assert [job_id.split("-")[0] for job_id in work_queue.queue.get_job_ids()] == ["confirm", "release"]


def test_a_redis_that_forgot_the_last_commit_is_noticed(
    inventory: Inventory, other: Inventory, work_queue: WorkQueue
) -> None:
    inventory.commit([], 10)
    other.commit([], 10)
    inventory.verify()
    work_queue.redis.hdel(work_queue.keys.producers, "p1")
    with pytest.raises(RedisWentBackError):
        inventory.commit([Seen(eip("u1", A))], 12)
    assert inventory.all() == {}
    assert inventory.checkpoint() == 10
    other.verify()


def test_an_answer_that_was_lost_is_no_older_redis(work_queue: WorkQueue) -> None:
    def lose_answer(step: str) -> None:
        if step == "committed" and losing:
            raise ConnectionError

    losing = [True]
    inventory = Inventory(work_queue, "c1", "p1", lose_answer)
    with pytest.raises(ConnectionError):
        inventory.commit([Seen(eip("u1", A))], 10)
    losing.clear()
    assert not inventory.commit([Seen(eip("u1", A))], 10)
    inventory.verify()


def test_a_connection_that_breaks_in_the_middle_costs_nothing(work_queue: WorkQueue, redis: Redis) -> None:
    breaking = ["execute", "watch"]

    def break_off(step: str) -> None:
        if step in breaking:
            breaking.remove(step)
            redis.client_kill_filter(_type="normal", skipme=True)

    inventory = Inventory(work_queue, "c1", "p1", break_off)
    assert set(inventory.commit([Seen(eip("u1", A))], 10).known) == {"u1"}
    breaking.append("execute")
    inventory.commit([Gone("u1", "deleted")], 12)
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    inventory.verify()


@pytest.mark.parametrize("meanwhile", ["nothing", "another commits", "the connection breaks", "redis is emptied"])
def test_a_commit_that_was_watched_ahead_decides_on_what_is_true_then(
    work_queue: WorkQueue, redis: Redis, other: Inventory, meanwhile: str
) -> None:
    steps: list[str] = []
    inventory = Inventory(work_queue, "c1", "p1", steps.append)
    inventory.commit([Seen(eip("u1", A))], 10)
    steps.clear()
    inventory.watch_ahead()
    inventory.watch_ahead()
    if meanwhile == "another commits":
        other.commit([Gone("u1", "deleted")], 12)
    elif meanwhile == "the connection breaks":
        redis.client_kill_filter(_type="normal", skipme=True)
    elif meanwhile == "redis is emptied":
        redis.flushdb()
        with pytest.raises(RedisWentBackError):
            inventory.commit([Gone("u1", "deleted")], 12)
        return
    result = inventory.commit([Gone("u1", "deleted")], 12)
    assert [work.id for work in result.works] == ([] if meanwhile == "another commits" else ["release-u1"])
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    assert steps.count("watch") == (1 if meanwhile == "nothing" else 2)
    inventory.verify()


def test_a_server_that_does_not_answer_leaves_no_connection_behind(redis: Redis, settings: Settings) -> None:
    impatient = connect(settings, patience=0.2)
    inventory = Inventory(WorkQueue(impatient, settings), "c1", "p1")
    inventory.commit([Seen(eip("u1", A))], 10)
    inventory.watch_ahead()
    redis.client_pause(1500)
    with pytest.raises(RedisTimeoutError):
        inventory.commit([Gone("u1", "deleted")], 12)
    assert not impatient.connection_pool._in_use_connections
    redis.client_unpause()
    (work,) = inventory.commit([Gone("u1", "deleted")], 12).works
    assert work.id == "release-u1"


@pytest.mark.parametrize("applied", [True, False])
def test_a_connection_that_breaks_with_the_answer_doubles_nothing(
    work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    inventory = Inventory(work_queue, "c1", "p1")
    inventory.commit([Seen(eip("u1", A))], 10)
    execute, losing = Pipeline.execute, [True]

    def lose_answer(pipe: Pipeline, **kwargs: Any) -> Any:
        if not losing.pop():
            return execute(pipe, **kwargs)
        if applied:
            execute(pipe, **kwargs)
        raise WatchError("as redis-py says when the connection breaks while keys are watched")

    losing.insert(0, False)
    monkeypatch.setattr(Pipeline, "execute", lose_answer)
    inventory.commit([Gone("u1", "deleted")], 12)
    monkeypatch.undo()
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    inventory.verify()


def test_another_clusters_redis_is_refused_at_every_commit(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.claim_cluster()
    inventory.commit([Seen(eip("u1", A))], 10)
    work_queue.redis.set(work_queue.keys.cluster, "c2")
    with pytest.raises(WrongClusterError, match=r"kube-system has the UID c2 there, c1 here.*EIP_RECLAIMER_KEY_PREFIX"):
        inventory.commit([Gone("u1", "deleted")], 12)
    with pytest.raises(WrongClusterError):
        inventory.claim_cluster()
    assert set(inventory.all()) == {"u1"}
    assert work_queue.queue.get_job_ids() == []


def test_forgetting_the_history_keeps_the_work(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([Seen(eip("u1", A)), Seen(eip("u2", B))], 10)
    inventory.commit([Gone("u1", "deleted")], 12)
    inventory.forget_history()
    assert inventory.all() == {}
    assert inventory.checkpoint() is None
    assert owners(work_queue, "gw1", B) == set()
    assert work_queue.queue.get_job_ids() == ["release-u1"]
    # What is of the restored history is new again, even a UID that had been released.
    assert set(inventory.commit([Seen(eip("u1", A, resource_version=5))], 6).known) == {"u1"}


def test_producers_that_died_long_ago_are_forgotten(inventory: Inventory, work_queue: WorkQueue) -> None:
    keys, redis = work_queue.keys, work_queue.redis
    redis.hset(
        keys.producers,
        mapping={name: json.dumps({"mark": "m", "at": at}) for name, at in [("dead", 1), ("p2", time.time())]},
    )
    inventory.claim_cluster()
    assert redis.hkeys(keys.producers) == [b"p2"]


def test_a_producer_vouches_in_the_server_process_that_it_says_and_no_other(
    inventory: Inventory, other: Inventory, work_queue: WorkQueue
) -> None:
    def commit(by: Inventory, version: int) -> tuple[bool, bool]:
        by.commit([], version)
        return by.vouched, is_vouched(work_queue)

    inventory.word_until = other.word_until = time.monotonic() + 6
    work_queue.redis.delete(work_queue.keys.vouched)
    assert commit(inventory, 10) == (False, False)
    assert inventory.reign == reign(work_queue)
    inventory.vouches_for = "the server before"
    assert commit(inventory, 11) == (False, False)
    inventory.vouches_for = inventory.reign
    assert commit(inventory, 12) == (True, True)
    assert commit(other, 12) == (True, True)
    inventory.forget_history()
    assert commit(other, 12) == (False, False)
    assert commit(inventory, 13) == (False, False)


@pytest.fixture
def unfollowed(work_queue: WorkQueue) -> None:
    work_queue.redis.delete(work_queue.keys.following)


@pytest.mark.usefixtures("unfollowed")
def test_a_producer_says_that_it_follows_for_as_long_as_it_does(
    inventory: Inventory, other: Inventory, work_queue: WorkQueue
) -> None:
    inventory.commit([], 10)
    assert not is_vouched(work_queue)
    inventory.word_until = time.monotonic() + 6
    inventory.commit([], 10)
    assert is_vouched(work_queue)
    # That another does not is no word about this one.
    other.commit([], 10)
    assert is_vouched(work_queue)
    inventory.word_until = 0
    inventory.commit([], None)
    assert not is_vouched(work_queue)


@pytest.mark.usefixtures("unfollowed")
def test_a_word_holds_for_some_seconds_and_is_left_again(
    inventory: Inventory, work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until() -> float:
        return work_queue.redis.zscore(work_queue.keys.following, "p1") or 0.0

    monkeypatch.setattr("shared.inventory.WORD_SECONDS", 1.0)
    monkeypatch.setattr("shared.inventory.WORD_AGAIN", 0.2)
    inventory.word_until = time.monotonic() + 60
    inventory.commit([], 10)
    first = until()
    inventory.commit([], 11)
    assert until() == first
    time.sleep(0.3)
    inventory.commit([], 12)
    assert 0.2 < until() - first < 1
    # Nobody is there to take it back.
    eventually(lambda: not is_vouched(work_queue), "the word to end", 3)


@pytest.mark.usefixtures("unfollowed")
def test_a_word_whose_answer_was_lost_is_taken_back_all_the_same(
    inventory: Inventory, work_queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.commit([], 10)
    inventory.word_until = time.monotonic() + 6
    with monkeypatch.context() as patch:
        execute = Pipeline.execute

        def lost(pipe: Pipeline, *args: Any, **kwargs: Any) -> list[Any]:
            execute(pipe, *args, **kwargs)
            raise RedisTimeoutError("the answer was lost")

        patch.setattr(Pipeline, "execute", lost)
        with pytest.raises(RedisTimeoutError):
            inventory.commit([], 11)
    assert is_vouched(work_queue)
    inventory.word_until = 0
    inventory.commit([], None)
    assert not is_vouched(work_queue)


@pytest.mark.usefixtures("unfollowed")
def test_a_word_is_about_the_moment_of_its_commit(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.word_until = time.monotonic() + 1
    inventory.commit([], 10)
    assert is_vouched(work_queue)
    assert 0 < inventory.word_left <= 1
    time.sleep(1)
    # A list took long.
    inventory.commit([], None)
    assert not is_vouched(work_queue)
    assert inventory.word_left == 0


@pytest.mark.usefixtures("unfollowed")
def test_a_part_of_what_was_seen_is_no_word(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.word_until = time.monotonic() + 6
    inventory.commit([Seen(eip("u1", A))], None)
    assert not is_vouched(work_queue)
    inventory.commit([Seen(eip("u2", B))], 10)
    assert is_vouched(work_queue)


def test_words_by_another_servers_clock_do_not_count(inventory: Inventory, work_queue: WorkQueue) -> None:
    work_queue.redis.delete(work_queue.keys.vouched)
    work_queue.redis.zadd(work_queue.keys.following, {"one that died": time.time() + 3600})
    inventory.commit([], 10)
    inventory.vouches_for = inventory.reign
    inventory.commit([], 10)
    assert inventory.vouched
    assert not is_vouched(work_queue)


def test_a_doubtful_list_in_place_of_events_ends_that_the_inventory_is_vouched_for(
    inventory: Inventory, other: Inventory, work_queue: WorkQueue
) -> None:
    other.commit([], 12)
    # Another has seen the events.
    inventory.commit([], 12, gap=True, doubtful=True)
    assert is_vouched(work_queue)
    inventory.commit([], 13, gap=True, doubtful=True)
    assert not is_vouched(work_queue)
    assert not inventory.vouched


def test_so_does_one_that_is_taken_beside_events(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([], None, doubtful=True)
    assert not is_vouched(work_queue)


def test_a_word_that_came_too_late_is_not_kept_for_the_next_time(
    inventory: Inventory, other: Inventory, work_queue: WorkQueue
) -> None:
    inventory.commit([], 10)
    # Another was quicker.
    inventory.vouches_for = inventory.reign
    inventory.commit([], 11)
    other.forget_history()
    inventory.commit([], 12)
    assert not inventory.vouched
    assert not is_vouched(work_queue)


def test_what_is_published_again_has_to_be_vouched_for(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([Seen(eip("u1", A))], 10)
    (work,) = inventory.commit([Gone("u1", "deleted")], 11).works
    # All that an older Redis has of it is what a worker told meanwhile.
    work_queue.redis.delete(work_queue.keys.record(work.id))
    work_queue.records.note(work.id, deleted="")
    assert inventory.publish_again([work], {}) == [work]
    assert not is_vouched(work_queue)


def test_a_producer_that_redis_went_back_on_does_not_vouch(inventory: Inventory, work_queue: WorkQueue) -> None:
    inventory.commit([], 10)
    work_queue.redis.delete(work_queue.keys.vouched)
    inventory.commit([], 10)
    inventory.vouches_for = inventory.reign
    work_queue.redis.hdel(work_queue.keys.producers, "p1")
    with pytest.raises(RedisWentBackError):
        inventory.commit([], 11)
    inventory.publish_again([], {})
    inventory.commit([], 11)
    assert not is_vouched(work_queue)
