"""What a round needs to know of its release, asked ahead: while its job is read, and its gateway looked at.

A release that was waited for, alone on its gateway, is mostly about one address that is still there. So its intents
are recorded in the moment its job is opened, in the step that asks the inventory for owners (`workers.opening`), and
the API is asked for owners right after that; its answer is read once the gateway was looked at. Intents come before
owners as in any round (`workers.round`), but both come before the look, not after it: so they may be a moment old at
most (`AHEAD_SECONDS`). Where it was all in vain, nothing of it stays.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from shared.scripts import Script
from shared.vouching import VOUCHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from shared.keys import Keys
    from shared.kube.ahead import ListAhead
    from shared.kube.api import Object
    from workers.cluster import Cluster
    from workers.intents import Intents

AHEAD_SECONDS = 0.02
"""How long ago Redis and the API were asked at most when the API's answer is read.

This keeps live EIPs safe: an address that the look shows must not be that of an EIP that came after the answer. Once it
has seen an EIP, Kube-OVN puts its address on the gateway by an exec, which by itself takes longer than this
(kube-ovn-facts, §5). A look takes a few milliseconds.
"""

ASK_AHEAD = (
    VOUCHED
    + """
local function ask_ahead(job, gateway, payload, others, intents, owners, vouching, following, intent, seconds)
    local done, work = pcall(cjson.decode, payload)
    if not done or type(work) ~= 'table' or work.gateway ~= gateway or type(work.addresses) ~= 'table' then
        return false
    end
    if work.kind ~= 'release' or work.was_ready ~= true then return false end
    if #others > 2 or (#others > 0 and others[1] ~= job) then return false end
    local known = {}
    for _, address in ipairs(work.addresses) do
        if type(address) ~= 'string' then return false end
        if redis.call('EXISTS', string.format(intents, gateway, address)) == 1 then return false end
        local owner = redis.pcall('SRANDMEMBER', string.format(owners, gateway, address))
        if type(owner) == 'table' then return false end
        known[#known + 1], known[#known + 2] = address, owner
    end
    local asked, vouched = pcall(is_vouched, vouching, following)
    if not asked then return false end
    for number = 1, #known, 2 do
        redis.call('SET', string.format(intents, gateway, known[number]), intent, 'EX', seconds)
    end
    return {vouched, known}
end
"""
)
"""Lua: record the intents of a job's release, and ask who owns its addresses; what `Ahead` is made of.

False, and nothing was done, where it is no release that could be acted on at once, or is not alone, or was meant to be
taken away before: then more has to be known of it.
"""


def asking(keys: Keys, intents: Intents, intent: str) -> list[Any]:
    """What `ASK_AHEAD` is called with, after what tells of the job; `intent` is stored about each of its addresses."""
    # Redis puts the gateway and the address in.
    where = [keys.intent("%s", "%s"), keys.owners("%s", "%s"), keys.vouched, keys.following]
    return [*where, intent, intents.lifetime]


FORGET_ASKED = """
local function forget_asked(gateway, addresses, intents, intent)
    for _, address in ipairs(addresses) do
        local key = type(address) == 'string' and string.format(intents, gateway, address)
        if key and redis.pcall('GET', key) == intent then redis.call('DEL', key) end
    end
end
"""
"""Lua: forget the intents that `ASK_AHEAD` recorded, those that were recorded anew left out."""

_FORGET = Script(FORGET_ASKED + "forget_asked(ARGV[1], {unpack(ARGV, 4)}, ARGV[2], ARGV[3])")


class Ahead:
    """What was recorded and asked ahead for one release; each of the answers is good for one decision."""

    def __init__(
        self, redis: Redis, keys: Keys, gateway: str, intent: str, asked_at: float, answer: Sequence[Any]
    ) -> None:
        """From what Redis answered.

        Args:
            redis: the server.
            keys: where keys are.
            gateway: the gateway's name.
            intent: what was stored as the intent about each address.
            asked_at: when it was about to be asked, on the monotonic clock.
            answer: whether the inventory is vouched for, and after each address the UID of an owner, or None.
        """
        self._redis = redis
        self.gateway = gateway
        self._recorded = (keys.intent("%s", "%s"), intent)
        vouched, known = answer
        self.vouched = bool(vouched)
        self._addresses = known[::2]
        # Whoever stored it: what is no text is no address, and an owner all the same.
        owners = [uid.decode(errors="replace") if uid else "" for uid in known[1::2]]
        self.known = dict(zip((address.decode(errors="replace") for address in known[::2]), owners, strict=True))
        """Address → UID of an owner that the inventory has, or nothing."""
        self._listed: ListAhead | None = None
        self._asked_at = asked_at
        self._settled = False
        """Whether the intents stay for a decision, or are forgotten."""
        self.is_late = False
        """Whether the answers came too late to be of use."""

    def request(self, cluster: Cluster) -> None:
        """Ask the API too, without waiting for its answer.

        Raises:
            TransientError: it cannot be asked.
        """
        self._listed = cluster.request_eips(self.gateway)

    def answer(self) -> list[Object] | None:
        """At least the gateway's EIPs, as the API answered; from now on the intents stay. None where it is too old.

        Raises:
            TransientError: the API refused, or broke off.
        """
        listed, self._listed = self._listed, None
        if listed is None:
            return None
        if time.monotonic() - self._asked_at > AHEAD_SECONDS:
            listed.drop()
            self.is_late = True
            return None
        items = listed.items()
        self._settled = True
        return items

    def drop(self) -> None:
        """Leave nothing behind that no decision was made with; where Redis is away intents stay, which does no harm."""
        if not self._settled:
            with suppress(RedisError):
                _FORGET.run(self._redis, [], [self.gateway, *self._recorded, *self._addresses])
                self._settled = True
        listed, self._listed = self._listed, None
        if listed is not None:
            listed.drop()
