"""What is stored under RQ's keys, to be compared with what RQ itself would store."""

from __future__ import annotations

import re
import time
from typing import Any

from redis import Redis

Stored = dict[str, Any]


def stored(redis: Redis) -> Stored:
    """By key of RQ's, what it holds and how long it lives, without what differs from run to run."""
    return {_told(key): (_value(redis, key), _about(redis.ttl(key))) for key in redis.scan_iter("rq:*")}


def _value(redis: Any, key: bytes) -> Any:
    match redis.type(key):
        case b"hash":
            return {field: _told(value) for field, value in redis.hgetall(key).items()}
        case b"zset":
            return {_told(member): _about(score - time.time()) for member, score in redis.zscan_iter(key)}
        case b"stream":
            return [{field: _told(value) for field, value in entry.items()} for _, entry in redis.xrevrange(key)]
        case b"set":
            return {_told(member) for member in redis.smembers(key)}
        case _:
            return [_told(member) for member in redis.lrange(key, 0, -1)]


def _told(value: bytes) -> str:
    """A name or a field's value; moments and what makes an execution one of a kind left out."""
    text = re.sub("[0-9a-f]{32}", "ID", value.decode(errors="backslashreplace"))
    text = re.sub(r"20\d\d-\d\d-\d\dT[0-9:.]+Z", "MOMENT", text)
    return re.sub(r"^(\d{10}\.\d+|0\.\d+)$", "MOMENT", text)


def _about(seconds: float) -> int:
    """To ten seconds, where it is a time at all."""
    return int(round(seconds, -1)) if seconds > 0 else int(seconds)
