"""Whether the watch still tells what happens: silence proves nothing, so the API is asked beside it.

A real API server sends a bookmark about once a minute, so a watch of a quiet cluster is silent, and so is one whose
connection died without a word or whose server forgot it. So every few seconds a second, short watch is opened from
where the first one has come to. What the second one tells, the first has to tell within moments; one that does not is
broken off and resumed from its last event, by which nothing is lost.

Events are noted by the thread that reads them, not by the producer: that may be busy, or wait for Redis.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producer.events import version_of
from shared.errors import ApiUnavailableError, TransientError
from shared.kube.api import EIPS, HistoryGoneError
from shared.log import get_logger
from shared.metrics import WATCH_BEHIND, WATCH_HEARD, WATCH_VERSION, count_watch_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.kube.api import KubeApi, Object

log = get_logger(__name__)

PROBE_SECONDS = 6.0
"""How often the API is asked beside the watch."""
SOONEST_SECONDS = 1.0
"""How soon it is asked once more, whoever wants to know: an API in trouble has enough to do."""
PROBE_TIMEOUT = 5.0
"""How long its answer may take."""
GRACE_SECONDS = 3.0
"""How much later the watch may tell what the API told: several API servers are not abreast."""


class WatchStalledError(TransientError):
    """The watch does not tell what the API has."""


class _BrokenOffError(TransientError):
    """The second watch broke off after it had been opened."""


@dataclass(slots=True)
class _Followed:
    """One watch request, as its reader sees it."""

    position: int


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A resourceVersion that the API told of."""

    version: int
    since: float
    """When the watch should have told of it, at the earliest; on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where the API's events ended."""

    version: int
    """No event is later than it."""
    asked_at: float
    """That was so at this moment, or later; on the monotonic clock."""


class Freshness:
    """Asks beside one producer's watch. `run` it in a thread of its own."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api.with_timeout(PROBE_TIMEOUT)
        self._followed: _Followed | None = None
        self._evidence: _Evidence | None = None
        self._probe_error: str | None = None
        self._ends: deque[_End] = deque(maxlen=10)
        self._end_wanted = False
        self._soon = threading.Event()
        WATCH_BEHIND.set_function(lambda: self.behind)

    def following(self, batches: Iterator[list[Object]], position: int) -> Iterator[list[Object]]:
        """The batches of a watch from a resourceVersion, each noted when it arrives; that watch counts from now on."""
        followed = self._followed = _Followed(position)
        if self._evidence is not None:
            # A watch that has only begun has its time too.
            self._evidence = _Evidence(self._evidence.version, time.monotonic())
        WATCH_VERSION.set(position)
        return self._noted(followed, batches)

    def left(self, *, history_gone: bool = False) -> None:
        """The watch has ended; with `history_gone`, versions before say nothing about what comes."""
        self._followed = None
        if history_gone:
            self._evidence = None
            self._ends.clear()

    def expect_live(self) -> None:
        """See that the watch tells what the API has.

        Raises:
            WatchStalledError: it does not, and should be broken off.
        """
        if self.behind > GRACE_SECONDS:
            raise WatchStalledError(
                "the watch is silent, but the API has events that it should have told: it is broken off and resumed"
            )

    @property
    def behind(self) -> float:
        """For how long the API has had events that the watch does not tell, seconds; 0 for not at all."""
        followed, evidence = self._followed, self._evidence
        if followed is None or evidence is None or followed.position >= evidence.version:
            return 0.0
        return max(time.monotonic() - evidence.since, 0.001)

    @property
    def problem(self) -> str | None:
        """Why the watch cannot be relied on now, in words; None when it can."""
        if self._probe_error is not None:
            return f"the API does not answer a watch: {self._probe_error}"
        if self.behind:
            return "the watch has not told an event yet that the API has"
        return None

    def seen_until(self, position: int, since: float) -> float | None:
        """The last moment at which the API's events ended, as far as is known, at a resourceVersion or before.

        None where that is not known of any moment past `since`. Both are on the monotonic clock.
        """
        known = [end.asked_at for end in list(self._ends) if end.version <= position and end.asked_at >= since]
        return max(known, default=None)

    def ask_for_end(self) -> None:
        """Let it be asked now where the API's events end."""
        self._end_wanted = True
        self._soon.set()

    def run(self, stop: threading.Event) -> None:
        """Ask every few seconds until told to stop, and `wake`d."""
        asked_at = time.monotonic() - SOONEST_SECONDS
        while not stop.is_set():
            self._soon.wait(max(asked_at + PROBE_SECONDS - time.monotonic(), 0.0))
            stop.wait(max(asked_at + SOONEST_SECONDS - time.monotonic(), 0.0))
            self._soon.clear()
            if not stop.is_set():
                asked_at = time.monotonic()
                self.probe()

    def wake(self) -> None:
        """Let `run` look whether it was told to stop."""
        self._soon.set()

    def probe(self) -> None:
        """Ask once, where there is a watch to compare with."""
        followed = self._followed
        if followed is None:
            self._probe_error = None
            return
        try:
            if self._end_wanted:
                # Where events come all the time the second watch does not tell where they end.
                began = time.monotonic()
                self._ends.append(_End(self._api.version_of(EIPS), began))
                self._end_wanted = False
                self._soon.clear()
            asked_at = followed.position
            version, silent_since = self._first_event_after(asked_at, GRACE_SECONDS)
            if silent_since is not None:
                self._ends.append(_End(asked_at, silent_since))
        except HistoryGoneError:
            # Where the events since then are gone, nothing can be told of them; the watch itself may go on.
            version = None
        except _BrokenOffError:
            # The API did answer, and nothing follows from that: the watch that is followed breaks off too, or goes on.
            return
        except TransientError as error:
            if self._probe_error is None:
                log.warning("the API does not answer beside the watch", reason=str(error))
            self._probe_error = str(error)
            return
        except Exception:
            # Whatever it is, the watch is looked after no longer without it.
            log.exception("the watch cannot be looked after")
            return
        self._probe_error = None
        if version is None or followed.position >= version:
            self._evidence = None
        elif self._evidence is None or self._evidence.version > version:
            self._evidence = _Evidence(version, time.monotonic())

    def _first_event_after(self, position: int, seconds: float) -> tuple[int | None, float | None]:
        """The first event's version, or since when a watch which lasted that long told of none (monotonic clock)."""
        opened: list[float] = []
        watched = self._api.watch(EIPS, position, seconds, opened=lambda: opened.append(time.monotonic()))
        try:
            with closing(watched) as batches:
                for batch in batches:
                    for event in batch:
                        version = version_of(event["object"])
                        if event["type"] != "BOOKMARK" and version is not None and version > position:
                            return version, None
        except ApiUnavailableError as error:
            if opened:
                raise _BrokenOffError(str(error)) from error
            raise
        # A server that is about to go ends its watches early, and empty.
        lasted = bool(opened) and time.monotonic() - opened[0] >= seconds * 0.9
        return None, opened[0] if lasted else None

    def _noted(self, followed: _Followed, batches: Iterator[list[Object]]) -> Iterator[list[Object]]:
        for batch in batches:
            for event in batch:
                version = version_of(event["object"])
                if version is not None:
                    followed.position = version
                count_watch_event(event["type"])
            # A request that was given up may tell on for a while.
            if followed is self._followed:
                WATCH_VERSION.set(followed.position)
                WATCH_HEARD.set_to_current_time()
            yield batch
