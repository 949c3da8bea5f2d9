"""What the emulator is told to do wrong, and what it was asked."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.api.store import Entry


@dataclass
class Fault:
    """Which requests it concerns: a path prefix, verbs (none: all), how many more, until when (monotonic seconds)."""

    prefix: str = "/"
    verbs: frozenset[str] = frozenset()
    remaining: int | None = None
    until: float | None = None

    def concerns(self, path: str, verb: str) -> bool:
        """Whether it applies to a request; counts down when it does."""
        if not path.startswith(self.prefix) or (self.verbs and verb not in self.verbs):
            return False
        if self.over:
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True

    @property
    def over(self) -> bool:
        """Whether it concerns nothing any more."""
        return self.remaining == 0 or (self.until is not None and time.monotonic() >= self.until)


@dataclass
class Answer(Fault):
    """Answer with this status code; 0 closes the connection without an answer."""

    code: int = 503


@dataclass
class Delay(Fault):
    """Wait before answering."""

    seconds: float = 1.0


@dataclass
class Partial(Fault):
    """Show only this fraction of the objects in lists and in the initial events of watches."""

    fraction: float = 0.0


@dataclass
class Faults:
    """All faults in force. They are asked in the order they were set."""

    answers: list[Answer] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    partials: list[Partial] = field(default_factory=list)

    def answer(
        self,
        code: int,
        *,
        count: int | None = None,
        seconds: float | None = None,
        prefix: str = "/",
        verbs: Iterable[str] = (),
    ) -> None:
        """Answer the next `count` requests, or those of the next `seconds`, or all, with a status code.

        `code` 0 closes the connection instead. `verbs` are get, list, watch, create, update, patch, delete,
        deletecollection, exec and other.
        """
        self.answers.append(Answer(prefix, frozenset(verbs), count, _until(seconds), code))

    def slow(
        self,
        delay: float,
        *,
        count: int | None = None,
        seconds: float | None = None,
        prefix: str = "/",
        verbs: Iterable[str] = (),
    ) -> None:
        """Let requests wait `delay` seconds before they are looked at."""
        self.delays.append(Delay(prefix, frozenset(verbs), count, _until(seconds), delay))

    def partial_lists(
        self, fraction: float, *, count: int | None = None, seconds: float | None = None, prefix: str = "/"
    ) -> None:
        """Show only the first part of every list, 0 for none: its objects, not its resourceVersion, are wrong."""
        self.partials.append(Partial(prefix, frozenset(), count, _until(seconds), fraction))

    def clear(self) -> None:
        """Behave again."""
        self.answers.clear()
        self.delays.clear()
        self.partials.clear()

    def delay_of(self, path: str, verb: str) -> float:
        """How many seconds a request has to wait."""
        return sum(each.seconds for each in self.delays if each.concerns(path, verb))

    def code_for(self, path: str, verb: str) -> int | None:
        """The status code to answer a request with, None to serve it."""
        self.answers = [each for each in self.answers if not each.over]
        return next((each.code for each in self.answers if each.concerns(path, verb)), None)

    def shown(self, path: str, verb: str, entries: list[Entry]) -> list[Entry]:
        """What a list shows of the objects that are there."""
        for each in self.partials:
            if each.concerns(path, verb):
                return entries[: int(len(entries) * each.fraction)]
        return entries


def _until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


@dataclass(frozen=True)
class Request:
    """One request; `at` in seconds since the epoch."""

    at: float
    verb: str
    method: str
    path: str
    query: str


class RequestLog:
    """The requests that came in, those to /sandbox/ excepted: the newest ones, and counts of all."""

    def __init__(self, size: int = 10_000) -> None:
        self.newest: deque[Request] = deque(maxlen=size)
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, verb: str, method: str, path: str, query: str) -> None:
        """Record one."""
        self.newest.append(Request(time.time(), verb, method, path, query))
        self.counts[verb, method, path] += 1

    def count(self, *, verb: str = "", method: str = "", prefix: str = "/") -> int:
        """How many requests had this verb and method (empty: any) and a path that begins so."""
        return sum(
            number
            for (its_verb, its_method, path), number in self.counts.items()
            if verb in ("", its_verb) and method in ("", its_method) and path.startswith(prefix)
        )

    def clear(self) -> None:
        """Start counting anew."""
        self.newest.clear()
        self.counts.clear()
