"""Containers as tests use them: started, looked into, asked to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
CONFINED = ("--read-only", "--user", "65532:65532", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def docker(
    *arguments: str, check: bool = True, seconds: float = 120, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command `docker`.

    Raises:
        AssertionError: it failed, and `check` is set.
    """
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done


def is_here() -> bool:
    """Whether an engine answers."""
    return shutil.which("docker") is not None and docker("version", check=False).returncode == 0


def has_compose() -> bool:
    """Whether an engine answers, and Compose v2 is there."""
    return is_here() and docker("compose", "version", check=False).returncode == 0


class Container:
    """`docker run OPTION … IMAGE ARGUMENT …` in the background; removed at the end."""

    def __init__(
        self, image: str, *arguments: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> None:
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        # Values of variables come from our own environment: they are on no command line.
        names = [word for name in env or {} for word in ("--env", name)]
        try:
            docker("run", "--detach", "--name", self.name, *names, *options, image, *arguments, env=env)
        except BaseException:
            self.__exit__()
            raise

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(docker("inspect", self.name).stdout)
        return dict(found)

    @property
    def running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    @property
    def log(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def exec(
        self, *command: str, check: bool = True, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return docker("exec", *options, self.name, *command, check=check)

    def is_ready(self) -> bool:
        """Whether the part in it says that it can do its work."""
        return self.exec("eip-reclaimer", "healthy", "--ready", check=False).returncode == 0

    def says(self, text: str, seconds: float = 30) -> None:
        """Wait until it has said this."""
        try:
            eventually(lambda: text in self.log, f"{text!r}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def becomes_healthy(self, seconds: float = 60) -> None:
        """Wait until its health check has gone well."""

        def health() -> bool:
            state = self.inspect()["State"]
            assert state["Running"], self.log
            return bool(state["Health"]["Status"] == "healthy")

        eventually(health, "it to be healthy", seconds)

    def stop(self, patience: int = 60) -> int:
        """`docker stop`; the exit status: 137 when it was killed, because it had not ended in time."""
        docker("stop", "--time", str(patience), self.name, seconds=patience + 60)
        return int(self.inspect()["State"]["ExitCode"])

    def ended(self, seconds: float = 60) -> int:
        """Wait until it ends by itself; its exit status."""
        eventually(lambda: not self.running, "it to end", seconds)
        return int(self.inspect()["State"]["ExitCode"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)
