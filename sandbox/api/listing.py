"""Lists: selectors, pages, and which resourceVersion a page shows.

The first page of a list shows what is there now; its continue token carries that resourceVersion, and the pages
after it show the same state whatever was written meanwhile. A token whose state is forgotten is answered with 410
Expired and a token that goes on in the present state.
"""

from __future__ import annotations

import base64
import binascii
import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.api import errors, selectors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.api.resources import Resource
    from sandbox.api.store import Collection, Entry, Key, Store

TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
MATCHES = ("", "Exact", "NotOlderThan")


@dataclass(frozen=True)
class Selection:
    """Which of a resource's objects a request is about."""

    namespace: str
    labels: selectors.LabelTest | None
    fields: selectors.ObjectTest | None

    @classmethod
    def of(cls, resource: Resource, namespace: str, query: Mapping[str, str]) -> Selection:
        """The selection a query asks for.

        Raises:
            StatusError: 400, a selector cannot be parsed.
        """
        return cls(
            namespace,
            selectors.label_selector(query.get("labelSelector", "")),
            selectors.field_selector(query.get("fieldSelector", ""), resource),
        )

    @property
    def everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.namespace and self.labels is None and self.fields is None

    def __contains__(self, entry: Entry) -> bool:
        if self.namespace and entry.key[0] != self.namespace:
            return False
        if self.labels is not None and not self.labels(entry.labels):
            return False
        return self.fields is None or self.fields(entry.content)


@dataclass(frozen=True)
class ListOptions:
    """The query of a list; `version` is None for "the most recent"."""

    limit: int
    version: int | None
    match: str
    start: Key | None
    start_version: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> ListOptions:
        """The options a query asks for.

        Raises:
            StatusError: 400 or 422, they contradict each other or are malformed.
        """
        version, match = parsed_version(query), query.get("resourceVersionMatch", "")
        if match not in MATCHES:
            raise _invalid_match(
                f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""',
                "FieldValueNotSupported",
            )
        if match and version is None:
            raise _invalid_match("Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
        if match == "Exact" and version == 0:
            raise _invalid_match('Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
        limit = max(0, parsed_int(query, "limit"))
        token = query.get("continue", "")
        if not token:
            return cls(limit, version, match, None, 0)
        if version:
            raise errors.bad_request("specifying resource version is not allowed when using continue")
        start, start_version = _decoded(token)
        return cls(limit, version, match, start, start_version)


def parsed_int(query: Mapping[str, str], name: str) -> int:
    """A whole number of the query, 0 when it is missing.

    Raises:
        StatusError: 400.
    """
    text = query.get(name) or "0"
    try:
        return int(text)
    except ValueError:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def parsed_bool(query: Mapping[str, str], name: str) -> bool:
    """A flag of the query: whatever is not "false" or "0" is true, as the real server reads it."""
    return query.get(name, "false").lower() not in ("false", "0")


def parsed_version(query: Mapping[str, str]) -> int | None:
    """The resourceVersion of the query, None when it has none.

    Raises:
        StatusError: 400.
    """
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise errors.bad_request(f"invalid resource version: {message}")
    return int(text)


def list_body(
    store: Store,
    resource: Resource,
    selection: Selection,
    options: ListOptions,
    shown: Callable[[list[Entry]], list[Entry]],
) -> bytes:
    """The list object as JSON.

    `shown` may hide objects (a fault); the resourceVersion asked for must have been reached.

    Raises:
        StatusError: 410, the state asked for is forgotten.
    """
    collection = store.collections[resource]
    entries, version = _state(store, collection, options)
    entries = shown(entries)
    if not selection.everything:
        entries = [entry for entry in entries if entry in selection]
    if options.start is not None:
        entries = entries[bisect_right(entries, options.start, key=lambda entry: entry.key) :]
    # resourceVersion=0 is answered from the server's cache, which does not page.
    limit = 0 if options.version == 0 else options.limit
    metadata: dict[str, str | int] = {"resourceVersion": str(version)}
    if limit and len(entries) > limit:
        page, rest = entries[:limit], len(entries) - limit
        metadata["continue"] = _encoded(page[-1].key, version)
        if selection.labels is None and selection.fields is None:
            metadata["remainingItemCount"] = rest
        entries = page
    elif resource.custom:
        metadata["continue"] = ""
    head = json.dumps({"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata})
    return b'%s,"items":[%s]}' % (head[:-1].encode(), b",".join(entry.item for entry in entries))


def _state(store: Store, collection: Collection, options: ListOptions) -> tuple[list[Entry], int]:
    if options.start is not None:
        if options.start_version < 0:
            return collection.now(), store.version
        entries = collection.at(options.start_version)
        if entries is None:
            raise errors.expired(TOO_OLD, _encoded(options.start, -1))
        return entries, options.start_version
    version = options.version
    exact = options.match == "Exact" or (options.limit and not options.match)
    if version and exact:
        entries = collection.at(version)
        if entries is None:
            raise errors.expired("The resourceVersion for the provided list is too old.")
        return entries, version
    if options.limit:
        collection.keep(store.version, collection.now())
    return collection.now(), store.version


def _encoded(key: Key, version: int) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(key) + "\0"}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def _decoded(token: str) -> tuple[Key, int]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=="))
        namespace, name = content["start"].removesuffix("\0").split("/")
        return (namespace, name), int(content["rv"])
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.bad_request(f"invalid continue token: continue key is not valid: {error}") from None


def _invalid_match(message: str, cause: str = "FieldValueForbidden") -> errors.StatusError:
    return errors.invalid("ListOptions", "meta.k8s.io", "", "resourceVersionMatch", message, cause)
