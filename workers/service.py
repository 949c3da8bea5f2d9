"""A worker process, put together from the settings."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from types import FrameType

from redis.exceptions import RedisError

from shared.connection import connect
from shared.endpoint import serving
from shared.errors import InvalidPayloadError, TransientError
from shared.inventory import check_cluster
from shared.kube.api import KubeApi
from shared.kube.events import EventRecorder
from shared.log import get_logger
from shared.metrics import WORKER_REGISTRY
from shared.queue import WorkQueue
from shared.settings import Settings
from workers.cluster import Cluster
from workers.gateways.exec import ExecDriver
from workers.gateways.interface import Driver
from workers.gateways.namespaces import DirectoryLocator, ProcessLocator
from workers.gateways.netlink import NetlinkDriver
from workers.health import WorkerHealth
from workers.reclaimer import Reclaimer
from workers.round import Round
from workers.worker import ReclaimWorker, worker_name

log = get_logger(__name__)

RECONNECT_SECONDS = 2.0
SWITCH_SECONDS = 0.0002
"""How long one thread may compute while another could go on. A job is some thirty short answers to wait for, and after
each it would wait so long for a thread that works on a large gateway; Python's own 5 ms would make it wait for 150."""


def open_driver(settings: Settings, api: KubeApi) -> Driver:
    """The driver of the settings.

    Raises:
        InvalidPayloadError: `netlink` without the node it is on.
    """
    if settings.driver == "exec":
        return ExecDriver(api.client, timeout=settings.exec_timeout)
    if settings.netns_dir is not None:
        return NetlinkDriver(DirectoryLocator(settings.netns_dir))
    if settings.node_name is None:
        raise InvalidPayloadError(
            "the netlink driver works on its own node only: set EIP_RECLAIMER_NODE_NAME to the node's name "
            "(in a pod: fieldRef spec.nodeName)"
        )
    return NetlinkDriver(ProcessLocator())


def build_worker(settings: Settings, stop: threading.Event | None = None) -> ReclaimWorker:
    """Connect to Redis and the API, and make a worker that ends when `stop` is set.

    Raises:
        TransientError: one of them does not answer.
        WrongClusterError: this Redis is another cluster's.
        InvalidPayloadError: the settings do not fit together.
    """
    work_queue = WorkQueue(connect(settings), settings)
    api = KubeApi(settings)
    cluster_uid = api.cluster_uid()
    check_cluster(work_queue.redis, work_queue, cluster_uid)
    name = worker_name()
    gateway_round = Round(work_queue, Cluster(api, work_queue, settings), open_driver(settings, api), settings, name)
    events = EventRecorder(api, "eip-reclaimer-worker", name, enabled=settings.events)
    reclaimer = Reclaimer(work_queue, gateway_round, settings, cluster_uid, name, events)
    return ReclaimWorker(work_queue, reclaimer, settings, name, stop or threading.Event(), events)


def run(settings: Settings, *, burst: bool = False) -> None:
    """Work until told to stop, or with `burst` until the queue is empty; through outages of Redis and the API.

    Raises:
        WrongClusterError: this Redis is another cluster's, or the API is by now.
        InvalidPayloadError: the settings do not fit together.
        CannotListenError: the address for metrics and health cannot be had.
        TransientError: in a burst, Redis or the API does not answer.
    """
    stop = threading.Event()
    sys.setswitchinterval(SWITCH_SECONDS)
    # What was imported stays: to look through it for garbage, now and then, would hold a release up for 70 ms.
    gc.freeze()

    def end(number: int, _frame: FrameType | None) -> None:
        stop.set()
        # Whoever asks twice does not want to wait; what is lost then, another worker finishes.
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if settings.http is None:
        _work(settings, stop, None, burst=burst)
        return
    health = WorkerHealth(settings, stop)
    with serving(settings, WORKER_REGISTRY, health):
        threading.Thread(target=health.watch_over, name="health", daemon=True).start()
        _work(settings, stop, health, burst=burst)
    if health.wrong_cluster is not None:
        raise health.wrong_cluster


def _work(settings: Settings, stop: threading.Event, health: WorkerHealth | None, *, burst: bool) -> None:
    while not stop.is_set():
        if health is not None:
            health.pulse.beat()
        try:
            worker = build_worker(settings, stop)
            if health is not None:
                health.worker = worker
            log.info("worker started", worker=worker.name, driver=settings.driver, queues=worker.queue_names())
            worker.work(burst=burst)
        except (TransientError, RedisError) as error:
            if burst:
                raise
            log.error("worker cannot start, trying again", reason=str(error))
            if health is not None:
                health.starting = f"it cannot start: {error}"
        else:
            if burst:
                return
            if not stop.is_set():
                log.warning("worker ended by itself, starting again")
        stop.wait(RECONNECT_SECONDS)
