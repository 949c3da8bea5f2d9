"""The command `eip-reclaimer dashboard`, on Redis servers as operators run them."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.processes import Process
from sandbox.redis_server import free_port
from shared.connection import connect
from shared.queue import WorkQueue
from shared.settings import load_settings
from tests.conftest import variables
from tests.dashboard import scene
from tests.dashboard.browser import PASSWORD, served
from tests.dashboard.conftest import Visitor
from tests.redis_servers import RedisServer, Sentinels, binary
from tests.test_redis_access import DOCUMENT
from tests.waiting import eventually

pytestmark = pytest.mark.server

REDIS_PASSWORD = "hunter2"
PAGES = (
    *("/gateways", "/outcomes?span=month", "/trace?term=eip-300", "/brake", "/rq/", "/rq/0/view/workers"),
    *("/rq/0/view/jobs", "/rq/0/data/queues.json", "/rq/0/data/workers.json"),
    *(f"/rq/0/view/job/{scene.release(300).id}", f"/rq/0/data/job/{scene.release(300).id}.json"),
    *(
        f"/rq/0/data/jobs/eip-reclaimer/{registry}/8/{order}/1.json"
        for registry in ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
        for order in ("asc", "dsc")
    ),
)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with the user of docs/redis.md, who may do what the product needs."""
    (line,) = (line.strip() for line in DOCUMENT.read_text().splitlines() if line.strip().startswith("user "))
    with RedisServer(binary("valkey"), tmp_path / "limited") as server:
        client: Any = server.client
        client.execute_command("ACL", "SETUSER", *line.replace("PASSWORD", REDIS_PASSWORD).split()[1:])
        yield server


def test_the_user_that_suffices_for_the_product_suffices_for_the_dashboard(limited: RedisServer) -> None:
    url = f"redis://eip-reclaimer:{REDIS_PASSWORD}@127.0.0.1:{limited.port}/0"
    settings = load_settings(redis_url=url, dashboard_password=PASSWORD)
    scene.fill(WorkQueue(connect(settings), settings), settings, failed=6)
    operator = Visitor(settings)
    operator.login()
    for path in PAGES:
        answer = operator.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert REDIS_PASSWORD not in answer.text
    for action, form in (
        (f"/rq/job/{scene.release(300).id}/requeue", {}),
        (f"/rq/job/{scene.release(301).id}/delete", {}),
        ("/rq/requeue/eip-reclaimer", {}),
        ("/rq/queue/eip-reclaimer/failed/empty", {}),
        ("/rq/queue/eip-reclaimer/queued/empty", {}),
        ("/gateways/audit", {"gateway": scene.GATEWAYS[0]}),
        ("/brake/release", {}),
    ):
        answer = operator.act(action, **form)
        assert answer.status_code in (200, 303), (action, answer.text)
    # A queue is compacted by moving it away, and what a process that dies then has moved is lost.
    refused = operator.act("/rq/queue/eip-reclaimer/compact")
    assert refused.status_code == 503
    assert "Redis refuses" in refused.text
    assert {entry["object"] for entry in limited.client.acl_log()} - {"client|setinfo"} == {"rename"}


def test_the_password_of_redis_is_in_no_page_no_log_and_no_list_of_processes(
    limited: RedisServer, tmp_path: Path
) -> None:
    log = tmp_path / "dashboard.log"
    port = free_port()
    where = variables(redis_url=f"redis://eip-reclaimer:{REDIS_PASSWORD}@127.0.0.1:{limited.port}/0")
    with Process("dashboard", log, "cli", "dashboard", "--port", str(port), env=where) as process:
        for path in ("/gateways", "/rq/0/view/jobs"):
            eventually(functools.partial(_page, port, path), f"{path} to be shown", 60)
            assert REDIS_PASSWORD not in _page(port, path)
        assert REDIS_PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        limited.kill()
        assert "Redis does not answer" in eventually(lambda: _page(port, "/gateways"), "a page of the dead server")
        assert REDIS_PASSWORD not in _page(port, "/gateways")
    assert REDIS_PASSWORD not in log.read_text()


def _page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except urllib.error.URLError:
        return ""


def test_the_master_is_found_by_sentinels_also_after_a_failover(tmp_path: Path) -> None:
    with Sentinels(binary("valkey"), tmp_path / "sentinels") as sentinels:
        settings = load_settings(**sentinels.settings)
        work_queue = WorkQueue(connect(settings), settings)
        scene.fail(work_queue, scene.release(300), "no pod runs")
        visitor = Visitor(settings)
        jobs = "/rq/0/data/jobs/eip-reclaimer/failed/8/asc/1.json"
        assert "no pod runs" in visitor.text(jobs)
        assert work_queue.redis.wait(1, 5000) == 1
        sentinels.master.kill()
        assert visitor.get("/gateways").status_code == 503
        eventually(lambda: visitor.get("/gateways").status_code == 200, "the failover", 60)
        assert "no pod runs" in visitor.text(jobs)


def test_it_starts_while_redis_is_away_and_ends_when_told_to(tmp_path: Path) -> None:
    log, port = tmp_path / "dashboard.log", free_port()
    where = variables(redis_url="redis://127.0.0.1:1/0")
    with Process("dashboard", log, "cli", "dashboard", "--port", str(port), env=where) as process:
        shown = eventually(lambda: _page(port, "/gateways"), "a page", 60)
        assert "no Redis server can be used at 127.0.0.1:1" in shown
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: not process.running, "it to end")
        assert process.status == 0, process.last_words()


def test_it_listens_on_the_loopback_alone_unless_told_otherwise(tmp_path: Path) -> None:
    with served(tmp_path / "log", redis_url="redis://127.0.0.1:1/0") as url:
        port = int(url.rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", port))


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "cli", "dashboard", "--port", port],
            env={**os.environ, **variables(redis_url="redis://127.0.0.1:1/0")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"eip-reclaimer: the dashboard cannot listen on 127.0.0.1:{port}: ")
