"""A producer process, put together from the settings."""

from __future__ import annotations

import signal
import threading

from redis.exceptions import RedisError

from producer.producer import Producer, producer_id
from shared.brake import Brake
from shared.connection import connect
from shared.errors import TransientError
from shared.inventory import Inventory
from shared.kube.api import KubeApi
from shared.log import get_logger
from shared.queue import WorkQueue
from shared.settings import Settings

log = get_logger(__name__)

RECONNECT_SECONDS = 2.0


def build_producer(settings: Settings) -> Producer:
    """Connect to Redis and the API, and make a producer.

    Raises:
        TransientError: one of them does not answer.
    """
    work_queue = WorkQueue(connect(settings), settings)
    api = KubeApi(settings)
    inventory = Inventory(work_queue, api.cluster_uid(), producer_id())
    return Producer(api, inventory, Brake(work_queue, settings), settings)


def run(settings: Settings) -> None:
    """Produce until told to stop, through outages of Redis and the API.

    Raises:
        WrongClusterError: this Redis is another cluster's.
        InvalidPayloadError: the settings do not fit together.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        try:
            producer = build_producer(settings)
        except (TransientError, RedisError) as error:
            log.error("producer cannot start, trying again", reason=str(error))
            stop.wait(RECONNECT_SECONDS)
        else:
            producer.run(stop)
