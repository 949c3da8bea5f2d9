"""One worker at a time per gateway: across processes, and also when one of them slept past its lock's life."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.cluster import SandboxCluster
from sandbox.segments import run_batch
from shared.models import Outcome
from tests.absence import AbsenceWatch
from tests.conftest import GATEWAY, Product, StartWorker, release, start_held_worker
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]


@pytest.fixture
def acts(tmp_path: Path) -> Path:
    return tmp_path / "acts"


def test_eight_workers_never_act_on_one_gateway_at_the_same_time(
    make_product: Callable[..., Product], cluster: SandboxCluster, start_worker: StartWorker, acts: Path
) -> None:
    product = make_product()
    cluster.add_subnet("wide", "10.2.0.0/16", "10.2.255.254")
    gateways = {f"gw-{number}": [f"10.2.{number}.{host}" for host in range(1, 51)] for number in range(20)}
    for name, addresses in gateways.items():
        (pod,) = cluster.add_gateway(name, ["wide"])
        run_batch(pod.namespace, [f"addr add {address}/16 dev net1" for address in addresses])
    workers = [start_worker(driver) for driver in ("exec", "netlink") * 4]
    # One of each gateway after the other, so that all workers want all gateways all the time.
    works = [release(product, name, addresses[turn]) for turn in range(50) for name, addresses in gateways.items()]
    for work in works:
        product.work_queue.publish_now([work], "published")
    eventually(lambda: all(product.records.outcome(work.id) for work in works), "1000 outcomes", 120)
    assert {product.records.outcome(work.id) for work in works} == {Outcome.RECLAIMED}
    assert all(len(cluster.addresses(name)) == 1 for name in gateways)
    intervals: dict[str, list[tuple[float, float]]] = defaultdict(list)
    processes = set()
    for pod, began, ended, process in map(json.loads, acts.read_text().splitlines()):
        intervals[pod].append((began, ended))
        processes.add(process)
    assert len(intervals) == 20
    assert len(processes) > 1
    for taken in intervals.values():
        assert all(ended <= began for (_, ended), (began, _) in pairwise(sorted(taken)))
    assert all(worker.running for worker in workers)


@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_a_worker_that_slept_past_its_locks_life_changes_nothing(
    make_product: Callable[..., Product],
    cluster: SandboxCluster,
    start_worker: StartWorker,
    tmp_path: Path,
    driver: str,
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    namespace = cluster.pod(GATEWAY).namespace
    run_batch(namespace, [f"addr add 10.1.69.{host}/24 dev net1" for host in (205, 206)])
    first = release(product, GATEWAY, "10.1.69.205")
    sleeper = start_held_worker(start_worker, tmp_path, product, first, driver, lock_lifetime=2)
    os.kill(sleeper.pid, signal.SIGSTOP)
    (tmp_path / "hold").unlink()
    second = release(product, GATEWAY, "10.1.69.206")
    product.work_queue.publish_now([second], "published")
    start_worker(driver)
    eventually(lambda: product.records.outcome(first.id) and product.records.outcome(second.id), "another's work")
    assert product.records.outcome(first.id) == Outcome.RECLAIMED
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    with AbsenceWatch(namespace, "10.1.69.205/24") as absences:
        os.kill(sleeper.pid, signal.SIGCONT)
        eventually(lambda: "ran out before the change" in sleeper.log.read_text(), "the sleeper to notice")
        assert absences.stop() == []
    assert "10.1.69.205" in cluster.addresses(GATEWAY)
