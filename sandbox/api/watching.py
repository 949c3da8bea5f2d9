"""Watches: the changes of one resource after a resourceVersion, as lines of JSON.

A watch reads the history at its own pace: a write wakes it, and it sends every change since its place in one piece.
One that falls so far behind that its place is forgotten ends, and its client has to list again.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sandbox.api import errors
from sandbox.api.listing import parsed_bool, parsed_int, parsed_version
from sandbox.api.store import event_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sandbox.api.listing import Selection
    from sandbox.api.resources import Resource
    from sandbox.api.store import Change, Entry, Store

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
# The real server picks between 30 and 60 minutes when the client does not say.
DEFAULT_TIMEOUT = 1800
# It sends a last bookmark this many seconds before a watch times out.
LAST_BOOKMARK = 2.0


class Cut(Enum):
    """How a watch is cut off by a fault."""

    END = "end"
    """The response ends as if the server had timed it out."""
    DROP = "drop"
    """The connection closes in the middle of the response, between two lines."""
    MID_LINE = "mid-line"
    """The connection closes after half a line."""


@dataclass(frozen=True)
class WatchOptions:
    """The query of a watch; `initial` asks for what is there first, `timeout` is in seconds."""

    version: int | None
    initial: bool
    bookmarks: bool
    timeout: float

    @classmethod
    def of(cls, query: Mapping[str, str]) -> WatchOptions:
        """The options a query asks for.

        Raises:
            StatusError: 400 or 422, they contradict each other or are malformed.
        """
        timeout = parsed_int(query, "timeoutSeconds") or DEFAULT_TIMEOUT
        try:
            version = parsed_version(query)
        except errors.StatusError as error:
            # Not a 400 here, unlike in a list: the real server forgot to say what kind of error it is.
            raise errors.StatusError(500, error.message.removeprefix("invalid resource version: ")) from None
        match = query.get("resourceVersionMatch", "")
        send_initial = parsed_bool(query, "sendInitialEvents") if "sendInitialEvents" in query else None
        if send_initial is None and match:
            raise _forbidden_match("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        if send_initial is not None and match != "NotOlderThan":
            raise _forbidden_match("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        initial = send_initial if send_initial is not None else not version
        return cls(version, initial, parsed_bool(query, "allowWatchBookmarks"), float(timeout))


def _forbidden_match(message: str) -> errors.StatusError:
    return errors.invalid(
        "ListOptions",
        "meta.k8s.io",
        "",
        "resourceVersionMatch",
        f"Forbidden: {message}",
        "FieldValueForbidden",
    )


class Watch:
    """One open watch."""

    def __init__(
        self,
        store: Store,
        resource: Resource,
        selection: Selection,
        options: WatchOptions,
        *,
        bookmark_interval: float,
        shown: Callable[[list[Entry]], list[Entry]],
    ) -> None:
        self.resource = resource
        self.cut: Cut | None = None
        self._store = store
        self._collection = store.collections[resource]
        self._selection = selection
        self._options = options
        self._bookmark_interval = bookmark_interval
        self._shown = shown
        self._waker = asyncio.Event()

    def cut_off(self, how: Cut) -> None:
        """Make the watch end now."""
        self.cut = how
        self._waker.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """The events, several lines at a time, until the timeout or the cut.

        Raises:
            StatusError: 410, the resourceVersion to begin after is forgotten.
        """
        collection, loop = self._collection, asyncio.get_running_loop()
        deadline = loop.time() + self._options.timeout
        bookmark_at = self._next_bookmark(loop.time(), deadline)
        floor = self._floor()
        place = collection.place_after(floor)
        replayed = collection.changes_from(place)
        known = max(floor, replayed[-1].version) if replayed else floor
        collection.wakers.add(self._waker)
        try:
            if self._options.initial:
                yield self._initial_events()
            while self.cut is None:
                self._waker.clear()
                changes = collection.changes_from(place)
                if changes is None:
                    return
                if changes:
                    place += len(changes)
                    lines = (self._line(change) for change in changes if change.version > floor)
                    if text := b"".join(filter(None, lines)):
                        yield text
                    continue
                now = loop.time()
                if now >= deadline:
                    return
                if now < bookmark_at:
                    await self._sleep(min(deadline, bookmark_at) - now)
                    continue
                bookmark_at = self._next_bookmark(now, deadline)
                # Like the real server, send none to a client that knows as much since it began.
                if self._store.version > known:
                    yield self._bookmark()
        finally:
            collection.wakers.discard(self._waker)

    def _floor(self) -> int:
        """The resourceVersion whose later changes are sent: the one asked for, or the present."""
        asked = self._options.version
        if self._options.initial or not asked:
            return self._store.version
        if asked < self._collection.oldest:
            raise errors.expired(f"too old resource version: {asked} ({self._collection.oldest})")
        return asked

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._waker.wait()
        except TimeoutError:
            pass

    def _next_bookmark(self, now: float, deadline: float) -> float:
        if not self._options.bookmarks:
            return float("inf")
        last = deadline - LAST_BOOKMARK
        regular = now + self._bookmark_interval
        return min(regular, last) if now < last else regular

    def _initial_events(self) -> bytes:
        entries = self._shown(self._collection.now())
        lines = [event_line("ADDED", entry) for entry in entries if entry in self._selection]
        if self._options.bookmarks:
            lines.append(self._bookmark({INITIAL_EVENTS_END: "true"}))
        return b"".join(lines)

    def _line(self, change: Change) -> bytes | None:
        if self._selection.everything:
            before, after = change.before is not None, change.after is not None
        else:
            before = change.before is not None and change.before in self._selection
            after = change.after is not None and change.after in self._selection
        if after:
            return change.modified if before else change.added
        return change.deleted if before else None

    def _bookmark(self, annotations: Mapping[str, str] | None = None) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(self._store.version)}
        if annotations:
            metadata["annotations"] = annotations
        content = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        return json.dumps({"type": "BOOKMARK", "object": content}, separators=(",", ":")).encode() + b"\n"


def error_line(error: errors.StatusError) -> bytes:
    """A refusal inside a stream that has begun with 200."""
    return json.dumps({"type": "ERROR", "object": error.body}, separators=(",", ":")).encode() + b"\n"
