"""A producer process, put together from the settings."""

from __future__ import annotations

import gc
import signal
import threading

from redis.exceptions import RedisError

from producer.gauges import RedisGauges
from producer.health import ProducerHealth
from producer.producer import Producer, producer_id
from shared.brake import Brake
from shared.connection import connect
from shared.endpoint import serving
from shared.errors import TransientError
from shared.inventory import Inventory
from shared.kube.api import KubeApi
from shared.kube.events import EventRecorder
from shared.log import get_logger
from shared.metrics import PRODUCER_REGISTRY
from shared.queue import WorkQueue
from shared.settings import Settings

log = get_logger(__name__)

RECONNECT_SECONDS = 2.0


def build_producer(settings: Settings) -> tuple[Producer, EventRecorder]:
    """Connect to Redis and the API, and make a producer, and what it tells Events with.

    Raises:
        TransientError: one of them does not answer.
    """
    work_queue = WorkQueue(connect(settings), settings)
    api = KubeApi(settings)
    name = producer_id()
    inventory = Inventory(work_queue, api.cluster_uid(), name)
    events = EventRecorder(api, "eip-reclaimer-producer", name, enabled=settings.events)
    return Producer(api, inventory, Brake(work_queue, settings), settings, events), events


def run(settings: Settings) -> None:
    """Produce until told to stop, through outages of Redis and the API.

    Raises:
        WrongClusterError: this Redis is another cluster's.
        InvalidPayloadError: the settings do not fit together.
        CannotListenError: the address for metrics and health cannot be had.
    """
    stop = threading.Event()
    # What was imported stays: to look through it for garbage, now and then, would hold a release up for 70 ms.
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if settings.http is None:
        _produce(settings, stop, None)
        return
    gauges = RedisGauges(settings)
    PRODUCER_REGISTRY.register(gauges)
    health = ProducerHealth(settings, gauges)
    try:
        with serving(settings, PRODUCER_REGISTRY, health):
            _produce(settings, stop, health)
    finally:
        PRODUCER_REGISTRY.unregister(gauges)


def _produce(settings: Settings, stop: threading.Event, health: ProducerHealth | None) -> None:
    while not stop.is_set():
        if health is not None:
            health.pulse.beat()
        try:
            producer, events = build_producer(settings)
        except (TransientError, RedisError) as error:
            log.error("producer cannot start, trying again", reason=str(error))
            if health is not None:
                health.starting = f"it cannot start: {error}"
            stop.wait(RECONNECT_SECONDS)
            continue
        if health is not None:
            health.producer = producer
        try:
            producer.run(stop)
        finally:
            events.flush()
