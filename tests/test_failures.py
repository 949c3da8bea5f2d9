"""What cannot be done now: tried again with growing pauses, failed with a reason, replayed when the cause is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.cluster import SandboxCluster
from sandbox.pods import Fault
from shared.models import Outcome
from tests.conftest import GATEWAY, Product, StartWorker, release, start_held_worker
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

ADDRESS = "10.1.69.205"


@pytest.fixture
def leak(make_product: Callable[..., Product], cluster: SandboxCluster) -> Callable[..., Product]:
    """An address that leaked, and its release that nobody has worked on yet."""

    def make(**settings: object) -> Product:
        product = make_product(**settings)
        cluster.add_gateway(GATEWAY)
        cluster.create_eip("eip", GATEWAY, ADDRESS)
        stop = product.start_producer()
        cluster.controller.switches.leaks.wrong_argument = True
        cluster.delete_eip("eip")
        eventually(lambda: product.records.find("eip"), "the release")
        stop()
        return product

    return make


def failed(product: Product) -> str:
    """Work until the one job has failed; its reason."""
    registry = product.work_queue.queue.failed_job_registry
    product.work_until(registry.get_job_ids, "the job to fail")
    (job_id,) = registry.get_job_ids()
    job = product.work_queue.queue.fetch_job(job_id)
    assert job is not None
    result = job.latest_result()
    assert result is not None
    return str(result.exc_string).splitlines()[0]


def test_a_gateway_without_pods_is_tried_with_growing_pauses_and_fails_with_a_reason(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak(retry_base=0.2, retry_attempts=5)
    cluster.set_ready(GATEWAY, ready=False)
    reason = failed(product)
    assert reason.startswith(f"gateway {GATEWAY} exists, but no pod of it runs in kube-system (label app=vpc-nat-gw-")
    assert reason.endswith(f"Then: eip-reclaimer failed replay --all --gateway {GATEWAY}")
    (work_id,) = product.records.find("eip")
    tries = [event for event in product.records.events(work_id) if event["event"].startswith("failed")]
    assert [event.get("attempt", event.get("attempts")) for event in tries] == [1, 2, 3, 4, 5]
    # Half of each pause is jitter, so it is at least as long as the one before was at most.
    pauses = [later["at"] - earlier["at"] for earlier, later in pairwise(tries)]
    assert all(pause >= 0.1 * 2**number for number, pause in enumerate(pauses))
    assert ADDRESS in cluster.addresses(GATEWAY)


@pytest.mark.parametrize("way", ["registry", "command", "command for all"])
def test_a_failed_job_that_is_requeued_succeeds_once_the_cause_is_gone(
    leak: Callable[..., Product], cluster: SandboxCluster, way: str
) -> None:
    product = leak(retry_attempts=2)
    cluster.set_ready(GATEWAY, ready=False)
    failed(product)
    cluster.set_ready(GATEWAY, ready=True)
    registry = product.work_queue.queue.failed_job_registry
    (job_id,) = registry.get_job_ids()
    url = product.settings.redis_url.get_secret_value()
    rq = Path(sys.executable).with_name("rq")
    match way:
        case "registry":
            registry.requeue(job_id)
        case "command":
            subprocess.run([rq, "requeue", "--url", url, "--queue", "eip-reclaimer", job_id], check=True)
        case _:
            subprocess.run([rq, "requeue", "--url", url, "--queue", "eip-reclaimer", "--all"], check=True)
    assert product.finish("eip") == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)
    assert registry.get_job_ids() == []


def test_a_job_that_is_requeued_too_early_has_all_its_tries_again(
    leak: Callable[..., Product], cluster: SandboxCluster
) -> None:
    product = leak(retry_attempts=2)
    cluster.set_ready(GATEWAY, ready=False)
    failed(product)
    registry = product.work_queue.queue.failed_job_registry
    registry.requeue(registry.get_job_ids()[0])
    failed(product)
    (work_id,) = product.records.find("eip")
    told = [event["event"] for event in product.records.events(work_id) if event["event"].startswith("failed")]
    assert told == ["failed, retried", "failed"] * 2


def test_a_replay_of_what_is_done_does_nothing(leak: Callable[..., Product], cluster: SandboxCluster) -> None:
    product = leak()
    assert product.finish("eip") == ["reclaimed"]
    cluster.create_eip("new", GATEWAY, ADDRESS)
    (work_id,) = product.records.find("eip")
    job = product.work_queue.queue.fetch_job(work_id)
    assert job is not None
    product.work_queue.queue.enqueue_job(job)
    product.worker().work(burst=True)
    assert ADDRESS in cluster.addresses(GATEWAY)


def test_a_replay_months_later_decides_anew(leak: Callable[..., Product], cluster: SandboxCluster) -> None:
    product = leak(retry_attempts=1)
    cluster.set_ready(GATEWAY, ready=False)
    failed(product)
    cluster.set_ready(GATEWAY, ready=True)
    cluster.create_eip("new", GATEWAY, ADDRESS)
    registry = product.work_queue.queue.failed_job_registry
    registry.requeue(registry.get_job_ids()[0])
    assert product.finish("eip") == ["reassigned"]
    assert ADDRESS in cluster.addresses(GATEWAY)


@pytest.mark.parametrize("fault", Fault)
def test_an_exec_that_goes_wrong_is_tried_again(
    leak: Callable[..., Product], cluster: SandboxCluster, fault: Fault
) -> None:
    product = leak(driver="exec", exec_timeout=1)
    cluster.set_fault(GATEWAY, fault, times=2)
    assert product.finish("eip") == ["reclaimed"]
    assert ADDRESS not in cluster.addresses(GATEWAY)


@pytest.mark.parametrize("code", [0, 401, 403, 429, 500])
def test_an_api_that_refuses_for_a_while_costs_time_only(
    leak: Callable[..., Product], cluster: SandboxCluster, code: int
) -> None:
    product = leak()
    worker = product.worker()
    cluster.server.faults.answer(code, count=3)
    worker.work(burst=True)
    assert ADDRESS in cluster.addresses(GATEWAY)
    cluster.server.faults.clear()
    assert product.finish("eip") == ["reclaimed"]


def test_the_job_of_a_worker_that_is_killed_is_finished_by_another(
    make_product: Callable[..., Product], cluster: SandboxCluster, start_worker: StartWorker, tmp_path: Path
) -> None:
    product = make_product(job_timeout=5, lock_lifetime=2)
    cluster.add_gateway(GATEWAY)
    cluster.pod(GATEWAY).namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
    work = release(product, GATEWAY, ADDRESS)
    victim = start_held_worker(start_worker, tmp_path, product, work, "exec", job_timeout=5, lock_lifetime=2)
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: not victim.running, "it to be dead")
    (tmp_path / "hold").unlink()
    start_worker("exec", job_timeout=5, lock_lifetime=2)
    eventually(lambda: product.records.outcome(work.id), "another to finish it", 60)
    assert product.records.outcome(work.id) == Outcome.RECLAIMED
    told = [event.get("reason", "") for event in product.records.events(work.id)]
    assert "the worker that ran the job died or was stopped for too long" in told


@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_a_worker_that_is_told_to_end_finishes_its_job_and_leaves_nothing_locked(
    make_product: Callable[..., Product],
    cluster: SandboxCluster,
    start_worker: StartWorker,
    tmp_path: Path,
    driver: str,
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    cluster.pod(GATEWAY).namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
    works = [release(product, GATEWAY, address) for address in (ADDRESS, "10.1.69.206")]
    worker = start_held_worker(start_worker, tmp_path, product, works[0], driver)
    os.kill(worker.pid, signal.SIGTERM)
    product.work_queue.publish_now(works[1:], "published")
    (tmp_path / "hold").unlink()
    eventually(lambda: not worker.running, "it to end")
    assert worker.status == 0, worker.last_words()
    assert product.records.outcome(works[0].id) == Outcome.RECLAIMED
    assert not product.work_queue.redis.exists(product.work_queue.keys.lock(GATEWAY))
    # What came meanwhile was taken over in the same go, or lies in the queue for the next worker.
    queue = product.work_queue.queue
    assert product.records.outcome(works[1].id) or works[1].id in queue.get_job_ids()
    assert queue.started_job_registry.get_job_ids() == []
