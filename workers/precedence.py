"""Who has few releases to see to goes first, who has many gives way.

The threads of a worker share one interpreter: of two that compute, each has half of it. A release over netlink takes
7 ms, most of which it computes; a round of two hundred computes as long in each of its steps. So a long round stops
between one piece and the next while another thread has short work: for a moment that costs it little, and no longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

LONG_ROUND = 20
"""From so many pieces on a round is long."""
LONGEST_CLAIM = 0.03
"""How long work counts as short, seconds: some times as long as a release takes over netlink."""
STOP_PER_PIECE = 0.0003
"""How long a round gives way in all, seconds for each of its pieces: over netlink one takes twice as long, at least."""
POLL = 0.001
"""Seconds. Nothing is locked meanwhile: a job's deadline strikes anywhere, also between a lock and its release."""

T = TypeVar("T")

_claims: dict[int, float] = {}
"""By thread, until when its work counts as short, on the monotonic clock."""


class _Mine(threading.local):
    """What each thread has of its own."""

    stops_left = 0.0
    """How much longer its round gives way, seconds."""


_mine = _Mine()


@contextmanager
def first() -> Iterator[None]:
    """Go first, with work that is begun, until it is done or turns out to be long."""
    _mine.stops_left = 0.0
    _claims[threading.get_ident()] = time.monotonic() + LONGEST_CLAIM
    try:
        yield
    finally:
        _claims.pop(threading.get_ident(), None)
        _mine.stops_left = 0.0


def last(pieces: int) -> None:
    """Give way from now on, in a round of so many pieces, if that is a long one."""
    if pieces >= LONG_ROUND:
        _claims.pop(threading.get_ident(), None)
        _mine.stops_left = pieces * STOP_PER_PIECE


@contextmanager
def at_once() -> Iterator[None]:
    """Do not give way, for what is not to be held up."""
    left, _mine.stops_left = _mine.stops_left, 0.0
    try:
        yield
    finally:
        _mine.stops_left = left


def give_way() -> None:
    """Stop while another thread goes first, in a round that gives way."""
    left = _mine.stops_left
    if not _claims or left <= 0:
        return
    began = now = time.monotonic()
    while now < min(_claimed_until(), began + left):
        time.sleep(POLL)
        now = time.monotonic()
    _mine.stops_left = left - (now - began)


def _claimed_until() -> float:
    return max(list(_claims.values()), default=float("-inf"))


def among(pieces: Iterable[T]) -> Iterator[T]:
    """The pieces, of which each is seen to after giving way."""
    for piece in pieces:
        give_way()
        yield piece
