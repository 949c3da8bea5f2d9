"""The producer: every EIP that goes becomes work, whatever happens to the API, to Redis or to itself.

List once, then watch from there on; the position is committed with the work that follows from it
(`shared.inventory`). What can happen, and what then:

- the watch ends or breaks: it is resumed from the last event seen;
- the watch goes silent although things happen: it is broken off and resumed (`producer.freshness`);
- 410, the API no longer has the events since then: list again, and what is known but not listed is gone; for what
  came and went unseen the gateways are audited;
- Redis does not answer: go on watching, and commit all of it once Redis does;
- Redis came back older: publish again what it forgot of ours, then follow again from where it had come to. What is
  held in memory here counts as known, so that, where those events are gone and a list has to do, an EIP which that
  Redis never heard of, and which is gone by now, is not lost; whatever it came back with, workers take nothing away
  before a producer has caught up with the API (`producer.vouching`);
- a list that cannot be right: the brake holds back what is missing from it (`producer.lists`), and all goes on with
  what it shows, or an EIP that comes and goes meanwhile would be lost;
- this process dies: the next one resumes from the committed position.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from redis.exceptions import RedisError

from producer.events import change_of, version_of
from producer.freshness import Freshness, WatchStalledError
from producer.lists import BrakeEngagedError, Lists
from producer.memory import Memory
from producer.stream import EventStream
from producer.vouching import Vouching
from shared.endpoint import Pulse
from shared.errors import TransientError
from shared.inventory import Inventory, RedisWentBackError
from shared.kube.api import EIPS, HistoryGoneError, Object
from shared.log import get_logger
from shared.metrics import KNOWN, UNCOMMITTED, WATCH_RESTARTS

if TYPE_CHECKING:
    from shared.brake import Brake
    from shared.difference import Change
    from shared.kube.api import KubeApi
    from shared.kube.events import EventRecorder
    from shared.settings import Settings

log = get_logger(__name__)

HEARTBEAT_SECONDS = 2.0
"""How often Redis is asked whether it still knows us; four times as often while it does not answer."""
TROUBLE_SECONDS = 3.0
"""A watch that breaks off and is resumed within that time is worth no word."""
SHORTEST_PAUSE = 0.5
SETTLED_SECONDS = 2.0
"""A watch that has lived so long, or told something, is taken to go well."""
LONGEST_PAUSE = 10.0
"""Seconds; an address that is not reported gone is a conflict waiting, and a list now and then is no load."""


def producer_id() -> str:
    """A name for this producer that no other has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"


class Producer:
    """One producer; several may run at once."""

    def __init__(
        self,
        api: KubeApi,
        inventory: Inventory,
        brake: Brake,
        settings: Settings,
        events: EventRecorder | None = None,
    ) -> None:
        self._api = api
        self.freshness = Freshness(api)
        self.pulse = Pulse()
        """Of the loop in `run`."""
        self.trouble: tuple[str, float] | None = None
        """What keeps it from following the API, and since when on the monotonic clock."""
        self.has_followed = False
        """Whether it has caught up with the API, and told so, once."""
        self.redis_trouble: str | None = None
        """Why Redis does not take commits."""
        self._inventory = inventory
        self._settings = settings
        self._memory = Memory(inventory)
        self._lists = Lists(api, inventory, self._memory, brake, settings, events)
        self._vouching = Vouching(inventory, self.freshness, brake)
        self._backlog: list[Change] = []
        self._position: int | None = None
        """The last event seen; what is in the backlog is not committed yet."""
        self._started = False
        self._redis_went_back = False

    @property
    def position(self) -> int | None:
        """The resourceVersion of the last event seen; None before the first list."""
        return self._position

    @property
    def known(self) -> int:
        """How many EIPs there are, as far as this producer has seen."""
        return len(self._memory.eips)

    def run(self, stop: threading.Event) -> None:
        """Produce until told to stop.

        Raises:
            WrongClusterError: this Redis is another cluster's, or the API is by now.
        """
        ended = threading.Event()
        threading.Thread(target=self.freshness.run, args=(ended,), name="freshness", daemon=True).start()
        try:
            self._run(stop)
        finally:
            ended.set()
            self.freshness.wake()

    def _run(self, stop: threading.Event) -> None:
        pause = SHORTEST_PAUSE
        while not stop.is_set():
            self.pulse.beat()
            began = time.monotonic()
            try:
                self._follow_from_here(stop)
                WATCH_RESTARTS.labels("ended").inc()
                pause = SHORTEST_PAUSE
                continue
            except HistoryGoneError as error:
                log.warning("events are gone, listing again", reason=str(error))
                WATCH_RESTARTS.labels("history").inc()
                self.freshness.left(history_gone=True)
                self._position = None
            except RedisWentBackError as error:
                log.error("redis came back older, publishing again and going back with it", reason=str(error))
                WATCH_RESTARTS.labels("redis").inc()
                self._vouching.break_off()
                self._redis_went_back = True
                continue
            except BrakeEngagedError:
                WATCH_RESTARTS.labels("brake").inc()
                # It waits for a person, and tells so (`shared.brake`): nothing of its own is in trouble.
                self.trouble = None
                pause = self._settings.brake_recheck
            except WatchStalledError as error:
                log.error("watch stalled", reason=str(error), resource_version=self._position)
                WATCH_RESTARTS.labels("stalled").inc()
            except RedisError as error:
                log.error("cannot watch now, trying again", reason=str(error))
                WATCH_RESTARTS.labels("redis").inc()
                self.redis_trouble = str(error)
            except TransientError as error:
                log.error("cannot watch now, trying again", reason=str(error))
                WATCH_RESTARTS.labels("api").inc()
                self.trouble = (str(error), self.trouble[1] if self.trouble else time.monotonic())
            self._vouching.break_off()
            self._tell_of_trouble()
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, LONGEST_PAUSE)
        self._vouching.break_off()
        if self._started:
            # What a Redis that went back lacks is told by the events after its checkpoint.
            with suppress(RedisWentBackError):
                self._commit_backlog()

    def _tell_of_trouble(self) -> None:
        """Leave word that this producer lives although it cannot follow the API, and why."""
        lasts = self.trouble is not None and time.monotonic() - self.trouble[1] > TROUBLE_SECONDS
        self._inventory.trouble = self.trouble[0] if self.trouble and lasts else None
        if self._started:
            # What Redis says is told when it is followed again.
            with suppress(RedisError, RedisWentBackError):
                self._memory.commit([], None)

    def _follow_from_here(self, stop: threading.Event) -> None:
        if not self._started:
            self._start()
        if self._redis_went_back:
            self._recover_from_older_redis()
        if self._position is None:
            self._position = self._lists.take()
        else:
            self._inventory.expect_cluster(self._api.cluster_uid())
            if self._api.version_of(EIPS) < self._position:
                # A watch from the future would tell nothing until the history gets there again.
                raise HistoryGoneError("the API's history ends before what was seen of it")
        self._inventory.heard_at = time.time()
        self._follow(stop)

    def _start(self) -> None:
        self._inventory.claim_cluster()
        # From here on, a Redis that comes back older than what is read now is noticed.
        self._inventory.verify()
        self._memory.load()
        self._position = self._inventory.checkpoint()
        self._started = True
        log.info("producer started", known=self.known, resource_version=self._position)

    def _follow(self, stop: threading.Event) -> None:
        """Watch until the request ends, committing what comes."""
        assert self._position is not None
        opened = self._vouching.begin()
        batches = self._api.watch(EIPS, self._position, self._settings.watch_timeout, opened)
        began = time.monotonic()
        # At once: from what Redis says it follows whether this producer has to vouch for the inventory.
        verified = began - HEARTBEAT_SECONDS
        with EventStream(self.freshness.following(batches, self._position)) as stream:
            while not stop.is_set():
                self.pulse.beat()
                if self.redis_trouble is None:
                    # An event's release waits for one answer less; whatever is wrong, the commit finds it too.
                    with suppress(RedisError):
                        self._inventory.watch_ahead()
                batch = stream.next(timeout=HEARTBEAT_SECONDS / 4)
                if batch is None:
                    return
                if batch or time.monotonic() - began >= SETTLED_SECONDS:
                    self.trouble = self._inventory.trouble = None
                self._take_in(batch)
                self.freshness.expect_live()
                waiting = self._backlog or self.redis_trouble
                if batch or waiting or time.monotonic() - verified >= HEARTBEAT_SECONDS:
                    self._commit_backlog()
                    verified = time.monotonic()
                self._see_to_what_is_due()

    def _see_to_what_is_due(self) -> None:
        """Beside the watch, which goes on where Redis does not answer."""
        assert self._position is not None
        try:
            if self.redis_trouble is None and self._vouching.is_due(self._position):
                self._commit_backlog()
            if self.redis_trouble is None:
                self._lists.check_now_and_then()
        except RedisError as error:
            self._lose_redis(error)

    def _take_in(self, batch: list[Object]) -> None:
        if batch:
            self._inventory.heard_at = time.time()
        for event in batch:
            obj, kind = event["object"], event["type"]
            version = version_of(obj)
            if kind != "BOOKMARK":
                change = change_of(obj, gone=kind == "DELETED")
                if change is not None:
                    self._backlog.append(change)
            if version is not None:
                self._position = version

    def _commit_backlog(self) -> None:
        """Commit what was seen, or keep it while Redis does not answer."""
        if self._position is not None:
            self._inventory.word_until = self._vouching.word_until(self._position)
        try:
            self._memory.commit(self._backlog, self._position)
            self._backlog.clear()
        except RedisError as error:
            self._lose_redis(error)
            return
        finally:
            UNCOMMITTED.set(len(self._backlog))
            KNOWN.set(self.known)
        self.has_followed |= self._inventory.word_left > 0
        if self.redis_trouble is not None:
            log.info("redis takes commits again")
        self.redis_trouble = None

    def _lose_redis(self, error: RedisError) -> None:
        if self.redis_trouble is None:
            log.error("redis does not take commits, keeping them", reason=str(error), waiting=len(self._backlog))
        self.redis_trouble = str(error)

    def _recover_from_older_redis(self) -> None:
        self._inventory.claim_cluster()
        # Records older than that have gone by themselves.
        self._memory.tell_again(since=time.time() - self._settings.history_days * 86400)
        self._redis_went_back = False
        # What is in hand is committed, but does not bring that Redis to where we were.
        self._position = None
        self._commit_backlog()
        # From where it had come to, events tell of each EIP by itself; a list would have to be believed.
        self._position = self._inventory.checkpoint()
