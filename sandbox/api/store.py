"""The objects, and what became of them: one resourceVersion for all, a bounded history for each resource.

Every write is a `Change` with the next resourceVersion. Watches read changes by their place in the history, and
lists at an older resourceVersion undo the changes since. An entry is never changed once it is stored, and it is
serialised once: lists, watches and gets share the bytes. Everything happens in one event loop, so a method that
does not await is a transaction.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

from sandbox.api.resources import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.api.resources import Object, Resource

Key = tuple[str, str]
SNAPSHOTS = 8


class Entry:
    """One stored state of one object."""

    def __init__(self, resource: Resource, key: Key, version: int, content: Object) -> None:
        """Take over `content`: its metadata.resourceVersion is `version`, and it is never changed again."""
        self.resource = resource
        self.key = key
        self.version = version
        self.content = content
        self.labels: Mapping[str, str] = content["metadata"].get("labels") or {}

    @cached_property
    def body(self) -> bytes:
        """The object as JSON."""
        return json.dumps(self.content, separators=(",", ":")).encode()

    @property
    def item(self) -> bytes:
        """The object as JSON inside a list: built-in resources leave out kind and apiVersion there."""
        if self.resource.custom:
            return self.body
        content = {key: value for key, value in self.content.items() if key not in ("kind", "apiVersion")}
        return json.dumps(content, separators=(",", ":")).encode()


class Change:
    """One write: `before` is None for a creation, `after` for a removal."""

    def __init__(self, version: int, before: Entry | None, after: Entry | None) -> None:
        self.version = version
        self.before = before
        self.after = after

    @cached_property
    def added(self) -> bytes:
        """The watch event for who did not see the object before."""
        return event_line("ADDED", self.after)

    @cached_property
    def modified(self) -> bytes:
        """The watch event for who sees it before and after."""
        return event_line("MODIFIED", self.after)

    @cached_property
    def deleted(self) -> bytes:
        """The watch event for who sees it no longer: its last seen state under this change's version."""
        assert self.before is not None
        last = self.before.content
        metadata = {**last["metadata"], "resourceVersion": str(self.version)}
        gone = Entry(self.before.resource, self.before.key, self.version, _ordered({**last, "metadata": metadata}))
        return event_line("DELETED", gone)


def event_line(kind: str, entry: Entry | None) -> bytes:
    """One line of a watch stream."""
    assert entry is not None
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), entry.body)


class Collection:
    """All objects of one resource, sorted by (namespace, name), and their recent changes."""

    def __init__(self, resource: Resource, history_size: int) -> None:
        self.resource = resource
        self.oldest = 0
        """Watches and lists from before this resourceVersion are expired."""
        self.wakers: set[asyncio.Event] = set()
        self._entries: dict[Key, Entry] = {}
        self._sorted: list[Entry] | None = None
        self._history: list[Change] = []
        self._dropped = 0
        self._history_size = history_size
        self._snapshots: OrderedDict[int, list[Entry]] = OrderedDict()

    def get(self, key: Key) -> Entry | None:
        """The object as it is now."""
        return self._entries.get(key)

    def now(self) -> list[Entry]:
        """All objects as they are now, in order; not to be changed."""
        if self._sorted is None:
            self._sorted = [self._entries[key] for key in sorted(self._entries)]
        return self._sorted

    def at(self, version: int) -> list[Entry] | None:
        """All objects as they were at a resourceVersion, in order; None when that is forgotten."""
        if not self._history or self._history[-1].version <= version:
            return self.now() if version >= self.oldest else None
        snapshot = self._snapshots.get(version)
        if snapshot is None and version >= self.oldest:
            entries = dict(self._entries)
            for change in reversed(self._history):
                if change.version <= version:
                    break
                if change.after is not None:
                    del entries[change.after.key]
                if change.before is not None:
                    entries[change.before.key] = change.before
            snapshot = [entries[key] for key in sorted(entries)]
            self.keep(version, snapshot)
        return snapshot

    def keep(self, version: int, snapshot: list[Entry]) -> None:
        """Remember a state that the next page of a list will ask for."""
        self._snapshots[version] = snapshot
        self._snapshots.move_to_end(version)
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)

    def place_after(self, version: int) -> int:
        """Where in the history the first change after a resourceVersion is, or will be."""
        return self._dropped + bisect_right(self._history, version, key=lambda change: change.version)

    def changes_from(self, place: int) -> Sequence[Change] | None:
        """The changes from a place on; None when some of them are forgotten."""
        if place < self._dropped:
            return None
        return self._history[place - self._dropped :]

    def commit(self, change: Change) -> None:
        """Apply a change, remember it, wake who watches."""
        entry = change.after if change.after is not None else change.before
        assert entry is not None
        if change.after is not None:
            self._entries[entry.key] = change.after
        else:
            del self._entries[entry.key]
        self._sorted = None
        self._history.append(change)
        # Dropping the older half at once keeps a write at constant cost.
        if len(self._history) >= 2 * self._history_size:
            self._forget(len(self._history) - self._history_size)
        for waker in self.wakers:
            waker.set()

    def compact(self, version: int) -> None:
        """Tell nobody any more who asks for what was before a resourceVersion; watches that are open go on."""
        self._snapshots.clear()
        self.oldest = max(self.oldest, version)

    def _forget(self, count: int) -> None:
        if count:
            self.oldest = max(self.oldest, self._history[count - 1].version)
            del self._history[:count]
            self._dropped += count


class Store:
    """All collections, and the resourceVersion they share."""

    def __init__(self, history_size: int) -> None:
        self.version = 1
        self.collections = {resource: Collection(resource, history_size) for resource in RESOURCES}

    def write(self, resource: Resource, key: Key, content: Object, before: Entry | None) -> Entry:
        """Store a new state of an object under the next resourceVersion; `content` is not changed."""
        self.version += 1
        metadata = {**content["metadata"], "resourceVersion": str(self.version)}
        entry = Entry(resource, key, self.version, _ordered({**content, "metadata": metadata}))
        self.collections[resource].commit(Change(self.version, before, entry))
        return entry

    def remove(self, entry: Entry) -> None:
        """Take an object out."""
        self.version += 1
        self.collections[entry.resource].commit(Change(self.version, entry, None))

    def compact(self) -> int:
        """Make every resourceVersion handed out before too old to watch or to list from; the new oldest one."""
        self.version += 1
        for collection in self.collections.values():
            collection.compact(self.version)
        return self.version


def _ordered(content: Object) -> Object:
    head: Object = {key: content[key] for key in ("apiVersion", "kind", "metadata") if key in content}
    return {**head, **content}
