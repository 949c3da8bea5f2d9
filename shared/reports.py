"""What the last audit of each gateway saw, kept in Redis for the status, the metrics and the dashboard.

A report tells what a gateway carried and what was found wrong with it; deciding and mending are the auditor's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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
    subnet: str
    """The external subnet it is of."""


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

    @property
    def release_id(self) -> str:
        """Id of the release of a leak: one and the same, however often the leak is seen before it is worked off."""
        place = sha256(f"{self.gateway} {self.address}".encode()).hexdigest()[:12]
        return f"leak-{place}-{int(self.since)}"


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What one audit saw of one gateway."""

    gateway: str
    at: float
    """When it was looked at, seconds since the epoch."""
    by: str
    """The audit: a job's id, or the command."""
    namespace: str | None = None
    """Where its pods live; None where none was found."""
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
        self._keys = keys
        self._key = keys.reports

    def keep(self, reports: Iterable[GatewayReport]) -> None:
        """Replace what was kept of these gateways."""
        mapping: dict[Any, Any] = {report.gateway: report.to_json() for report in reports}
        if mapping:
            self._redis.hset(self._key, mapping=mapping)

    def keep_only(self, reports: Iterable[GatewayReport]) -> None:
        """Keep these, of all gateways there are."""
        reports = list(reports)
        kept: list[bytes] = self._redis.hkeys(self._key)  # type: ignore[assignment]
        self.keep(reports)
        self.forget({gateway.decode() for gateway in kept} - {report.gateway for report in reports})

    def forget(self, gateways: Collection[str]) -> None:
        """Drop what was kept of gateways that are gone."""
        if gateways:
            self._redis.hdel(self._key, *gateways)

    def of(self, gateway: str) -> GatewayReport | None:
        """The last report of a gateway; None when it was never audited."""
        stored: bytes | None = self._redis.hget(self._key, gateway)  # type: ignore[assignment]
        return self._without_mended([GatewayReport.from_json(stored)])[0] if stored else None

    def all(self) -> list[GatewayReport]:
        """The last report of every gateway, by its name; what two of them carry is told as doubled."""
        stored: dict[bytes, bytes] = self._redis.hgetall(self._key)  # type: ignore[assignment]
        reports = [GatewayReport.from_json(text) for _, text in sorted(stored.items())]
        return with_doubles(self._without_mended(reports))

    def _without_mended(self, reports: list[GatewayReport]) -> list[GatewayReport]:
        """The reports, less what was released since: the record of its release tells."""
        leaks = [finding for report in reports for finding in report.findings if finding.mendable]
        with self._redis.pipeline(transaction=False) as pipe:
            for leak in leaks:
                pipe.hget(self._keys.record(leak.release_id), "outcome")
            outcomes = pipe.execute()
        gone = {(leak.gateway, leak.address) for leak, outcome in zip(leaks, outcomes, strict=True) if outcome}
        return [
            replace(
                report,
                carried=tuple(each for each in report.carried if (report.gateway, each.ip) not in gone),
                findings=tuple(each for each in report.findings if (report.gateway, each.address) not in gone),
            )
            for report in reports
        ]


def merged(before: GatewayReport, now: GatewayReport) -> GatewayReport:
    """What two parts of one audit saw that looked at different pods; of a pod that both saw, the later counts."""
    seen_before = set(before.pods) - set(now.pods)
    carried = {each.ip: each for each in now.carried}
    for each in before.carried:
        pods = set(each.pods) & seen_before
        if pods:
            known = carried.get(each.ip, each)
            carried[each.ip] = replace(known, pods=tuple(sorted({*pods, *(known.pods if each.ip in carried else ())})))
    findings = {(each.kind, each.address, each.eip): each for each in now.findings}
    if seen_before:
        findings = {(each.kind, each.address, each.eip): each for each in before.findings} | findings
    return replace(
        now,
        pods=tuple(sorted(seen_before | set(now.pods))),
        carried=tuple(carried.values()),
        findings=tuple(findings.values()),
    )


def with_doubles(reports: Iterable[GatewayReport]) -> list[GatewayReport]:
    """The reports, telling as doubled what two gateways carry.

    A leak that another gateway carries too may be mended; an address that an EIP of each owns only a person can judge.
    """
    reports = list(reports)
    carriers: dict[tuple[str, str], dict[str, str | None]] = {}
    for report in reports:
        for each in report.carried:
            carriers.setdefault((each.subnet, each.ip), {})[report.gateway] = each.owner
    told = []
    for report in reports:
        findings = list(report.findings)
        for each in report.carried:
            others = {name: who for name, who in carriers[each.subnet, each.ip].items() if name != report.gateway}
            if others:
                findings = _told_as_doubled(report, findings, each, others)
        told.append(replace(report, findings=tuple(findings)))
    return told


def _told_as_doubled(
    report: GatewayReport, findings: list[Finding], carried: Carried, others: Mapping[str, str | None]
) -> list[Finding]:
    also = f"gateway {', '.join(others)} carries it too"
    if carried.owner is not None:
        owners = {f"EIP {who} of gateway {name}" for name, who in others.items() if who is not None}
        if not owners:
            return findings
        why = f"{also}, for {', '.join(sorted(owners))}: delete one of these EIPs"
        return [*findings, Finding(Kind.DOUBLED, report.gateway, carried.ip, carried.owner, why, report.at)]
    return [
        replace(each, kind=Kind.DOUBLED, why=f"{each.why}; {also}")
        if each.kind is Kind.LEAKED and each.address == carried.ip
        else each
        for each in findings
    ]
