"""What is pending for a gateway: as much of it as one round takes, and which generation of it that is.

A gateway that has a thousand releases pending has most of them left to later rounds; to send and read all of them each
time would keep Redis and the worker from others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.client import Pipeline

    from shared.keys import Keys

ROUND_SIZE = 200
"""Pieces of work per round; the rest is left to the next."""

PENDING = f"""
local function pending(generation, works)
    local current, found, cursor = redis.pcall('GET', generation), {{}}, '0'
    if type(current) == 'table' then return current end
    repeat
        local page = redis.pcall('HSCAN', works, cursor, 'COUNT', {ROUND_SIZE})
        if page.err then return page end
        cursor = page[1]
        for _, each in ipairs(page[2]) do found[#found + 1] = each end
    until cursor == '0' or #found >= {2 * ROUND_SIZE}
    return {{current, found}}
end
"""
"""Lua: what `Pending.answered` reads, from the keys of both; an error where something is stored that is not ours."""

_ASK = Script(PENDING + "return pending(KEYS[1], KEYS[2])")


@dataclass(frozen=True, slots=True)
class Pending:
    """What one gateway had pending."""

    works: dict[bytes, bytes]
    """By work id, payloads; all of them, or at least a round's."""
    _generation: bytes | None = None

    @property
    def generation(self) -> int:
        """Raised with every addition.

        Raises:
            ValueError: what is stored is not ours.
        """
        return int(self._generation or 0)

    @staticmethod
    def ask_for(pipe: Pipeline, keys: Keys, gateway: str) -> None:
        """Ask in the caller's transaction; the last answer is for `answered`."""
        _ASK.join(pipe, [keys.pending_generation(gateway), keys.pending(gateway)], [])

    @classmethod
    def answered(cls, answer: Sequence[Any]) -> Pending:
        """What Redis answered."""
        generation, works = answer
        return cls(dict(zip(works[::2], works[1::2], strict=True)), generation)
