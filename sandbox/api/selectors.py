"""labelSelector and fieldSelector: text in, predicate out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.api.resources import Object, Resource

LabelTest = Callable[[Mapping[str, str]], bool]
ObjectTest = Callable[["Object"], bool]

_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "(", ")", ",", "<", ">", ""))


def label_selector(text: str) -> LabelTest | None:
    """The predicate over an object's labels; None selects everything.

    Raises:
        StatusError: 400, the text is no selector.
    """
    if not text.strip():
        return None
    tests = tuple(_requirements(text))
    return lambda labels: all(test(labels) for test in tests)


def field_selector(text: str, resource: Resource) -> ObjectTest | None:
    """The predicate over an object's fields; None selects everything.

    Raises:
        StatusError: 400, the text is no selector or names a field the resource is not selectable by.
    """
    known = {"metadata.name", *resource.selectable}
    if resource.namespaced:
        known.add("metadata.namespace")
    terms: list[tuple[tuple[str, ...], str, bool]] = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, operator, value = match.groups()
        if field not in known:
            raise bad_request(f"field label not supported: {field}")
        terms.append((tuple(field.split(".")), value, operator != "!="))
    if not terms:
        return None
    return lambda each: all((_field(each, path) == value) is wanted for path, value, wanted in terms)


def _field(value: Any, path: tuple[str, ...]) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else str(value)


class _Tokens:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self._at += 1
        return token


def _requirements(text: str) -> Iterator[LabelTest]:
    tokens = _Tokens(text)
    while True:
        yield _requirement(tokens)
        separator = tokens.next()
        if not separator:
            return
        if separator != ",":
            raise bad_request(f"found '{separator}', expected: ',' or 'end of string'")


def _requirement(tokens: _Tokens) -> LabelTest:
    key = tokens.next()
    if key == "!":
        absent = tokens.next()
        if absent in _SYMBOLS:
            raise bad_request(f"found '{absent}', expected: identifier")
        return lambda labels: absent not in labels
    if key in _SYMBOLS:
        raise bad_request(f"found '{key}', expected: !, identifier, or 'end of string'")
    if tokens.peek() in ("", ","):
        return lambda labels: key in labels
    operator = tokens.next()
    if operator in ("=", "=="):
        value = _value(tokens)
        return lambda labels: labels.get(key) == value
    if operator == "!=":
        value = _value(tokens)
        return lambda labels: labels.get(key) != value
    if operator in ("in", "notin"):
        values = _values(tokens)
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if operator in (">", "<"):
        return _comparison(key, operator, _value(tokens))
    raise bad_request(f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _value(tokens: _Tokens) -> str:
    return "" if tokens.peek() in ("", ",") else tokens.next()


def _values(tokens: _Tokens) -> frozenset[str]:
    opening = tokens.next()
    if opening != "(":
        raise bad_request(f"found '{opening}' expected: '('")
    values: set[str] = set()
    last = ","
    while True:
        token = tokens.next()
        if token == "":
            raise bad_request("found '', expected: ',', or ')'")
        if token in (",", ")"):
            if last == ",":
                values.add("")
            if token == ")":
                return frozenset(values)
        else:
            values.add(token)
        last = token


def _comparison(key: str, operator: str, text: str) -> LabelTest:
    try:
        bound = int(text)
    except ValueError:
        raise bad_request(
            f"values[0][{key}]: Invalid value: \"{text}\": for 'Gt', 'Lt' operators, the value must be an integer"
        ) from None

    def compare(labels: Mapping[str, str]) -> bool:
        try:
            value = int(labels[key])
        except (KeyError, ValueError):
            return False
        return value > bound if operator == ">" else value < bound

    return compare
