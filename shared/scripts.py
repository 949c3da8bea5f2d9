"""Lua scripts that can be part of a transaction, without a round trip of their own.

The client's own scripts ask the server first whether it knows them, once more for each transaction. Here the text goes
along, once: a server that knows it compares a hash, and one that was restarted since learns it in time.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.client import Pipeline


TRY = """
local failure
local function try(step, ...)
    local done, why = pcall(step, ...)
    if not done then failure = failure or (type(why) == 'table' and why or redis.error_reply(why)) end
end
"""
"""Lua: steps of which each is tried, as the commands of a transaction are: what is stored beside them, and is not ours,
keeps none of the others from being done. The script returns `failure`, the first one, at its end."""


class Script:
    """One script."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def join(self, pipe: Pipeline, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Let it run in the caller's pipeline or transaction; the last answer that it adds is its own."""
        if self._sha not in (loaded := _loaded_in(pipe)):
            pipe.script_load(self._text)
            loaded.add(self._sha)
        pipe.evalsha(self._sha, len(keys), *keys, *args)

    def run(self, redis: Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it now; what it returns. A pipeline that has watched keys, and not begun its transaction, will do."""
        try:
            return redis.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:
            redis.script_load(self._text)
            return redis.evalsha(self._sha, len(keys), *keys, *args)


_LOADED: WeakKeyDictionary[Pipeline, tuple[list[Any], set[str]]] = WeakKeyDictionary()
"""By pipeline: its commands, and the hashes of the scripts that go along with them."""


def _loaded_in(pipe: Pipeline) -> set[str]:
    commands, loaded = _LOADED.get(pipe, (None, set()))
    if commands is not pipe.command_stack:
        # A pipeline that is used again has a list of commands of its own.
        loaded = set()
        _LOADED[pipe] = (pipe.command_stack, loaded)
    return loaded
