"""Lua scripts that can be part of a transaction, without a round trip of their own.

The client's own scripts ask the server first whether it knows them, once more for each transaction. Here the text goes
along: a server that knows it compares a hash, and one that was restarted since learns it in time.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.client import Pipeline


class Script:
    """One script."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def join(self, pipe: Pipeline, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Let it run in the caller's pipeline or transaction; it adds two answers, the last one its own."""
        pipe.script_load(self._text)
        pipe.evalsha(self._sha, len(keys), *keys, *args)

    def run(self, redis: Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it now; what it returns."""
        with redis.pipeline(transaction=False) as pipe:
            self.join(pipe, keys, args)
            return pipe.execute()[-1]
