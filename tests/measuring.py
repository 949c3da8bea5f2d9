"""What the measurements beside the torture stand on: the real product on a sandbox cluster, and nobody who disturbs it.

`python -m tests.soak` looks for what grows, `python -m tests.recovery` for how long a killed worker's jobs
wait. Both end only what they started, also when they are interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Any

from redis import Redis

from sandbox.privileges import require_rights
from sandbox.processes import Process
from sandbox.stage import Stage
from tests.conftest import variables


class MeasuredStage(Stage):
    """A stage whose product has these settings, and every other one as by default."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings

    def __enter__(self) -> MeasuredStage:
        super().__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        # A worker that is held at a place does not end when it is asked to. The server is the first, and ends by itself.
        for process in self.processes[1:]:
            process.kill()
        super().__exit__()

    def launch(self, name: str, *module: str, **settings: Any) -> Process:
        """Start one more process, with settings of its own."""
        log = self.directory / f"{name}.log"
        self.processes.append(Process(name, log, *module, env={**self._environment, **variables(**settings)}))
        return self.processes[-1]

    def _start_server(self) -> None:
        super()._start_server()
        self._environment.update(variables(**self._settings))


def prepare() -> None:
    """Make this process fit to measure: with the rights it needs, no settings but its own, and ending in good order."""
    require_rights()
    for name in [name for name in os.environ if name.startswith("EIP_RECLAIMER_")]:
        del os.environ[name]
    # The sandbox's API ends commands that have just ended by themselves, and asyncio wonders each time.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # Also where it was started with this signal ignored, as a shell does with what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def machine(redis: Redis) -> dict[str, Any]:
    """What was measured on."""
    server: dict[str, Any] = redis.info("server")
    name = server.get("server_name", "redis")
    return {
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": f"{name} {server.get(f'{name}_version', server['redis_version'])}",
    }


def write_json(file: Path, facts: dict[str, Any]) -> None:
    """Write facts so that people can read them too: a list of numbers is one line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=2)
    file.write_text(re.sub(r"\[[^][{}]*]", lambda found: " ".join(found[0].split()), text) + "\n")
