"""A worker process whose acts a test can see, and stop: `python -m tests.acting_worker DIRECTORY`.

It writes a line to DIRECTORY/acts for each time it had a gateway open to change it: gateway's pod, from, until (both
on the clock that all processes of the machine share), process. Where DIRECTORY/hold exists, it leaves a file
DIRECTORY/held.<pid> and does not begin a change until the hold is gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shared.kube.api import KubeApi
from shared.log import configure
from shared.settings import Settings, load_settings
from tests.interposed import InterposedDriver
from workers import service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.gateways.interface import Driver, Gateway, GatewayPod


class ActingDriver(InterposedDriver):
    """Notes when a gateway was open."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        super().__init__(driver, self._hold)
        self._directory = directory
        self._acts = (directory / "acts").open("a", buffering=1)

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[Gateway]:
        began = time.monotonic()
        with super().open(pod) as gateway:
            yield gateway
            self._acts.write(json.dumps([pod.name, began, time.monotonic(), os.getpid()]) + "\n")

    def _hold(self) -> None:
        if (self._directory / "hold").exists():
            (self._directory / f"held.{os.getpid()}").touch()
        while (self._directory / "hold").exists():
            time.sleep(0.01)


def main() -> None:
    directory = Path(sys.argv[1])
    opened = service.open_driver

    def open_driver(settings: Settings, api: KubeApi) -> Driver:
        return ActingDriver(opened(settings, api), directory)

    service.open_driver = open_driver
    settings = load_settings()
    configure(settings)
    service.run(settings)


if __name__ == "__main__":
    main()
