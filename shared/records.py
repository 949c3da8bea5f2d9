"""What is known of each piece of work: its payload, its outcome, and its life as a list of events.

A record outlives the job and the EIP, so that "what became of that address" has an answer long after. Writers pass
a pipeline, so that a record changes in the same transaction as what it tells of.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from shared.models import Outcome, Work, parse_work
from shared.scripts import TRY, Script
from shared.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from shared.keys import Keys

TRACE_LIMIT = 200
"""Events kept of one piece of work; a job that is retried for days does not grow without bound."""

BATCH = 500
"""Questions to Redis in one go."""

UNFINISHED_DAYS = 365
"""Records of work without an outcome live as long as RQ keeps failed jobs."""

_FIND = """
local function find(index, id, expires, now)
    redis.call('ZADD', index, expires, id)
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    local last = redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')
    redis.call('EXPIREAT', index, math.ceil(tonumber(last[2])))
end
"""
"""An address that is handed out again and again is a term of ever more work: each entry goes with its record, and the
index with its last entry."""

APPEND = f"""
local function append(trace, line, seconds)
    local added = redis.pcall('RPUSH', trace, line)
    if type(added) == 'table' then return added end
    redis.call('LTRIM', trace, {-TRACE_LIMIT}, -1)
    redis.call('EXPIRE', trace, seconds)
end
"""
"""Lua: add a line to a trace; see `Records.to_append`.

Where something that is not ours is stored it returns that failure, and nobody's work ends for it: it goes on untold.
"""

_OPEN = Script(
    TRY
    + _FIND
    + APPEND
    + """
try(redis.call, 'HSET', KEYS[1], 'payload', ARGV[4], 'gateway', ARGV[5])
try(redis.call, 'HSETNX', KEYS[1], 'published_at', ARGV[3])
try(redis.call, 'EXPIRE', KEYS[1], ARGV[7])
for number = 3, #KEYS do try(find, KEYS[number], ARGV[1], ARGV[2], ARGV[3]) end
local untold = append(KEYS[2], ARGV[6], ARGV[7])
return failure or untold
"""
)

_CLOSE = Script(
    _FIND
    + APPEND
    + """
redis.call('HSET', KEYS[1], 'outcome', ARGV[4], 'done_at', ARGV[3])
append(KEYS[2], ARGV[5], ARGV[6])
redis.pcall('HINCRBY', KEYS[3], ARGV[4], 1)
for _, number in ipairs({1, 3}) do redis.call('EXPIRE', KEYS[number], ARGV[6]) end
for number = 4, #KEYS do pcall(find, KEYS[number], ARGV[1], ARGV[2], ARGV[3]) end
"""
)
"""A round records hundreds of outcomes at once: a single command for each of them is what takes least time."""

_TELL = Script(
    APPEND
    + """
for number = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[number], ARGV[number + 1]) end
append(KEYS[2], ARGV[1], ARGV[2])
"""
)

_TRACE = Script(APPEND + "append(KEYS[1], ARGV[1], ARGV[2])")

_TRACE_IF = Script(APPEND + "if redis.call('GET', KEYS[1]) == ARGV[1] then append(KEYS[2], ARGV[2], ARGV[3]) end")


class Records:
    """Reads and writes records."""

    def __init__(self, redis: Redis, keys: Keys, history_days: float) -> None:
        self._redis = redis
        self._keys = keys
        self._finished_seconds = int(history_days * 86400)
        self._unfinished_seconds = UNFINISHED_DAYS * 86400
        self.tally = Tally(redis, keys)

    def open(self, pipe: Pipeline, work: Work, event: str, **details: Any) -> None:
        """Start the record of work that is being published, or continue it when it is published again."""
        now, seconds = time.time(), self._unfinished_seconds
        # In the indexes it is found by what a person would look it up by.
        keys = [self._keys.record(work.id), self._keys.trace(work.id), *self._indexes(work)]
        args = [work.id, now + seconds, now, work.model_dump_json(), work.gateway, *self.to_append(event, **details)]
        _OPEN.join(pipe, keys, args)

    def trace(self, pipe: Pipeline, work_id: str, event: str, **details: Any) -> None:
        """Append one event to the life of a piece of work."""
        _TRACE.join(pipe, [self._keys.trace(work_id)], self.to_append(event, **details))

    def to_append(self, event: str, **details: Any) -> list[Any]:
        """What `APPEND` is called with, beside the key of the trace: one event of unfinished work."""
        return [_line(event, details), self._unfinished_seconds]

    def trace_if(self, pipe: Pipeline, condition: tuple[str, str], work_id: str, event: str, **details: Any) -> None:
        """The same where a key has a value by then: `condition` is the two of them."""
        keys = [condition[0], self._keys.trace(work_id)]
        _TRACE_IF.join(pipe, keys, [condition[1], *self.to_append(event, **details)])

    def close(self, pipe: Pipeline, work: Work, outcome: Outcome, **details: Any) -> None:
        """Record how the work ended; its history expires from now on."""
        now, seconds = time.time(), self._finished_seconds
        line = _line("outcome", {"outcome": outcome.value, **details})
        keys = [self._keys.record(work.id), self._keys.trace(work.id), self.tally.key, *self._indexes(work)]
        args = [work.id, now + seconds, now, outcome.value, line, seconds]
        _CLOSE.join(pipe, keys, args)

    def _indexes(self, work: Work) -> list[str]:
        return [self._keys.index(term) for term in index_terms(work)]

    def note(self, *work_ids: str, **fields: str) -> None:
        """Remember something about unfinished work, for whoever works on it next; in a transaction of its own."""
        mapping: dict[Any, Any] = {**fields}
        with self._redis.pipeline() as pipe:
            for work_id in work_ids:
                pipe.hset(self._keys.record(work_id), mapping=mapping)
            pipe.execute()

    def tell(self, event: str, of: Mapping[str, Mapping[str, Any]], **fields: str) -> None:
        """Tell an event of several pieces of work, and note fields of each; in a transaction of its own.

        Args:
            event: what happened.
            of: by work id, the details of the event.
            fields: as in `note`.
        """
        noted = [text for field in fields.items() for text in field]
        with self._redis.pipeline(transaction=True) as pipe:
            for work_id, details in of.items():
                keys = [self._keys.record(work_id), self._keys.trace(work_id)]
                _TELL.join(pipe, keys, [_line(event, details), self._unfinished_seconds, *noted])
            pipe.execute()

    def fields(self, work_id: str) -> dict[str, str]:
        """What is known of a piece of work; empty when nothing is."""
        stored: dict[bytes, bytes] = self._redis.hgetall(self._keys.record(work_id))  # type: ignore[assignment]
        return {field.decode(): value.decode() for field, value in stored.items()}

    def field(self, work_id: str, name: str) -> str:
        """One field of that; empty when it is not known."""
        stored: bytes | None = self._redis.hget(self._keys.record(work_id), name)  # type: ignore[assignment]
        # Whoever wrote it: what is no text is told as far as it is.
        return stored.decode(errors="replace") if stored else ""

    def outcome(self, work_id: str) -> Outcome | None:
        """How the work ended, if it has."""
        stored = self.field(work_id, "outcome")
        return Outcome(stored) if stored else None

    def ask_for(self, pipe: Pipeline, work_id: str, name: str) -> None:
        """Ask for a field in the caller's pipeline, which gets it as bytes, or None."""
        pipe.hget(self._keys.record(work_id), name)

    def work(self, work_id: str) -> Work | None:
        """The work itself, as it was published."""
        stored: bytes | None = self._redis.hget(self._keys.record(work_id), "payload")  # type: ignore[assignment]
        return parse_work(stored) if stored else None

    def about(self, terms: Sequence[str]) -> dict[str, list[Work]]:
        """The work about each of these names, UIDs or addresses; those that nothing is about left out."""
        found: dict[str, list[Work]] = {}
        for start in range(0, len(terms), BATCH):
            batch = terms[start : start + BATCH]
            with self._redis.pipeline(transaction=False) as pipe:
                for term in batch:
                    pipe.zrange(self._keys.index(term), 0, -1)
                indexed: list[list[bytes]] = pipe.execute()
                entries = [(term, each.decode()) for term, ids in zip(batch, indexed, strict=True) for each in ids]
                for _, work_id in entries:
                    pipe.hget(self._keys.record(work_id), "payload")
                payloads: list[bytes | None] = pipe.execute()
            for (term, _), payload in zip(entries, payloads, strict=True):
                if payload is not None:
                    found.setdefault(term, []).append(parse_work(payload))
        return found

    def events(self, work_id: str) -> list[dict[str, Any]]:
        """The life of a piece of work, oldest first; each with `at` (seconds since the epoch) and `event`."""
        lines: list[bytes] = self._redis.lrange(self._keys.trace(work_id), 0, -1)  # type: ignore[assignment]
        return [json.loads(line) for line in lines]

    def find(self, term: str) -> list[str]:
        """Ids of the work about an EIP's name, UID or address, oldest first; a work id finds itself."""
        indexed: list[bytes] = self._redis.zrange(self._keys.index(term), 0, -1)  # type: ignore[assignment]
        found = [work_id.decode() for work_id in indexed] or [term]
        with self._redis.pipeline(transaction=False) as pipe:
            for work_id in found:
                pipe.hget(self._keys.record(work_id), "published_at")
            published: list[bytes | None] = pipe.execute()
        dated = [(float(at), work_id) for at, work_id in zip(published, found, strict=True) if at is not None]
        return [work_id for _, work_id in sorted(dated)]


def index_terms(work: Work) -> list[str]:
    """What a person would look the work up by."""
    addresses = () if work.kind == "audit" else work.addresses
    return [term for term in (work.eip, work.uid, *map(str, addresses)) if term]


def _line(event: str, details: Mapping[str, Any]) -> str:
    return json.dumps({"at": time.time(), "event": event, **details})
