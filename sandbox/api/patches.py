"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902)."""

from __future__ import annotations

import copy
from typing import Any

from sandbox.api.errors import StatusError, bad_request


def merged(target: Any, patch: Any) -> Any:
    """`target` with a merge patch applied; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def patched(target: Any, operations: Any) -> Any:
    """`target` with a JSON patch applied; the argument is not changed.

    Raises:
        StatusError: 400 for something that is no patch, 422 when an operation does not apply.
    """
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise bad_request("error decoding patch: a list of operations was expected")
    document = copy.deepcopy(target)
    for operation in operations:
        try:
            document = _applied(document, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise StatusError(
                422,
                "the server rejected our request due to an error in our request",
                reason="Invalid",
                details={},
            ) from None
    return document


def _applied(document: Any, operation: dict[str, Any]) -> Any:
    path = _path(operation["path"])
    match operation["op"]:
        case "add":
            return _added(document, path, copy.deepcopy(operation["value"]))
        case "replace":
            _found(document, path)
            return _added(_removed(document, path) if path else document, path, operation["value"])
        case "remove":
            return _removed(document, path)
        case "move":
            source = _path(operation["from"])
            value = _found(document, source)
            return _added(_removed(document, source), path, value)
        case "copy":
            return _added(document, path, copy.deepcopy(_found(document, _path(operation["from"]))))
        case "test":
            if _found(document, path) != operation["value"]:
                raise ValueError("test failed")
            return document
        case unknown:
            raise ValueError(unknown)


def _path(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise ValueError(pointer)
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _index(parent: list[Any], key: str, *, end: bool) -> int:
    if key == "-" and end:
        return len(parent)
    index = int(key)
    if not 0 <= index < len(parent) + end:
        raise IndexError(key)
    return index


def _found(document: Any, path: list[str]) -> Any:
    for key in path:
        document = document[_index(document, key, end=False)] if isinstance(document, list) else document[key]
    return document


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _found(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(_index(parent, path[-1], end=True), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise TypeError(path)
    return document


def _removed(document: Any, path: list[str]) -> Any:
    parent = _found(document, path[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, path[-1], end=False)]
    elif isinstance(parent, dict):
        del parent[path[-1]]
    else:
        raise TypeError(path)
    return document
