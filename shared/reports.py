"""What the last audit of each gateway saw, kept in Redis for the status, the metrics and the dashboard.

A report tells what a gateway carried and what was found wrong with it; deciding and mending are the auditor's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from redis import Redis

    from shared.keys import Keys


class Kind(StrEnum):
    """What an audit can find."""

    LEAKED = "leaked"
    """On a gateway, owned by no EIP of it, seen so twice."""
    DOUBLED = "doubled"
    """The same, and another gateway carries it too; or two gateways carry it, and each has an EIP that owns it."""
    MISSING = "missing"
    """An EIP of the gateway owns it, and not every active pod of the gateway has it."""
    PROTECTED = "protected"
    """Owned by no EIP, and never taken away: a base address, one of the subnet's own, one that an operator protects."""
    UNDECIDED = "undecided"
    """Owned by no EIP, while an EIP of the gateway has no address yet: it may be that one's."""
    STUCK = "stuck"
    """An EIP that has been terminating, or without an address, for long."""
    REVIVED = "revived"
    """An EIP that came back under its name within a minute of its deletion."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One address on a gateway's external interfaces."""

    ip: str
    prefix_length: int
    interface: str
    pods: tuple[str, ...]
    """The gateway's pods that have it."""
    owner: str | None
    """The EIP that owns it there, by name; None for none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an audit found."""

    kind: Kind
    gateway: str
    address: str | None
    """None where it is about an EIP that has none."""
    eip: str | None
    """The EIP it is about, by name."""
    why: str
    """In words, with what to do about it where a person has to."""
    since: float
    """First seen so, or so since, seconds since the epoch."""
    mendable: bool = False
    """Whether releasing the address is what mends it."""
    subnet: str | None = None
    """The external subnet the address is of."""


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What one audit saw of one gateway."""

    gateway: str
    at: float
    """When it was looked at, seconds since the epoch."""
    by: str
    """The audit: a job's id, or the command."""
    pods: tuple[str, ...] = ()
    carried: tuple[Carried, ...] = ()
    findings: tuple[Finding, ...] = ()
    hindrance: str | None = None
    """Why it could not be looked at, in words; None where it could."""

    def to_json(self) -> str:
        """One line, for Redis."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> GatewayReport:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields["pods"] = tuple(fields["pods"])
        fields["carried"] = tuple(Carried(**{**each, "pods": tuple(each["pods"])}) for each in fields["carried"])
        fields["findings"] = tuple(Finding(**{**each, "kind": Kind(each["kind"])}) for each in fields["findings"])
        return cls(**fields)


class Reports:
    """Keeps the last report of each gateway."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.reports

    def keep(self, reports: Iterable[GatewayReport]) -> None:
        """Replace what was kept of these gateways."""
        mapping: dict[Any, Any] = {report.gateway: report.to_json() for report in reports}
        if mapping:
            self._redis.hset(self._key, mapping=mapping)

    def forget(self, gateways: Collection[str]) -> None:
        """Drop what was kept of gateways that are gone."""
        if gateways:
            self._redis.hdel(self._key, *gateways)

    def of(self, gateway: str) -> GatewayReport | None:
        """The last report of a gateway; None when it was never audited."""
        stored: bytes | None = self._redis.hget(self._key, gateway)  # type: ignore[assignment]
        return GatewayReport.from_json(stored) if stored else None

    def all(self) -> list[GatewayReport]:
        """The last report of every gateway, by its name."""
        stored: dict[bytes, bytes] = self._redis.hgetall(self._key)  # type: ignore[assignment]
        return [GatewayReport.from_json(text) for _, text in sorted(stored.items())]
