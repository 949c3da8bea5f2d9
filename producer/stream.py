"""The watch, read by a thread of its own, so that the producer can commit, retry and stop while no event comes."""

from __future__ import annotations

import threading
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from shared.kube.api import Object

MAX_WAITING_BATCHES = 1000
"""More than this unread, and the API server has to wait with its next event."""

_END = object()


class EventStream:
    """Batches of one watch request, in order, then its end or its error."""

    def __init__(self, batches: Iterator[list[Object]]) -> None:
        self._batches = batches
        self._queue: Queue[Any] = Queue(MAX_WAITING_BATCHES)
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="watch", daemon=True).start()

    def next(self, timeout: float) -> list[Object] | None:
        """The next batch; empty when none came within the timeout (seconds), None at the end.

        Raises:
            Exception: what ended the watch, after every batch before it was returned.
        """
        try:
            item = self._queue.get(timeout=timeout)
        except Empty:
            return []
        if item is _END:
            return None
        if isinstance(item, BaseException):
            raise item
        batch: list[Object] = item
        return batch

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread ends with its request, at the latest when the API server ends that.
        self._closed.set()

    def _read(self) -> None:
        try:
            for batch in self._batches:
                if not self._put(batch):
                    return
            self._put(_END)
        except Exception as error:
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except Full:
                continue
            return True
        return False
