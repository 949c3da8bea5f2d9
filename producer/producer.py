"""The producer: every EIP that goes becomes work, whatever happens to the API, to Redis or to itself.

List once, then watch from there on; the position is committed with the work that follows from it
(`shared.inventory`). What can happen, and what then:

- the watch ends or breaks: it is resumed from the last event seen;
- 410, the API no longer has the events since then: list again, and what is known but not listed is gone;
- Redis does not answer: go on watching, and commit all of it once Redis does;
- Redis came back older: publish again what it forgot of ours, then follow again from where it had come to. What is
  held in memory here counts as known, so that, where those events are gone and a list has to do, an EIP which that
  Redis never heard of, and which is gone by now, is not lost;
- a list that would release too much, or lacks an EIP that the API has: the brake (`shared.brake`) holds back what is
  missing from it, and all goes on with what it shows, or an EIP that comes and goes meanwhile would be lost;
- this process dies: the next one resumes from the committed position.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from uuid import uuid4

from redis.exceptions import RedisError

from producer.stream import EventStream
from shared.difference import Change, Gone, Seen, difference, gone_from_list
from shared.errors import MalformedObjectError, TransientError
from shared.inventory import Inventory, RedisWentBackError
from shared.kube.api import EIPS, HistoryGoneError, Object
from shared.kube.objects import read_eip
from shared.log import get_logger
from shared.queue import describe

if TYPE_CHECKING:
    import threading

    from shared.brake import Brake
    from shared.kube.api import KubeApi
    from shared.models import EIP, Work
    from shared.settings import Settings

log = get_logger(__name__)

HEARTBEAT_SECONDS = 2.0
"""How often Redis is asked whether it still knows us, and how late a commit is once Redis answers again."""
COMMIT_SIZE = 500
"""Changes per transaction: Redis serves nobody else meanwhile."""
REMEMBERED_WORKS = 10_000
"""Work published last, kept to be published again when Redis forgot it."""
OLDER_HISTORY = "older-history"
"""What an operator confirms when the API's own history went back."""
CROSS_CHECKS = 10
"""EIPs that are missing from a list and asked for by name before the list is believed."""
SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
"""Seconds; an address that is not reported gone is a conflict waiting, and a list now and then is no load."""


class BrakeEngagedError(TransientError):
    """The API's own history went back: what it tells now cannot be followed."""


def producer_id() -> str:
    """A name for this producer that no other has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"


class Producer:
    """One producer; several may run at once."""

    def __init__(self, api: KubeApi, inventory: Inventory, brake: Brake, settings: Settings) -> None:
        self._api = api
        self._inventory = inventory
        self._brake = brake
        self._settings = settings
        self._mirror: dict[str, EIP] = {}
        self._published: OrderedDict[str, Work] = OrderedDict()
        self._backlog: list[Change] = []
        self._position: int | None = None
        """The last event seen; what is in the backlog is not committed yet."""
        self._looked_at_brake = 0.0
        """When, on the monotonic clock."""
        self._started = False
        self._redis_failed = False
        self._redis_went_back = False

    @property
    def position(self) -> int | None:
        """The resourceVersion of the last event seen; None before the first list."""
        return self._position

    @property
    def known(self) -> int:
        """How many EIPs there are, as far as this producer has seen."""
        return len(self._mirror)

    def run(self, stop: threading.Event) -> None:
        """Produce until told to stop.

        Raises:
            WrongClusterError: this Redis is another cluster's, or the API is by now.
        """
        pause = SHORTEST_PAUSE
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._follow_from_here(stop)
                pause = SHORTEST_PAUSE
                continue
            except HistoryGoneError as error:
                log.warning("events are gone, listing again", reason=str(error))
                self._position = None
            except RedisWentBackError as error:
                log.error("redis came back older, publishing again and going back with it", reason=str(error))
                self._redis_went_back = True
                continue
            except BrakeEngagedError:
                pause = self._settings.brake_recheck
            except (TransientError, RedisError) as error:
                log.error("cannot watch now, trying again", reason=str(error))
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, LONGEST_PAUSE)
        if self._backlog:
            self._commit_backlog()

    def _follow_from_here(self, stop: threading.Event) -> None:
        if not self._started:
            self._start()
        if self._redis_went_back:
            self._recover_from_older_redis()
        if self._position is None:
            self._list_again()
        elif self._api.version_of(EIPS) < self._position:
            # A watch from the future would tell nothing until the history gets there again.
            raise HistoryGoneError("the API's history ends before what was seen of it")
        self._follow(stop)

    def _start(self) -> None:
        self._inventory.claim_cluster()
        self._mirror = self._inventory.all()
        self._position = self._inventory.checkpoint()
        self._started = True
        log.info("producer started", known=len(self._mirror), resource_version=self._position)

    def _follow(self, stop: threading.Event) -> None:
        """Watch until the request ends, committing what comes."""
        assert self._position is not None
        batches = self._api.watch(EIPS, self._position, self._settings.watch_timeout)
        verified = time.monotonic()
        with EventStream(batches) as stream:
            while not stop.is_set():
                batch = stream.next(timeout=HEARTBEAT_SECONDS / 4)
                if batch is None:
                    return
                self._take_in(batch)
                if batch or self._backlog or time.monotonic() - verified >= HEARTBEAT_SECONDS:
                    self._commit_backlog()
                    verified = time.monotonic()
                    self._look_at_brake()

    def _take_in(self, batch: list[Object]) -> None:
        for event in batch:
            obj, kind = event["object"], event["type"]
            version = _version(obj)
            if kind != "BOOKMARK":
                change = _change(obj, gone=kind == "DELETED")
                if change is not None:
                    self._backlog.append(change)
            if version is not None:
                self._position = version

    def _commit_backlog(self) -> None:
        """Commit what was seen, or keep it while Redis does not answer."""
        try:
            while len(self._backlog) > COMMIT_SIZE:
                self._commit(self._backlog[:COMMIT_SIZE], None)
                del self._backlog[:COMMIT_SIZE]
            self._commit(self._backlog, self._position)
            self._backlog.clear()
        except RedisError as error:
            if not self._redis_failed:
                log.error("redis does not take commits, keeping them", reason=str(error), waiting=len(self._backlog))
            self._redis_failed = True
            return
        if self._redis_failed:
            log.info("redis takes commits again")
        self._redis_failed = False

    def _commit(self, changes: list[Change], position: int | None) -> None:
        result = self._inventory.commit(changes, position)
        for work in result.works:
            log.info("published", work=work.id, gateway=work.gateway, eip=work.eip, what=describe(work))
        self._remember(changes, result.works)

    def _remember(self, changes: list[Change], published: list[Work]) -> None:
        """Remember what followed from these changes, whichever producer was the first to commit them."""
        ours = difference(self._mirror, set(), changes, cluster=self._inventory.cluster, now=time.time())
        for uid in ours.forgotten:
            self._mirror.pop(uid, None)
        self._mirror.update(ours.known)
        for work in [*ours.works, *published]:
            self._published[work.id] = work
        while len(self._published) > REMEMBERED_WORKS:
            self._published.popitem(last=False)

    def _list_again(self) -> None:
        """Take a list for the events that are gone, and go on from there; what it may not release is held back.

        Raises:
            BrakeEngagedError: nothing was committed.
            WrongClusterError: nothing was committed.
        """
        held = self._brake.held()
        known, changes, version = self._list()
        doubted = self._doubted(known, changes)
        self._commit_list([change for change in changes if change.uid not in doubted], version)
        self._position = version
        self._looked_at_brake = time.monotonic()
        self._settle(held - doubted)
        log.info("listed", known=len(known), held_back=len(doubted), resource_version=version)

    def _look_at_brake(self) -> None:
        """List again for what the brake holds back, now and then; of all else that is missing the events tell."""
        if self._redis_failed or time.monotonic() - self._looked_at_brake < self._settings.brake_recheck:
            return
        self._looked_at_brake = time.monotonic()
        # Before the list: what another producer holds back after it may not be settled by it.
        held = self._brake.held()
        if not held:
            return
        known, changes, _ = self._list()
        of_held = [change for change in changes if change.uid in held]
        doubted = self._doubted(known, of_held)
        self._commit_list([change for change in of_held if change.uid not in doubted], None)
        self._settle(held - doubted)

    def _list(self) -> tuple[dict[str, EIP], list[Change], int]:
        """The EIPs known before a list, what changed since as it has it, and its resourceVersion."""
        items, version = self._api.list_objects(EIPS)
        self._inventory.expect_cluster(self._api.cluster_uid())
        checkpoint = self._inventory.checkpoint()
        if checkpoint is not None and version < checkpoint:
            self._refuse_older_history(version, checkpoint)
        changes: list[Change] = [change for item in items if (change := _change(item, gone=False)) is not None]
        # An object that cannot be read is still there.
        listed = {_uid(item) for item in items}
        known = {**self._mirror, **self._inventory.all()}
        return known, changes + gone_from_list(known.values(), listed, version), version

    def _commit_list(self, changes: list[Change], version: int | None) -> None:
        for start in range(0, len(changes), COMMIT_SIZE):
            self._commit(changes[start : start + COMMIT_SIZE], None)
        self._commit([], version)

    def _settle(self, uids: set[str]) -> None:
        # Not before the commit: whoever takes over from a producer that dies here has to hold them back too.
        if self._brake.settle(uids):
            log.warning("brake disengaged")

    def _doubted(self, known: dict[str, EIP], changes: list[Change]) -> set[str]:
        """UIDs of what these changes would release and may not; the brake holds them back from now on."""
        # What is known here alone may have been released by another producer already.
        released = self._inventory.released([change.uid for change in changes])
        would = difference(known, released, changes, cluster=self._inventory.cluster, now=time.time())
        uids = {str(work.uid) for work in would.works}
        uids -= self._brake.confirmed(uids)
        reason = self._doubt(uids, len(known), [eip for uid, eip in would.forgotten.items() if uid in uids])
        if reason is None:
            return set()
        then = "it is listed again until the API recovers; if the EIPs are truly gone: eip-reclaimer brake release"
        self._engage_brake(reason, uids, len(known), then)
        return uids

    def _doubt(self, uids: set[str], known: int, missing: list[EIP]) -> str | None:
        """Why a list cannot be right that would release these UIDs; None when it can."""
        if self._brake.too_many(len(uids), known):
            return f"one list would release {len(uids)} of {known} known EIPs"
        # Few enough to be true, but in a small cluster they may still be all there are.
        for eip in random.sample(missing, min(len(missing), CROSS_CHECKS)):
            if _uid(self._api.get(f"{EIPS}/{eip.name}")) == eip.uid:
                return f"the API's list lacks EIP {eip.name}, but the API has it"
        return None

    def _refuse_older_history(self, version: int, checkpoint: int) -> None:
        """An API whose history went back (etcd restored from a backup) says nothing about what is gone."""
        reason = f"the API's list is of version {version}, but version {checkpoint} was seen before"
        if self._brake.confirmed({OLDER_HISTORY}):
            self._inventory.forget_history()
            self._mirror.clear()
            self._brake.settle({OLDER_HISTORY})
            log.warning("history forgotten, as an operator confirmed", reason=reason)
            return
        then = "if etcd was restored from a backup: eip-reclaimer brake release, then audit the gateways"
        self._engage_brake(reason, {OLDER_HISTORY}, len(self._mirror), then)
        raise BrakeEngagedError(reason)

    def _engage_brake(self, reason: str, held: set[str], known: int, then: str) -> None:
        self._brake.engage(reason, held, known)
        log.error("brake engaged", reason=reason, held_back=len(held), then=then)

    def _recover_from_older_redis(self) -> None:
        self._inventory.claim_cluster()
        # Records older than that have gone by themselves.
        since = time.time() - self._settings.history_days * 86400
        recent = [work for work in self._published.values() if work.seen_at > since]
        for work in self._inventory.publish_again(recent, self._mirror):
            log.warning("published again", work=work.id, gateway=work.gateway, eip=work.eip)
        self._redis_went_back = False
        # What is in hand is committed, but does not bring that Redis to where we were.
        self._position = None
        self._commit_backlog()
        # From where it had come to, events tell of each EIP by itself; a list would have to be believed.
        self._position = self._inventory.checkpoint()


def _change(obj: Object, *, gone: bool) -> Change | None:
    """What an object in a list or an event says; None, after reporting it, when it cannot be read."""
    try:
        eip = read_eip(obj)
    except MalformedObjectError as error:
        log.error("object cannot be read, skipped", reason=str(error))
        # Gone is gone: what was known of it before is released.
        uid = _uid(obj)
        return Gone(uid, "deleted") if gone and uid else None
    return Gone(eip.uid, "deleted", eip) if gone else Seen(eip)


def _metadata(obj: object) -> Object:
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _uid(obj: object) -> str:
    return str(_metadata(obj).get("uid") or "")


def _version(obj: object) -> int | None:
    text = str(_metadata(obj).get("resourceVersion") or "")
    return int(text) if text.isdigit() else None
