"""What a worker says of itself: whether it moves, and whether a job that comes now could be done.

The thread that queues due retries asks Redis four times a second, so it knows whether Redis answers. The API is asked
for the cluster's UID, which also tells that it is another cluster's by now; then this worker must not act any more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from shared.endpoint import Pulse, Report
from shared.errors import TransientError, WrongClusterError
from shared.kube.api import KubeApi
from shared.log import get_logger

if TYPE_CHECKING:
    from shared.settings import Settings
    from workers.worker import ReclaimWorker

log = get_logger(__name__)

PROBE_SECONDS = 8.0
PROBE_TIMEOUT = 5.0
STALE_SECONDS = 10.0
"""Redis that has not answered for so long does not answer."""
WEDGED_MARGIN = 120.0
"""How much longer than a job may take the main loop may stand still: Redis and the API have to be waited for too."""


class WorkerHealth:
    """See `shared.endpoint.Health`. Its probe is a thread of its own, `watch_over`."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        """`stop` is set when the worker must not act any more."""
        self._settings = settings
        self._stop = stop
        self._wedged = settings.job_timeout + WEDGED_MARGIN
        self._api: KubeApi | None = None
        self._api_problem: str | None = "the API was not asked yet"
        self.pulse = Pulse()
        """Of the loop that starts the worker."""
        self.starting = "it has not connected to Redis and the API yet"
        """Why there is no worker yet."""
        self.worker: ReclaimWorker | None = None
        self.wrong_cluster: WrongClusterError | None = None
        """Set once the API is another cluster's."""

    def alive(self) -> Report:
        """See `shared.endpoint.Health.alive`."""
        age = (self.worker or self).pulse.age
        problems = [f"the main loop has not moved for {age:.0f} s"] if age > self._wedged else []
        return Report(problems, {"moved_seconds_ago": round(age, 1)})

    def ready(self) -> Report:
        """See `shared.endpoint.Health.ready`."""
        worker = self.worker
        if worker is None:
            return Report([self.starting])
        problems = []
        if worker.redis_pulse.age > STALE_SECONDS:
            problems.append(f"Redis has not answered for {worker.redis_pulse.age:.0f} s")
        if self._api_problem is not None:
            problems.append(f"the API does not answer: {self._api_problem}")
        if self.wrong_cluster is not None:
            problems.append(str(self.wrong_cluster))
        return Report(problems, {"worker": worker.name, "queues": worker.queue_names()})

    def watch_over(self) -> None:
        """Ask the API now and then until the process ends."""
        while not self._stop.is_set():
            worker = self.worker
            if worker is not None:
                self._ask(worker)
            self._stop.wait(PROBE_SECONDS if worker is not None else 0.2)

    def _ask(self, worker: ReclaimWorker) -> None:
        try:
            if self._api is None:
                self._api = KubeApi(self._settings).with_timeout(PROBE_TIMEOUT)
            uid = self._api.cluster_uid()
        except TransientError as error:
            self._api_problem = str(error)
            return
        except Exception as error:
            log.exception("the API cannot be asked for the cluster's UID")
            self._api_problem = f"{type(error).__name__}: {error}"
            return
        self._api_problem = None
        if uid != worker.cluster_uid:
            self.wrong_cluster = WrongClusterError(
                f"the Kubernetes API is that of another cluster by now (kube-system had the UID {worker.cluster_uid}, "
                f"it has {uid}). This worker ends. Correct EIP_RECLAIMER_KUBECONFIG; if the cluster was rebuilt, start "
                "again with a Redis database or a key prefix of its own."
            )
            log.error("wrong cluster", reason=str(self.wrong_cluster))
            self._stop.set()
