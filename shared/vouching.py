"""Whether the inventory in Redis can be relied on: it may be older than it was, and older than what has happened.

A Redis that crashed, or whose replica took over, can have forgotten EIPs that live. Producers find that out by their
marks, but not before their next commit, and a worker that asks in between would be told that nobody owns an address.
So a worker is told too whether a producer has *vouched* for the inventory. One does so once in the reign of a server,
as soon as it has caught up with the API since it first met that server. A reign is named by two ids that `INFO` tells:
a server that is started anew has another `run_id`, one that is promoted another `master_replid`.

Nor does an inventory know of an EIP that came while no producer could follow the API. So each producer leaves word
that it follows, which holds for some seconds and is left again and again, and takes it back when its watch breaks off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.client import Pipeline

    from shared.keys import Keys

REIGN = """(
    (string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '') .. ':' ..
    (string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or '')
)"""
"""Lua: what names this server's reign."""

WORD_SECONDS = 6.0
"""How long a producer's word holds that it follows the API, at most."""

VOUCHED = f"""
local function is_vouched(vouching, following)
    local time = redis.call('TIME')
    local now = time[1] .. '.' .. string.format('%06d', time[2])
    local vouched = redis.call('GET', vouching) == {REIGN}
    local followed = redis.call('ZRANGEBYSCORE', following, '(' .. now, '+inf', 'LIMIT', 0, 1)[1]
    return vouched and followed and 1 or 0
end
"""
"""Lua: 1 where what the inventory tells can be relied on, else 0; from the keys of both."""

_ASK = Script(
    VOUCHED
    + """
local told = { is_vouched(KEYS[1], KEYS[2]) }
for number = 3, #KEYS do told[number - 1] = redis.call('SRANDMEMBER', KEYS[number]) end
return told
"""
)


def ask_if_vouched(pipe: Pipeline, keys: Keys, sets: Sequence[str] = ()) -> None:
    """Ask in the caller's transaction, and for a member of each of these sets.

    The last answer is a list: 1 where what it is told of the inventory can be relied on, else 0; then the members, None
    where a set has none.
    """
    _ASK.join(pipe, [keys.vouched, keys.following, *sets], [])
