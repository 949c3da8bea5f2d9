"""Who has one release to see to goes first, who has hundreds gives way.

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

LONGEST_CLAIM = 0.03
"""How long work counts as short, seconds: some times as long as a release takes over netlink."""
LONGEST_STOP = 0.06
"""How long one round gives way in all, seconds; a round of two hundred takes a few times as long."""

T = TypeVar("T")

_changed = threading.Condition()
_claims: dict[int, float] = {}
"""By thread, until when its work counts as short, on the monotonic clock."""
_mine = threading.local()
"""`stops_left`: how much longer this thread's round gives way, seconds."""


@contextmanager
def first() -> Iterator[None]:
    """Go first, with a job that was just taken, until it is done or turns out to be long."""
    _mine.stops_left = 0.0
    _claims[threading.get_ident()] = time.monotonic() + LONGEST_CLAIM
    try:
        yield
    finally:
        _over()


def last() -> None:
    """Give way from now on, in a long round that begins."""
    _mine.stops_left = LONGEST_STOP
    _over()


def _over() -> None:
    if _claims.pop(threading.get_ident(), None) is not None:
        with _changed:
            _changed.notify_all()


def give_way() -> None:
    """Stop while another thread goes first, in a round that gives way."""
    if not _claims:
        return
    left: float = getattr(_mine, "stops_left", 0.0)
    if left <= 0:
        return
    began = time.monotonic()
    with _changed:
        while (wait := min(_claimed_until(), began + left) - time.monotonic()) > 0:
            _changed.wait(wait)
    _mine.stops_left = left - (time.monotonic() - began)


def _claimed_until() -> float:
    return max(list(_claims.values()), default=float("-inf"))


def among(pieces: Iterable[T]) -> Iterator[T]:
    """The pieces, of which each is seen to after giving way."""
    for piece in pieces:
        give_way()
        yield piece
