"""The dashboard's one way to Redis: opened when a page first needs it, so that a dead server is a page and no crash."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from flask import current_app

from shared.connection import connect
from shared.queue import WorkQueue

if TYPE_CHECKING:
    from flask import Flask
    from redis import Redis

    from shared.settings import Settings

_EXTENSION = "eip_reclaimer_store"


class Store:
    """Opens the queue of the settings once it can be opened."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._work_queue: WorkQueue | None = None

    def open(self) -> WorkQueue:
        """The queue; on a server that answers, when it is opened now.

        Raises:
            InvalidPayloadError: the settings lead to no server.
            RedisUnavailableError: the server cannot be used as configured.
        """
        if self._work_queue is None:
            with self._lock:
                if self._work_queue is None:
                    self._work_queue = WorkQueue(connect(self.settings), self.settings)
        return self._work_queue

    @property
    def is_open(self) -> bool:
        """Whether it was ever opened."""
        return self._work_queue is not None

    @property
    def work_queue(self) -> WorkQueue:
        """The queue, opened before the page was begun."""
        assert self._work_queue is not None
        return self._work_queue

    @property
    def redis(self) -> Redis:
        """The client that everything in this process uses."""
        return self.work_queue.redis

    def register(self, app: Flask) -> None:
        """Let this be the store of the app."""
        app.extensions[_EXTENSION] = self


def store() -> Store:
    """The store of the current app."""
    found: Store = current_app.extensions[_EXTENSION]
    return found
