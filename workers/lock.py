"""One worker at a time per gateway, across processes and hosts.

The lock is tried, never waited for. Who gets it works off everything that is pending for the gateway; who does not
hands its job back and leaves the work to the winner, who finds it because it was pending before the job was queued.
So that nothing falls between the winner's last look and its release, the lock is only let go while the gateway's
generation, a counter raised with every addition, is still the one that the winner looked at.

A lock frees itself after its lifetime. Right before every change its holder sees that it has it (`fence`): by its own
clock, while Redis has granted or renewed it a moment ago, for then it cannot have run out; else it renews it, and is
refused when it ran out meanwhile. So a worker that was stopped for a while changes nothing when it goes on. Nor does it
record what it did before: by then another may have come to outcomes of its own (`transaction`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from shared.errors import LockLostError
from shared.keys import Keys
from shared.metrics import LOCK_CONTENTION, LOCK_LOSSES
from shared.scripts import Script

if TYPE_CHECKING:
    from shared.records import Records

MOMENT_SECONDS = 0.02
"""A lock that was asked for so long ago, and granted, is held: the shortest lifetime is a hundred times as long."""

_RENEW = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

_RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if ARGV[2] ~= '' and (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
return 1
""")


def new_token(holder: str) -> str:
    """What a lock's key holds while it is this holder's, who is named for people that look at it."""
    return f"{holder}/{uuid4().hex}"


class GatewayLock:
    """The lock of one gateway, held by us since Redis granted it."""

    def __init__(self, redis: Redis, keys: Keys, gateway: str, token: str, lifetime: float, asked_at: float) -> None:
        """`asked_at` is when Redis was about to be asked for it, on the monotonic clock; see `ask_for` for the rest."""
        self._redis = redis
        self._key = keys.lock(gateway)
        self._generation_key = keys.pending_generation(gateway)
        self._gateway = gateway
        self._token = token
        self._milliseconds = int(lifetime * 1000)
        self._asked_at = asked_at
        """When Redis was about to be asked for what it granted last."""
        self._released = False

    @classmethod
    def try_acquire(
        cls, redis: Redis, keys: Keys, gateway: str, lifetime: float, holder: str = ""
    ) -> GatewayLock | None:
        """The lock, or None when another worker has it; see `ask_for`."""
        with redis.pipeline(transaction=True) as pipe:
            lock = cls.ask_for(pipe, redis, keys, gateway, lifetime, holder)
            _, answer = pipe.execute()
            return lock.answered(answer)

    @classmethod
    def ask_for(
        cls, pipe: Pipeline, redis: Redis, keys: Keys, gateway: str, lifetime: float, holder: str = ""
    ) -> GatewayLock:
        """Ask for the lock within the caller's transaction, which gets two answers; the second is for `answered`.

        Args:
            pipe: the transaction.
            redis: the server.
            keys: where keys are.
            gateway: the gateway's name.
            lifetime: seconds after which the lock frees itself unless it is renewed.
            holder: who we are, for people who look at the key.
        """
        lock = cls(redis, keys, gateway, new_token(holder), lifetime, time.monotonic())
        # From now on the lock tells who works on the gateway (`workers.taking`).
        pipe.delete(keys.taken(gateway))
        pipe.set(lock._key, lock._token, nx=True, px=lock._milliseconds)
        return lock

    def answered(self, answer: object) -> GatewayLock | None:
        """The lock, which is one only now; None when another worker has it."""
        if answer:
            return self
        LOCK_CONTENTION.inc()
        return None

    def fence(self) -> None:
        """See that the lock is held, right before a change.

        Raises:
            LockLostError: it ran out or is another's now; whoever asked must not change anything.
        """
        if time.monotonic() - self._asked_at > MOMENT_SECONDS:
            self.ensure_held()

    def ensure_held(self) -> None:
        """Renew the lock for another lifetime.

        Raises:
            LockLostError: as above.
        """
        asked_at = time.monotonic()
        if not _RENEW.run(self._redis, [self._key], [self._token, self._milliseconds]):
            LOCK_LOSSES.inc()
            raise LockLostError(
                f"the lock of gateway {self._gateway} ran out before the change; nothing was changed, it is tried again"
            )
        self._asked_at = asked_at

    def trace(self, pipe: Pipeline, records: Records, work_id: str, event: str, **details: Any) -> None:
        """Trace something in the transaction that asks for the lock, unless another worker has it."""
        records.trace_if(pipe, (self._key, self._token), work_id, event, **details)

    @property
    def released(self) -> bool:
        """Whether we let go."""
        return self._released

    @contextmanager
    def transaction(self, unless_changed: int | None = None) -> Iterator[Pipeline]:
        """A transaction that goes through only while the lock is held.

        Args:
            unless_changed: let go with it, unless work was added for the gateway since that generation.

        Raises:
            LockLostError: it ran out or is another's now; nothing of the transaction was done.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._key)  # type: ignore[no-untyped-call]
            stored: bytes | None = pipe.get(self._key)  # type: ignore[assignment]
            if stored is None or stored.decode() != self._token:
                raise self._lost_before_the_record()
            pipe.multi()
            yield pipe
            if unless_changed is not None:
                _RELEASE.join(pipe, *self._letting_go(unless_changed))
            try:
                answers = pipe.execute()
            except WatchError:
                raise self._lost_before_the_record() from None
            self._released = unless_changed is not None and bool(answers[-1])

    def _lost_before_the_record(self) -> LockLostError:
        LOCK_LOSSES.inc()
        return LockLostError(
            f"the lock of gateway {self._gateway} ran out before what was done there was recorded; the gateway is "
            "looked at again"
        )

    def release_unless_changed(self, generation: int) -> bool:
        """Let go, unless work was added for the gateway since that generation; whether we let go."""
        self._released = bool(_RELEASE.run(self._redis, *self._letting_go(generation)))
        return self._released

    def release(self) -> None:
        """Let go, whatever is pending; another's lock stays."""
        if not self._released:
            _RELEASE.run(self._redis, *self._letting_go(""))
            self._released = True

    def _letting_go(self, generation: int | str) -> tuple[list[str], list[str]]:
        return [self._key, self._generation_key], [self._token, str(generation)]
