"""The EIPs we know, and the one transaction that turns what was seen into work.

Inventory, releases, jobs and the watch's position are committed together or not at all, so a crash at any line
neither loses nor doubles work. The transaction is optimistic: what it decided on is WATCHed, and a second producer
that was quicker makes it decide again, then mostly on nothing.

Each producer leaves a mark with every commit and expects to find it again. A Redis that does not have it came back
older than it was (crash, failover): `RedisWentBackError`, and the producer goes back with it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.exceptions import WatchError

from shared.difference import Difference, difference
from shared.errors import ReclaimerError, WrongClusterError
from shared.models import EIP, Confirmation
from shared.scripts import Script
from shared.vouching import REIGN, WORD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from shared.difference import Change
    from shared.models import Work
    from shared.queue import WorkQueue

TOMBSTONE_SECONDS = 7 * 86400
"""No producer lags so far behind that it could still bring a released UID back."""
PRODUCER_SECONDS = 86400
"""A producer that has committed nothing for so long is dead: each does every few seconds."""
WORD_AGAIN = 1.0
"""After how many seconds a commit says again whether its producer follows the API."""

_LOOK = Script(f"""
local producer, uids = ARGV[1], {{unpack(ARGV, 2)}}
local eips, released = {{}}, {{}}
if #uids > 0 then
    eips = redis.call('HMGET', KEYS[3], unpack(uids))
    released = redis.call('ZMSCORE', KEYS[4], unpack(uids))
end
return {{
    redis.call('GET', KEYS[1]),
    redis.call('HGET', KEYS[2], producer),
    eips,
    released,
    redis.call('HGET', KEYS[5], 'resource_version'),
    redis.call('GET', KEYS[6]),
    {REIGN},
    redis.call('TIME')
}}
""")
"""All that a commit is decided on in one answer: each of them would be waited for."""


class RedisWentBackError(ReclaimerError):
    """Redis no longer knows what this producer committed last."""


def _nothing(_step: str) -> None:
    pass


class Inventory:
    """What one producer knows through Redis.

    `at_step` is called with the name of each step of a commit right before it is taken; tests end the process there.
    """

    def __init__(
        self, work_queue: WorkQueue, cluster: str, producer: str, at_step: Callable[[str], None] = _nothing
    ) -> None:
        self.work_queue = work_queue
        """Where the work that follows is published."""
        self._redis = work_queue.redis
        self._keys = work_queue.keys
        self.cluster = cluster
        """UID of the cluster whose EIPs these are."""
        self.producer = producer
        """Who commits."""
        self.heard_at: float | None = None
        """When the API told this producer something last, seconds since the epoch; left with each commit."""
        self.trouble: str | None = None
        """Why this producer cannot follow the API, in words; left with each commit."""
        self.hindrance: str | None = None
        """Why this producer cannot list what it asks for beside the watch, in words; likewise."""
        self.reign = ""
        """The server's reign that the last commit met (`shared.vouching`); empty before the first."""
        self.vouched = True
        """Whether a producer has vouched for the inventory in that reign."""
        self.vouches_for: str | None = None
        """The reign for which the next commit vouches; None from then on, since what it is said of may be forgotten."""
        self.word_until = 0.0
        """Until when this producer can say that it follows the API (monotonic clock); each commit says so, or not."""
        self._said: float | None = 0.0
        """Until when it has said so; None where that is not known."""
        self._now = 0.0
        """The server's clock at the last look, seconds since the epoch."""
        self._version: int | None = None
        """The position of the last commit."""
        self._at_step = at_step
        self._marks: set[str | None] = {None}
        """Which of our marks Redis may hold now: until an answer is here, the new one or the one before."""
        self._watched: Pipeline | None = None
        """A transaction that WATCHes already what the next commit is decided on."""

    def claim_cluster(self) -> None:
        """Tie this Redis data to our cluster, or find that it is tied to another.

        Raises:
            WrongClusterError: it is another cluster's.
        """
        self._redis.set(self._keys.cluster, self.cluster, nx=True)
        check_cluster(self._redis, self.work_queue, self.cluster)
        self._forget_dead_producers()

    def expect_cluster(self, uid: str) -> None:
        """See that the API is still that of the cluster this inventory is about.

        Raises:
            WrongClusterError: it is another's; what it says is about other EIPs.
        """
        if uid != self.cluster:
            raise WrongClusterError(
                f"the Kubernetes API is that of another cluster by now (kube-system had the UID {self.cluster}, it "
                f"has {uid}). Nothing was done. Correct EIP_RECLAIMER_KUBECONFIG; if the cluster was rebuilt, start "
                "again with a Redis database or a key prefix of its own."
            )

    def commit(
        self,
        changes: Sequence[Change],
        resource_version: int | None,
        *,
        gap: bool = False,
        doubtful: bool = False,
    ) -> Difference:
        """Commit changes, the work that follows from them, and the position they bring the watch to.

        Args:
            changes: in the order they were seen.
            resource_version: everything up to it is among the changes or was committed before; None leaves the
                position as it is.
            gap: whether there were events before it that nobody saw, so that gateways have to be audited.
            doubtful: whether the changes are of a list that is not believed, so that owners may be unknown, those which
                came in events that nobody saw among them: nobody vouches for the inventory any longer.

        Returns:
            what followed from the changes; its works are published, confirmations among them.

        Raises:
            RedisWentBackError: nothing was committed.
            WrongClusterError: nothing was committed.
        """
        uids = [change.uid for change in changes]
        vouches_for, self.vouches_for = self.vouches_for, None
        while True:
            self._at_step("watch")
            with self._watching() as pipe:
                try:
                    known, released, checkpoint = self._look(pipe, uids)
                    result = difference(known, released, changes, cluster=self.cluster, now=time.time())
                    result.works += self._confirmations(pipe, result)
                    # Another producer may be ahead.
                    position = None if resource_version is None or checkpoint >= resource_version else resource_version
                    pipe.multi()
                    self._apply(pipe, result)
                    if position is not None:
                        pipe.hset(
                            self._keys.checkpoint, mapping={"resource_version": position, "at": repr(time.time())}
                        )
                        if gap:
                            pipe.set(self._keys.gap, position)
                    if doubtful and (position is not None or resource_version is None):
                        pipe.delete(self._keys.vouched)
                        self.vouched = False
                    mark = self._leave_mark(pipe, resource_version)
                    vouches = not self.vouched and vouches_for == self.reign
                    if vouches:
                        pipe.set(self._keys.vouched, self.reign)
                        # Words by the clock of another server are among them, perhaps.
                        pipe.delete(self._keys.unvouched, self._keys.following)
                    elif not self.vouched:
                        pipe.set(self._keys.unvouched, repr(time.time()), nx=True)
                    said = self._said
                    # Of many changes only the last transaction brings all of what was seen.
                    if resource_version is not None or not changes:
                        said = self._leave_word(pipe, anew=vouches)
                    self._at_step("execute")
                    # Until an answer is here nobody knows.
                    self._said = None
                    pipe.execute()
                except WatchError:
                    # Also a connection that broke, perhaps after the transaction: the mark may be there.
                    continue
                except (RedisConnectionError, RedisTimeoutError):
                    # Nor is a server that does not answer waited for once more, to be told that we watch no longer.
                    pipe.watching = False
                    raise
            self._marks = {mark}
            self._version = resource_version or self._version
            self._said = said
            self.vouched |= vouches
            self._at_step("committed")
            return result

    @property
    def word_left(self) -> float:
        """For how many seconds this producer's word holds that it follows the API; 0 for not at all."""
        return max((self._said or 0.0) - time.monotonic(), 0.0)

    def watch_ahead(self) -> None:
        """WATCH already what the next commit is decided on; call this when nobody waits for that commit yet.

        Whatever changes from now on makes that commit decide again, as it would have from its own beginning on.

        Raises:
            RedisError: the next commit tries by itself.
        """
        if self._watched is None:
            self._watched = self._watching()

    def _watching(self) -> Pipeline:
        """A transaction that WATCHes what a commit is decided on."""
        watched, self._watched = self._watched, None
        if watched is not None:
            return watched
        pipe = self._redis.pipeline(transaction=True)
        try:
            pipe.watch(self._keys.inventory, self._keys.tombstones, self._keys.cluster)  # type: ignore[no-untyped-call]
        except BaseException:
            pipe.reset()
            raise
        return pipe

    def publish_again(self, works: Iterable[Work], known: Mapping[str, EIP]) -> list[Work]:
        """Publish what an older Redis has no record of; what was published.

        Call this before the first commit after `RedisWentBackError`: only then is that Redis taken as it is.

        Args:
            works: what was published before.
            known: by UID, the EIPs that live as far as the producer knows; that Redis may hold the others to be alive,
                and owners of what is to be released.
        """
        candidates = list(works)
        while True:
            with self._redis.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(self._keys.inventory, self._keys.tombstones)  # type: ignore[no-untyped-call]
                    # Whoever was at work when it came back may have told something of what it does not know.
                    lost = [work for work in candidates if not pipe.hexists(self._keys.record(work.id), "payload")]
                    uids = [work.uid for work in lost if work.uid]
                    stale, released = self._known(pipe, uids), self._released(pipe, uids)
                    pipe.multi()
                    for uid in uids:
                        self._replace(pipe, uid, stale.get(uid), None if uid in released else known.get(uid))
                    for work in lost:
                        self.work_queue.publish(pipe, work, "published again", why="Redis came back older")
                    # Whoever vouched for it did not know.
                    pipe.delete(self._keys.vouched)
                    pipe.execute()
                except WatchError:
                    continue
            self._marks = {self._stored_mark(self._redis)}
            return lost

    def verify(self) -> None:
        """See that Redis still knows our last commit, and say that we live.

        Raises:
            RedisWentBackError: it does not.
            WrongClusterError: it is another cluster's by now.
        """
        self.commit((), None)

    def forget_history(self) -> None:
        """Forget EIPs, tombstones and position, because the API's own history went back; work stays."""
        with self._redis.pipeline(transaction=True) as pipe:
            for eip in self.all().values():
                for address in eip.addresses:
                    pipe.srem(self._keys.owners(eip.gateway, address), eip.uid)
            pipe.delete(self._keys.inventory, self._keys.tombstones, self._keys.checkpoint, self._keys.gap)
            pipe.delete(self._keys.vouched)
            pipe.execute()

    def all(self) -> dict[str, EIP]:
        """Every known EIP by UID."""
        stored: dict[bytes, bytes] = self._redis.hgetall(self._keys.inventory)  # type: ignore[assignment]
        return {uid.decode(): EIP.from_json(text) for uid, text in stored.items()}

    def released(self, uids: list[str]) -> set[str]:
        """Those of these UIDs whose release was committed before."""
        return self._released(self._redis, uids)

    def checkpoint(self) -> int | None:
        """The resourceVersion up to which everything is committed; None before the first list."""
        stored: bytes | None = self._redis.hget(self._keys.checkpoint, "resource_version")  # type: ignore[assignment]
        return int(stored) if stored else None

    def _look(self, pipe: Pipeline, uids: list[str]) -> tuple[dict[str, EIP], set[str], int]:
        """What is known of the UIDs, those of them that were released, and the position, which is 0 before the first.

        Raises:
            RedisWentBackError: this is not the Redis that we left.
            WrongClusterError: it is another cluster's.
        """
        keys = [
            *(self._keys.cluster, self._keys.producers, self._keys.inventory),
            *(self._keys.tombstones, self._keys.checkpoint, self._keys.vouched),
        ]
        told = _LOOK.run(pipe, keys, [self.producer, *uids])
        cluster, mark, eips, released, checkpoint, vouched, reign, (seconds, microseconds) = told
        _expect(cluster, self.work_queue, self.cluster)
        if _mark_in(mark) not in self._marks:
            raise RedisWentBackError("Redis does not know the last commit of this producer: it came back older")
        self.reign, self.vouched = reign.decode(), vouched == reign
        self._now = int(seconds) + int(microseconds) / 1_000_000
        return _by_uid(uids, eips), _with_score(uids, released), int(checkpoint or 0)

    def _known(self, pipe: Pipeline, uids: list[str]) -> dict[str, EIP]:
        return _by_uid(uids, pipe.hmget(self._keys.inventory, uids) if uids else [])

    def _released(self, redis: Redis | Pipeline, uids: list[str]) -> set[str]:
        scores: Any = redis.zmscore(self._keys.tombstones, uids) if uids else []
        return _with_score(uids, scores)

    def _confirmations(self, pipe: Pipeline, result: Difference) -> list[Confirmation]:
        """Work for each EIP that came to own what a worker means to take away, or has taken.

        The intents are WATCHed: one that is recorded after this look makes the transaction look again, and one
        recorded after the transaction finds the owner in the inventory.
        """
        if not result.acquired:
            return []
        keys = [self._keys.intent(eip.gateway, address) for eip, address in result.acquired]
        pipe.watch(*keys)  # type: ignore[no-untyped-call]
        confirmations: dict[str, tuple[EIP, list[str]]] = {}
        for (eip, address), intent in zip(result.acquired, pipe.mget(keys), strict=True):
            if intent:
                confirmations[eip.uid] = (eip, [*confirmations.get(eip.uid, (eip, []))[1], address])
        now = time.time()
        return [
            Confirmation.model_validate_json(
                json.dumps(
                    {
                        "id": f"confirm-{eip.uid}-{eip.resource_version}",
                        "cluster": self.cluster,
                        "gateway": eip.gateway,
                        "eip": eip.name,
                        "uid": eip.uid,
                        "namespace": eip.namespace or None,
                        "seen_at": now,
                        "addresses": addresses,
                        "subnet": eip.subnet or None,
                    }
                )
            )
            for eip, addresses in confirmations.values()
        ]

    def _apply(self, pipe: Pipeline, result: Difference) -> None:
        for uid, before in result.forgotten.items():
            self._replace(pipe, uid, before, None)
        for uid, eip in result.known.items():
            self._replace(pipe, uid, result.replaced.get(uid), eip)
        for work in result.works:
            self.work_queue.publish(pipe, work, "published", producer=self.producer)

    def _replace(self, pipe: Pipeline, uid: str, before: EIP | None, now: EIP | None) -> None:
        """Know an EIP in another state, or forget it for ever."""
        if before is not None:
            for address in before.addresses:
                pipe.srem(self._keys.owners(before.gateway, address), uid)
        if now is None:
            pipe.hdel(self._keys.inventory, uid)
            self._entomb(pipe, uid)
            return
        pipe.hset(self._keys.inventory, uid, now.to_json())
        for address in now.addresses:
            pipe.sadd(self._keys.owners(now.gateway, address), uid)

    def _entomb(self, pipe: Pipeline, uid: str) -> None:
        now = time.time()
        pipe.zadd(self._keys.tombstones, {uid: now})
        pipe.zremrangebyscore(self._keys.tombstones, "-inf", now - TOMBSTONE_SECONDS)

    def _stored_mark(self, redis: Redis) -> str | None:
        return _mark_in(redis.hget(self._keys.producers, self.producer))

    def _forget_dead_producers(self) -> None:
        stored: dict[bytes, bytes] = self._redis.hgetall(self._keys.producers)  # type: ignore[assignment]
        dead = [name for name, text in stored.items() if time.time() - json.loads(text)["at"] > PRODUCER_SECONDS]
        if dead:
            self._redis.hdel(self._keys.producers, *dead)
            self._redis.zrem(self._keys.following, *dead)

    def _leave_mark(self, pipe: Pipeline, resource_version: int | None) -> str:
        mark = uuid4().hex
        left = {
            "mark": mark,
            "at": time.time(),
            "resource_version": resource_version or self._version,
            "heard_at": self.heard_at,
            "trouble": self.trouble,
            "hindrance": self.hindrance,
        }
        pipe.hset(self._keys.producers, self.producer, json.dumps(left))
        self._marks.add(mark)
        return mark

    def _leave_word(self, pipe: Pipeline, *, anew: bool) -> float:
        """Say whether this producer follows the API, unless that was said a moment ago; until when it said so."""
        now = time.monotonic()
        seconds = min(self.word_until - now, WORD_SECONDS)
        if not anew and self._said is not None and seconds > 0 and self._said - now > WORD_SECONDS - WORD_AGAIN:
            return self._said
        if seconds > 0:
            pipe.zadd(self._keys.following, {self.producer: self._now + seconds})
            return now + seconds
        # A word that has run out stays as it is: it tells since when.
        pipe.zadd(self._keys.following, {self.producer: self._now}, lt=True)
        return 0.0


def check_cluster(redis: Redis, work_queue: WorkQueue, cluster: str) -> None:
    """See that the data in Redis is about this cluster, or about none yet.

    Raises:
        WrongClusterError: it is about another; nothing may be done with it.
    """
    _expect(redis.get(work_queue.keys.cluster), work_queue, cluster)


def _expect(stored: Any, work_queue: WorkQueue, cluster: str) -> None:
    if stored is None or stored.decode() == cluster:
        return
    raise WrongClusterError(
        f"this Redis holds the data of another cluster (kube-system has the UID {stored.decode()} there, {cluster} "
        "here). Nothing was done. Point EIP_RECLAIMER_REDIS_URL at this cluster's own server or database, or give this "
        "cluster its own EIP_RECLAIMER_KEY_PREFIX and EIP_RECLAIMER_QUEUE; if the cluster was rebuilt and the old data "
        f"is worthless, delete the keys {work_queue.keys.prefix}:* first."
    )


def _mark_in(stored: Any) -> str | None:
    return str(json.loads(stored)["mark"]) if stored else None


def _by_uid(uids: list[str], stored: Sequence[Any]) -> dict[str, EIP]:
    return {uid: EIP.from_json(text) for uid, text in zip(uids, stored, strict=True) if text}


def _with_score(uids: list[str], scores: Sequence[Any]) -> set[str]:
    return {uid for uid, score in zip(uids, scores, strict=True) if score is not None}
