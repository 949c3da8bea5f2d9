"""The status tells what there is, what is missing, and what needs a person."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import pytest
from rq.executions import Execution

from shared.brake import Brake
from shared.difference import Gone, Seen
from shared.inventory import Inventory
from shared.models import parse_work
from shared.queue import WorkQueue
from shared.reports import Finding, GatewayReport, Kind
from shared.settings import Settings
from shared.status import Status
from shared.status_reader import StatusReader
from tests.failing import fail
from tests.payloads import release
from tests.shared.test_difference import A, eip
from workers.lock import GatewayLock

pytestmark = pytest.mark.server


@pytest.fixture
def reader(work_queue: WorkQueue, settings: Settings) -> StatusReader:
    return StatusReader(work_queue, settings)


def live(
    work_queue: WorkQueue, name: str = "w1", *, queues: str = "eip-reclaimer", age: float = 0, job: str = ""
) -> None:
    """A worker as RQ registers it, that said so many seconds ago that it lives."""
    beat = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - age))
    fields: dict[Any, Any] = {"queues": queues, "state": "idle", "last_heartbeat": beat}
    work_queue.redis.hset(f"rq:worker:{name}", mapping=fields)
    for queue in queues.split(","):
        work_queue.redis.sadd(f"rq:workers:{queue}", f"rq:worker:{name}")


def start(work_queue: WorkQueue, work_id: str, worker: str) -> None:
    """As a worker does that takes a job."""
    work_queue.publish_now([parse_work(release(id=work_id))], "published")
    job = work_queue.queue.fetch_job(work_id)
    assert job is not None
    work_queue.queue.remove(job)
    with work_queue.redis.pipeline() as pipe:
        job.prepare_for_execution(worker, pipeline=pipe)
        execution = Execution.create(job, 60, pipeline=pipe)
        pipe.zadd(work_queue.queue.started_job_registry.key, {execution.composite_key: time.time() + 60})
        pipe.execute()


def produce(work_queue: WorkQueue) -> Inventory:
    inventory = Inventory(work_queue, "c1", "p1")
    inventory.claim_cluster()
    inventory.commit([], 10)
    return inventory


def needs(status: Status) -> list[str]:
    return [need.do for need in status.needs]


def test_an_empty_redis_has_a_status(reader: StatusReader) -> None:
    status = reader.read()
    assert (status.cluster, status.resource_version, status.brake) == (None, None, None)
    assert (status.pending, status.oldest_pending, status.failed, status.known_eips) == (0, None, 0, 0)
    assert [queue.name for queue in status.queues] == ["eip-reclaimer"]
    assert needs(status) == ["eip-reclaimer producer", "eip-reclaimer worker"]
    json.dumps(asdict(status))


def test_all_is_well_when_both_kinds_live_and_nothing_failed(reader: StatusReader, work_queue: WorkQueue) -> None:
    produce(work_queue).commit([Seen(eip("u1", A))], 11)
    live(work_queue)
    status = reader.read()
    assert status.needs == ()
    assert (status.cluster, status.resource_version, status.known_eips) == ("c1", 11, 1)
    assert status.advanced_at == pytest.approx(time.time(), abs=5)


def test_a_producer_is_told_with_its_position_and_when_the_api_spoke_last(
    reader: StatusReader, work_queue: WorkQueue
) -> None:
    inventory = produce(work_queue)
    (producer,) = reader.read().producers
    assert (producer.name, producer.resource_version, producer.heard_at, producer.alive) == ("p1", 10, None, True)
    inventory.heard_at = 1000.0
    inventory.verify()
    (producer,) = reader.read().producers
    assert (producer.resource_version, producer.heard_at) == (10, 1000.0)
    live(work_queue)
    assert needs(reader.read()) == ["look at the producers' logs and the API"]


def test_producers_and_workers_that_say_nothing_any_more_are_told_as_dead(
    reader: StatusReader, work_queue: WorkQueue, settings: Settings
) -> None:
    old = json.dumps({"mark": "m", "at": time.time() - 60})
    work_queue.redis.hset(work_queue.keys.producers, "p0", old)
    live(work_queue, age=60)
    status = reader.read()
    assert [producer.alive for producer in status.producers] == [False]
    assert [worker.alive for worker in status.workers] == [False]
    assert needs(status) == ["eip-reclaimer producer", "eip-reclaimer worker"]
    # One that has a job says nothing until that ends.
    live(work_queue, age=settings.job_timeout)
    start(work_queue, "release-1", "w1")
    (worker,) = reader.read().workers
    assert (worker.alive, worker.job, worker.state) == (True, "release-1", "busy")


def test_a_nodes_queue_that_nobody_serves(reader: StatusReader, work_queue: WorkQueue) -> None:
    produce(work_queue)
    live(work_queue)
    node = work_queue.node_queue("node-1")
    work_queue.open(node).enqueue_job(work_queue.job(parse_work(release())))
    status = reader.read()
    assert [(queue.name, queue.node, queue.queued) for queue in status.queues] == [
        ("eip-reclaimer", None, 0),
        (node, "node-1", 1),
    ]
    (need,) = status.needs
    assert need.what == "1 jobs wait for a worker on node node-1, where none lives"
    live(work_queue, "w2", queues=f"{node},eip-reclaimer")
    assert reader.read().needs == ()


def test_pending_work_and_who_has_its_gateway(reader: StatusReader, work_queue: WorkQueue) -> None:
    now = time.time()
    for number, gateway in enumerate(("gw1", "gw1", "gw2")):
        work = parse_work(release(id=f"release-{number}", gateway=gateway, seen_at=now - 100 + number))
        work_queue.publish_now([work], "published")
    work_queue.redis.hset(work_queue.keys.pending("gw2"), "odd", "no json")
    assert GatewayLock.try_acquire(work_queue.redis, work_queue.keys, "gw2", 30, "worker/with/slashes")
    status = reader.read()
    first, second = status.gateways
    assert (first.name, first.pending, first.holder, first.held_for) == ("gw1", 2, None, None)
    assert first.oldest == pytest.approx(now - 100)
    assert (second.name, second.pending, second.holder) == ("gw2", 2, "worker/with/slashes")
    assert second.held_for == pytest.approx(30, abs=5)
    assert (status.pending, status.queues[0].queued) == (4, 3)
    assert status.oldest_pending == pytest.approx(now - 100)


def test_running_and_scheduled_jobs(reader: StatusReader, work_queue: WorkQueue) -> None:
    start(work_queue, "release-1", "w1")
    due = time.time() + 7
    work_queue.redis.zadd(work_queue.queue.scheduled_job_registry.key, {"release-2": due, "release-3": due + 1})
    status = reader.read()
    (running,) = status.running
    assert (running.id, running.worker, running.gateway) == ("release-1", "w1", "gw1")
    assert running.since == pytest.approx(time.time(), abs=5)
    (queue,) = status.queues
    assert (queue.queued, queue.running, queue.scheduled) == (0, 1, 2)
    assert queue.next_due == pytest.approx(due)


def test_failures_and_the_brake_need_a_person(reader: StatusReader, work_queue: WorkQueue, settings: Settings) -> None:
    inventory = produce(work_queue)
    inventory.commit([Seen(eip("u1", A)), Gone("u1", "deleted")], 11)
    live(work_queue)
    for number in range(3):
        fail(work_queue, f"release-{number}", "no pod", cause="NoActivePodError")
    Brake(work_queue, settings).engage("the list lacks 12 of 20 EIPs", ["u1", "u2"], 20)
    status = reader.read()
    assert [(group.cause, group.count) for group in status.failures] == [("NoActivePodError", 3)]
    assert status.failed == 3
    assert status.brake is not None
    assert [(need.what, need.do) for need in status.needs] == [
        ("the brake holds back 2 releases: the list lacks 12 of 20 EIPs", "eip-reclaimer brake show"),
        ("3 failed jobs wait for a person", "eip-reclaimer failed list"),
    ]


def test_the_last_audit_of_each_gateway(reader: StatusReader, work_queue: WorkQueue) -> None:
    leak = Finding(Kind.LEAKED, "gw1", "10.1.69.205", None, "nobody owns it", 900.0, mendable=True)
    missing = Finding(Kind.MISSING, "gw1", "10.1.69.206", "eip", "not there", 900.0)
    work_queue.reports.keep(
        [
            GatewayReport("gw1", 1000.0, "audit-1", findings=(leak, leak, missing)),
            GatewayReport("gw0", 2000.0, "audit-1", hindrance="no pod"),
        ]
    )
    first, second = reader.read().audits
    assert (first.gateway, first.at, first.findings) == ("gw1", 1000.0, {"leaked": 2, "missing": 1})
    assert (second.gateway, second.findings, second.hindrance) == ("gw0", {}, "no pod")
    told = [need.what for need in reader.read().needs if need.do == "eip-reclaimer audit"]
    assert told == [
        "addresses on gateways that nobody owns, by the last audits: 2",
        "addresses of EIPs that their gateway lacks, by the last audits: 1",
        "gateways that could not be looked at, by the last audits: 1",
    ]


def test_a_producer_that_cannot_follow_the_api_lives_and_says_why(reader: StatusReader, work_queue: WorkQueue) -> None:
    live(work_queue)
    inventory = produce(work_queue)
    inventory.trouble = "the API cannot be reached"
    inventory.commit([], None)
    (need,) = reader.read().needs
    assert need.what == "no producer can follow the Kubernetes API: the API cannot be reached"
    inventory.trouble = None
    inventory.commit([], None)
    assert reader.read().needs == ()


def test_lists_that_cannot_be_had_need_a_person(reader: StatusReader, work_queue: WorkQueue) -> None:
    live(work_queue)
    inventory = produce(work_queue)
    inventory.hindrance = "the API answered 403 about vpc-nat-gateways"
    inventory.commit([], None)
    (need,) = reader.read().needs
    assert need.what.endswith("the brake stays as it is: the API answered 403 about vpc-nat-gateways")
    inventory.hindrance = None
    inventory.commit([], None)
    assert reader.read().needs == ()


def test_a_cluster_that_no_producer_follows_needs_a_person_after_a_while(
    reader: StatusReader, work_queue: WorkQueue
) -> None:
    live(work_queue)
    inventory = produce(work_queue)
    work_queue.redis.delete(work_queue.keys.following)
    # Those of a version that left no word.
    assert needs(reader.read()) == ["look at the producers' logs"]
    work_queue.redis.zadd(work_queue.keys.following, {"p0": time.time() - 61})
    assert needs(reader.read()) == ["look at the producers' logs"]
    # One that lives and does not follow says so again and again.
    work_queue.redis.delete(work_queue.keys.following)
    work_queue.redis.zadd(work_queue.keys.following, {"p1": time.time() - 61})
    for version in (11, 12):
        inventory.commit([], version)
        assert needs(reader.read()) == ["look at the producers' logs"]
    inventory.word_until = time.monotonic() + 6
    inventory.commit([], 13)
    assert reader.read().needs == ()


def test_a_redis_that_nobody_vouches_for_needs_a_person_after_a_while(
    reader: StatusReader, work_queue: WorkQueue, settings: Settings
) -> None:
    live(work_queue)
    inventory = produce(work_queue)
    work_queue.redis.set(work_queue.keys.vouched, "the server before")
    inventory.commit([], 11)
    # One that has just been started is about to be vouched for.
    assert reader.read().needs == ()
    work_queue.redis.set(work_queue.keys.unvouched, repr(time.time() - 61))
    inventory.commit([], 12)
    (need,) = reader.read().needs
    assert need.what == "no producer has caught up with the API: nothing is taken away before one has"
    assert need.do == "look at the producers' logs"
    Brake(work_queue, settings).engage("the list lacks 12 of 20 EIPs", ["u1"], 20)
    assert needs(reader.read()) == ["eip-reclaimer brake show"] * 2
    inventory.vouches_for = inventory.reign
    inventory.commit([], 13)
    assert needs(reader.read()) == ["eip-reclaimer brake show"]
