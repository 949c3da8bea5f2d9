"""A worker that can be caught at an exact place of a job's life: `python -m tests.recovery.held DIRECTORY NAME PLACE`.

Where a file DIRECTORY/<job id> exists, the worker leaves a file DIRECTORY/<job id>.NAME when it comes to the place
with that job, and does not go on until the first file is gone. It touches DIRECTORY/waiting.NAME when it waits for a
job, and DIRECTORY/promoted.NAME whenever it has looked for due retries. In all else it is the product's own worker.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import workers.worker
from shared.kube.api import KubeApi
from shared.log import configure
from shared.settings import Settings, load_settings
from tests.interposed import InterposedDriver
from workers import service
from workers.cluster import Cluster
from workers.recovery import Recovery
from workers.worker import ReclaimWorker

if TYPE_CHECKING:
    from collections.abc import Collection

    from rq import Queue
    from rq.job import Job

    from shared.kube.objects import NatGateway
    from workers.gateways.interface import Driver
    from workers.jobs import ReclaimJob
    from workers.places import Pod

PLACES = ("taken", "opened", "looked", "nowhere")
"""Off a long queue, and nothing else done; started, with the gateway's lock, and nothing else done; having looked at the
gateway, and about to change it; not held at all."""


class Hold:
    """Keeps this process at one place."""

    def __init__(self, directory: Path, name: str, place: str) -> None:
        assert place in PLACES
        self._directory = directory
        self._name = name
        self.place = place
        self._starter = os.getppid()
        self.job = ""
        """Id of the job in hand."""

    def at(self, place: str) -> None:
        """Stay here for as long as the job's file says so, or until whoever started us is gone."""
        hold = self._directory / self.job
        if place != self.place or not hold.exists():
            return
        self.note(self.job)
        while hold.exists() and os.getppid() == self._starter:
            time.sleep(0.005)

    def note(self, what: str) -> None:
        """Say that this process did something, now."""
        (self._directory / f"{what}.{self._name}").touch()


class HeldWorker(ReclaimWorker):
    hold: Hold

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        self.hold.note("waiting")
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: ReclaimJob, queue: Queue) -> None:  # type: ignore[override]
        self.hold.job = job.id
        self.hold.at("taken")
        super().execute_job(job, queue)


class HeldCluster(Cluster):
    hold: Hold

    def running(self, name: str, namespaces: Collection[str]) -> tuple[NatGateway, list[Pod]] | None:
        self.hold.at("opened")
        return super().running(name, namespaces)


class NotingRecovery(Recovery):
    hold: Hold

    def promote_due(self) -> int:
        promoted = super().promote_due()
        self.hold.note("promoted")
        return promoted


def main() -> None:
    """Work until told to end, or killed."""
    hold = HeldWorker.hold = HeldCluster.hold = NotingRecovery.hold = Hold(Path(sys.argv[1]), *sys.argv[2:])
    opened = service.open_driver

    def open_driver(settings: Settings, api: KubeApi) -> Driver:
        return InterposedDriver(opened(settings, api), lambda: hold.at("looked"))

    replaced: Any = service
    replaced.open_driver, replaced.ReclaimWorker, replaced.Cluster = open_driver, HeldWorker, HeldCluster
    replaced = workers.worker
    replaced.Recovery = NotingRecovery
    if hold.place == "taken":
        # What a worker waits for has started when it has it.
        replaced.Opener = lambda *_: None
    # One job in hand at a time, which is the one that it is caught with.
    settings = load_settings(gateways_at_once=1)
    configure(settings)
    service.run(settings)


if __name__ == "__main__":
    main()
