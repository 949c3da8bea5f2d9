"""The trace tells what was done: compared with what the kernel showed to have been done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq import SimpleWorker

from sandbox.cluster import SandboxCluster
from shared.kube.api import KubeApi
from shared.models import parse_work
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.cli.conftest import RunCommand
from tests.conftest import GATEWAY, Product, StartWorker, release, start_held_worker
from tests.interposed import InterposedDriver
from tests.payloads import release as payload
from tests.recorded import Act, RecordingDriver
from tests.waiting import eventually
from workers import service
from workers.gateways.interface import Driver

pytestmark = [pytest.mark.kernel, pytest.mark.server]

ADDRESS = "10.1.69.205"
MakeProduct = Callable[..., Product]


@pytest.fixture
def before_change() -> list[Callable[[], object]]:
    """What is to happen between look and act; each once."""
    return []


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch, before_change: list[Callable[[], object]]) -> list[Act]:
    """What workers of this process changed, as the kernel showed it."""
    recorded: list[Act] = []
    opened = service.open_driver

    def open_driver(settings: Settings, api: KubeApi) -> Driver:
        def happen() -> None:
            if before_change:
                before_change.pop()()

        return InterposedDriver(RecordingDriver(opened(settings, api), recorded), happen)

    monkeypatch.setattr(service, "open_driver", open_driver)
    return recorded


@pytest.fixture
def leak(make_product: MakeProduct, cluster: SandboxCluster) -> MakeProduct:
    """A gateway on which the address of a deleted EIP `old` leaked, and whose release nobody has worked on yet."""

    def make(**settings: object) -> Product:
        product = make_product(**settings)
        cluster.add_gateway(GATEWAY)
        cluster.create_eip("old", GATEWAY, ADDRESS)
        cluster.create_eip("kept", GATEWAY, "10.1.69.206")
        stop = product.start_producer()
        cluster.controller.switches.leaks.wrong_argument = True
        cluster.delete_eip("old")
        eventually(lambda: product.records.find("old"), "the release")
        stop()
        return product

    return make


def lives(run: RunCommand, term: str) -> list[dict[str, Any]]:
    told = run("trace", term, "--json")
    assert told.returncode == 0, told
    return list(json.loads(told.stdout).values())


def only(run: RunCommand, term: str) -> dict[str, Any]:
    (life,) = lives(run, term)
    return life


def names(life: dict[str, Any]) -> list[str]:
    return [event["event"] for event in life["events"]]


def named(life: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [event for event in life["events"] if event["event"] == name]


def told_acts(life: dict[str, Any]) -> list[Act]:
    """The acts as the trace tells them."""
    return [
        Act(event["pod"], *((places, ()) if event["event"] == "deleted" else ((), places)))
        for event in life["events"]
        if event["event"] in ("deleted", "put back")
        for places in [tuple(event["addresses"])]
    ]


def test_a_reclaimed_address(leak: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand) -> None:
    began = time.time()
    product = leak()
    assert product.finish("old") == ["reclaimed"]
    life = only(run, ADDRESS)
    assert names(life) == ["seen", "published", "taken", "deleted", "outcome"]
    seen, published, taken, deleted, outcome = life["events"]
    assert seen["what"] == "the API told that the EIP was deleted"
    assert began < seen["at"] <= published["at"] < taken["at"] < deleted["at"] < outcome["at"] < time.time()
    assert published["producer"] == product.producers[0]._inventory.producer
    assert acts == [Act(cluster.pod(GATEWAY).name, (f"{ADDRESS}/24 on net1",), ())]
    assert told_acts(life) == acts
    assert taken["worker"] == deleted["worker"] == outcome["worker"]
    assert f"-{os.getpid()}-" in taken["worker"]
    # Beside it, the pod's own address and the other EIP's.
    assert outcome["seen"] == [f"not there, beside 2 others, on pod {cluster.pod(GATEWAY).name}"]
    assert len(cluster.addresses(GATEWAY)) == 2
    assert (life["state"], life["outcome"]) == ("ended", "reclaimed")
    assert life["says"] == "it was there, was deleted, and was seen gone"


def test_the_same_life_by_every_term_and_without_object_and_job(
    leak: MakeProduct, acts: list[Act], run: RunCommand
) -> None:
    product = leak()
    product.finish("old")
    (work_id,) = product.records.find("old")
    work = product.records.work(work_id)
    assert work is not None
    product.work_queue.redis.delete(f"rq:job:{work_id}")
    assert all(lives(run, term) == lives(run, "old") for term in (ADDRESS, str(work.uid), work_id))


def test_what_a_person_reads(leak: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand) -> None:
    product = leak()
    product.finish("old")
    (work_id,) = product.records.find("old")
    head, *events, end = run("trace", "old").stdout.splitlines()
    assert head == f"{work_id}  release {ADDRESS} on {GATEWAY} (EIP old, deleted)"
    assert [re.sub(r"^  \S+ \S+  (\S+) .*", r"\1", line) for line in events] == [
        "seen",
        "published",
        "taken",
        "deleted",
        "outcome",
    ]
    pod = cluster.pod(GATEWAY).name
    assert f"pod: {pod}, addresses: {ADDRESS}/24 on net1" in events[3]
    assert f"outcome: reclaimed, worker: {product.records.events(work_id)[1]['worker']}, seen: not there" in events[4]
    assert "deleted:" not in events[4]
    assert end == "  => reclaimed: it was there, was deleted, and was seen gone"


def test_an_address_that_was_not_there(
    make_product: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("old", GATEWAY, ADDRESS)
    product.start_producer()
    cluster.delete_eip("old")
    product.finish("old")
    life = only(run, "old")
    assert names(life) == ["seen", "published", "taken", "outcome"]
    assert life["outcome"] == "already_absent"
    assert life["events"][-1]["seen"] == [f"not there, beside 1 others, on pod {cluster.pod(GATEWAY).name}"]
    assert told_acts(life) == acts == []


def test_a_gateway_that_is_gone(leak: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand) -> None:
    product = leak()
    cluster.remove_gateway(GATEWAY)
    product.finish("old")
    life = only(run, "old")
    assert names(life) == ["seen", "published", "taken", "outcome"]
    assert life["events"][-1]["why"] == "the API has no gateway object of this name"
    assert told_acts(life) == acts == []


def test_an_address_that_has_another_owner(
    leak: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand
) -> None:
    product = leak()
    cluster.create_eip("new", GATEWAY, ADDRESS)
    product.finish("old")
    life = only(run, "old")
    assert names(life) == ["seen", "published", "taken", "outcome"]
    outcome = life["events"][-1]
    assert (outcome["outcome"], outcome["owners"]) == ("reassigned", {ADDRESS: "EIP new"})
    assert outcome["seen"] == [f"{ADDRESS}/24 on net1, beside 2 others, on pod {cluster.pod(GATEWAY).name}"]
    assert told_acts(life) == acts == []


def test_an_address_that_got_an_owner_during_the_deletion(
    leak: MakeProduct,
    acts: list[Act],
    before_change: list[Callable[[], object]],
    cluster: SandboxCluster,
    run: RunCommand,
) -> None:
    product = leak()
    before_change.append(lambda: cluster.create_eip("new", GATEWAY, ADDRESS))
    product.finish("old")
    life = only(run, "old")
    assert names(life) == ["seen", "published", "taken", "deleted", "put back", "outcome"]
    pod, place = cluster.pod(GATEWAY).name, (f"{ADDRESS}/24 on net1",)
    assert acts == [Act(pod, place, ()), Act(pod, (), place)]
    assert told_acts(life) == acts
    outcome = life["events"][-1]
    assert (outcome["outcome"], outcome["owners"]) == ("restored", {ADDRESS: "EIP new"})
    assert outcome["seen"] == [f"{ADDRESS}/24 on net1, beside 2 others, on pod {pod}"]


def test_a_gateway_that_was_audited(
    make_product: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand
) -> None:
    product = make_product(look_again_after=(0.5, 1.5))
    cluster.add_gateway(GATEWAY)
    product.start_producer()
    cluster.controller.switches.leaks.deletion_before_ready = "v1.12"
    cluster.controller.switches.delays.eip_add_after = 0.6
    cluster.create_eip("early", GATEWAY, wait_ready=False)
    time.sleep(0.2)
    cluster.delete_eip("early")
    product.finish("early", 60)
    audit, leaked = lives(run, "early")
    assert audit["outcome"] == "audited"
    assert audit["events"][0]["what"] == "the API told that an EIP was deleted whose address nobody knows"
    assert "later" in names(audit)
    assert told_acts(audit) == []
    (found,) = audit["events"][-1]["leaked"]
    assert leaked["events"][0]["what"] == "an audit saw it unowned"
    assert named(leaked, "published")[0]["why"] == f"found by {audit['id']}"
    assert told_acts(leaked) == acts
    assert acts[0].gone == (f"{found}/24 on net1",)


def test_retries_a_failure_and_replays(
    leak: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand
) -> None:
    product = leak(retry_attempts=3, retry_base=0.2)
    cluster.set_ready(GATEWAY, ready=False)
    registry = product.work_queue.queue.failed_job_registry
    product.work_until(registry.get_job_ids, "the job to fail")
    life = only(run, "old")
    tries = ["taken", "failed, retried", "taken", "failed, retried", "taken", "failed"]
    assert names(life) == ["seen", "published", *tries]
    assert [event["attempt"] for event in named(life, "taken")] == [1, 2, 3]
    for earlier, later in zip(named(life, "failed, retried"), named(life, "taken")[1:], strict=True):
        assert earlier["reason"].startswith(f"gateway {GATEWAY} exists, but no pod of it runs")
        # It is told to a tenth of a second.
        assert later["at"] - earlier["at"] > earlier["pause"] - 0.06
    assert life["state"] == "failed"
    assert life["says"].endswith(f"once its cause is mended: eip-reclaimer failed replay {life['id']}")
    # By our command, too early.
    assert run("failed", "replay", life["id"]).returncode == 0
    assert only(run, "old")["state"] == "queued"
    product.work_until(registry.get_job_ids, "the job to fail again")
    life = only(run, "old")
    assert names(life) == ["seen", "published", *tries, "replayed", *tries]
    assert re.fullmatch(r".+@.+", named(life, "replayed")[0]["by"])
    # By RQ's.
    cluster.set_ready(GATEWAY, ready=True)
    rq = Path(sys.executable).with_name("rq")
    url = product.settings.redis_url.get_secret_value()
    subprocess.run([rq, "requeue", "--url", url, "--queue", "eip-reclaimer", life["id"]], check=True)
    product.finish("old")
    life = only(run, "old")
    assert names(life)[-3:] == ["taken", "deleted", "outcome"]
    assert names(life)[:-3] == ["seen", "published", *tries, "replayed", *tries]
    assert told_acts(life) == acts
    assert len(acts) == 1


def test_an_act_is_told_also_where_the_try_fails_after_it(
    make_product: MakeProduct,
    acts: list[Act],
    before_change: list[Callable[[], object]],
    cluster: SandboxCluster,
    run: RunCommand,
) -> None:
    product = make_product(driver="exec", retry_base=0.2, exec_timeout=2)
    pods = cluster.add_gateway(GATEWAY, replicas=2)
    for pod in pods:
        pod.namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
    work = release(product, GATEWAY, ADDRESS)

    # From the second pod's change on, nobody can be asked for owners.
    before_change.extend([lambda: cluster.server.faults.answer(500, count=20), lambda: None])
    product.work_queue.publish_now([work], "published")
    product.work_until(lambda: "failed, retried" in str(product.records.events(work.id)), "a failed try")
    cluster.server.faults.clear()
    product.finish(ADDRESS)
    life = only(run, work.id)
    assert names(life).index("deleted") < names(life).index("failed, retried")
    assert told_acts(life) == acts
    assert {act.pod for act in acts} == {pod.name for pod in pods}


def test_work_that_another_jobs_round_did_says_so(
    make_product: MakeProduct, acts: list[Act], cluster: SandboxCluster, run: RunCommand
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    addresses = (ADDRESS, "10.1.69.206")
    for address in addresses:
        cluster.pod(GATEWAY).namespace.ip("addr", "add", f"{address}/24", "dev", "net1")
    first, second = works = [release(product, GATEWAY, address) for address in addresses]
    product.work_queue.publish_now(works, "published")
    product.worker().work(burst=True)
    (act,) = acts
    assert set(act.gone) == {f"{address}/24 on net1" for address in addresses}
    own, taken_over = only(run, first.id), only(run, second.id)
    assert "taken_over_by" not in own["events"][-1]
    assert names(taken_over) == ["seen", "published", "deleted", "outcome"]
    assert taken_over["events"][-1]["taken_over_by"] == first.id
    assert told_acts(own) == [Act(act.pod, (f"{ADDRESS}/24 on net1",), ())]
    assert told_acts(taken_over) == [Act(act.pod, ("10.1.69.206/24 on net1",), ())]


def test_work_of_a_killed_worker_that_another_took_over(
    make_product: MakeProduct, cluster: SandboxCluster, start_worker: StartWorker, tmp_path: Path, run: RunCommand
) -> None:
    quick = {"job_timeout": 5, "lock_lifetime": 2}
    product = make_product(**quick)
    cluster.add_gateway(GATEWAY)
    cluster.pod(GATEWAY).namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
    work = release(product, GATEWAY, ADDRESS)
    victim = start_held_worker(start_worker, tmp_path, product, work, "exec", **quick)
    life = only(run, work.id)
    assert (names(life), life["state"]) == (["seen", "published", "taken"], "running")
    assert re.search(rf"-{victim.pid}-\w+ has it for \d", life["says"])
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: not victim.running, "it to be dead")
    (tmp_path / "hold").unlink()
    heir = start_worker("exec", **quick)
    eventually(lambda: product.records.outcome(work.id), "another to finish it", 60)
    life = only(run, work.id)
    assert names(life) == ["seen", "published", "taken", "failed, retried", "taken", "deleted", "outcome"]
    told = [event.get("worker", "") for event in life["events"]]
    assert [re.sub(r".*-(\d+)-\w+$", r"\1", worker) for worker in told] == [
        "",
        "",
        *map(str, (victim.pid, victim.pid, heir.pid, heir.pid, heir.pid)),
    ]
    died = named(life, "failed, retried")[0]
    assert died["reason"] == "the worker that ran the job died or was stopped for too long"
    assert f"-{heir.pid}-" in died["noticed_by"]
    # Who had a gateway open and closed it again, as these processes noted themselves.
    eventually((tmp_path / "acts").read_text, "the act")
    assert {json.loads(line)[3] for line in (tmp_path / "acts").read_text().splitlines()} == {heir.pid}


def test_a_job_that_goes_from_node_to_node(
    make_product: MakeProduct, cluster: SandboxCluster, start_worker: StartWorker, run: RunCommand
) -> None:
    product = make_product()
    cluster.hosts.node = "node-1"
    cluster.add_gateway(GATEWAY, replicas=2, pods=1)
    cluster.hosts.node = "node-2"
    cluster.add_pod(GATEWAY)
    for pod in cluster.pods(GATEWAY):
        pod.namespace.ip("addr", "add", f"{ADDRESS}/24", "dev", "net1")
    workers = {node: start_worker("netlink", node_name=node) for node in ("node-1", "node-2")}
    eventually(lambda: len(SimpleWorker.all_keys(product.work_queue.redis)) == 2, "both workers")
    work = release(product, GATEWAY, ADDRESS)
    product.work_queue.publish_now([work], "published")
    eventually(lambda: product.records.outcome(work.id), "the outcome")
    life = only(run, work.id)
    assert names(life) == ["seen", "published", "taken", "deleted", "sent on", "taken", "deleted", "outcome"]
    (sent,) = named(life, "sent on")
    by_node = {pod.node: pod.name for pod in cluster.pods(GATEWAY)}
    first = next(node for node in by_node if node != sent["to_node"])
    assert f"-{workers[first].pid}-" in sent["worker"]
    assert [event["pod"] for event in named(life, "deleted")] == [by_node[first], by_node[sent["to_node"]]]
    assert f"-{workers[sent['to_node']].pid}-" in named(life, "taken")[1]["worker"]


def test_of_many_lives_the_last_ones_are_told_and_how_many_more_there_are(
    make_product: MakeProduct, run: RunCommand
) -> None:
    product = make_product()
    for number in range(8):
        work = parse_work(payload(id=f"release-{number}", seen_at=1000.0 + number))
        product.work_queue.publish_now([work], "published")
    head, *rest = run("trace", ADDRESS).stdout.splitlines()
    assert head == "3 earlier lives are not shown: --last 8"
    assert [line.split()[0] for line in rest if line.startswith("release")] == [f"release-{n}" for n in range(3, 8)]
    assert [life["id"] for life in lives(run, ADDRESS)] == [f"release-{n}" for n in range(8)]
    told = run("trace", ADDRESS, "--last", "1", "--json")
    assert list(json.loads(told.stdout)) == ["release-7"]


def test_an_eip_that_lives_is_told_as_living(
    make_product: MakeProduct, cluster: SandboxCluster, run: RunCommand
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("living", GATEWAY, "10.1.69.206")
    product.start_producer()
    for term in ("living", "10.1.69.206", "10.1.69.206/24"):
        done = run("trace", term)
        assert done.returncode == 1
        assert done.stderr == f"nothing was released: EIP living (10.1.69.206 on {GATEWAY}) lives\n"
    assert "eip-reclaimer audit" in run("trace", "10.1.69.99").stderr


def test_an_address_is_found_as_ip_prints_it(work_queue: WorkQueue, run: RunCommand) -> None:
    work_queue.publish_now([parse_work(payload())], "published")
    assert "release-u1" in run("trace", "10.1.69.205/24").stdout
