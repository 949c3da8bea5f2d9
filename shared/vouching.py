"""Whether the inventory in Redis can be relied on: a server that was started anew may hold older data.

A Redis that crashed, or whose replica took over, can have forgotten EIPs that live. Producers find that out by their
marks, but not before their next commit, and a worker that asks in between would be told that nobody owns an address.
So a worker is told too whether a producer has *vouched* for the inventory. One does so once in the life of a server
process, as soon as it has caught up with the API since it first met that process. Processes are told apart by the run
id that `INFO server` names: a server that is started anew, and a replica that takes over, have another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.scripts import Script

if TYPE_CHECKING:
    from redis.client import Pipeline

    from shared.keys import Keys

RUN_ID = "(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '')"
"""Lua: the run id of the server process, of 40 hex digits."""

_ASK = Script(f"""
if redis.call('GET', KEYS[1]) == {RUN_ID} then return false end
return tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)') or 0)
""")


def ask_if_vouched(pipe: Pipeline, keys: Keys) -> None:
    """Ask in the caller's transaction whether what it is told of the inventory can be relied on.

    Its last answer is None where it can; else for how many seconds the server has been there, and nobody vouched.
    """
    _ASK.join(pipe, [keys.vouched], [])
