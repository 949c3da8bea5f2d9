"""A worker is known in Redis as long as it lives: jobs go only to nodes where one is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from sandbox.cluster import SandboxCluster
from shared.status_reader import StatusReader
from tests.conftest import Product, StartWorker
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]


def test_a_redis_that_came_back_empty_knows_its_workers_again(
    make_product: Callable[..., Product], cluster: SandboxCluster, redis: Redis, start_worker: StartWorker
) -> None:
    product = make_product()
    reader = StatusReader(product.work_queue, product.settings)
    start_worker("netlink", node_name="sandbox-node")
    queues = eventually(lambda: known(reader), "the worker")
    redis.flushall()
    assert eventually(lambda: known(reader), "the worker to be known again") == queues


def known(reader: StatusReader) -> list[tuple[str, ...]]:
    return [worker.queues for worker in reader.read().workers if worker.alive]
