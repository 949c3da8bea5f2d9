"""What crosses a boundary: EIPs as the producer knows them, and the work it publishes for workers.

Work is strict: a payload with an unknown field, a wrong type or an address that is not one is rejected before
anything is done with it. EIPs are plain data, because a producer keeps all of them in memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from shared.errors import InvalidPayloadError

IPAddress = IPv4Address | IPv6Address

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A Kubernetes object's name: a DNS subdomain (RFC 1123)."""
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
"""A UID, or what RQ takes as a job id."""

MAX_ADDRESSES = 8
"""An EIP has one address of each family; a payload with more is not one of ours."""


@lru_cache(maxsize=1 << 14)
def parse_address(text: str) -> IPAddress:
    """The address an EIP can have.

    Raises:
        ValueError: not an address, one with a zone, IPv4-mapped, or one that no EIP can have (loopback, multicast …).
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id):
        raise ValueError(f"{text!r} is an IPv4-mapped or zoned IPv6 address")
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise ValueError(f"{text!r} cannot be an EIP's address")
    return address


@dataclass(frozen=True, slots=True)
class EIP:
    """One live `IptablesEIP`, as far as releases depend on it."""

    uid: str
    name: str
    gateway: str
    addresses: tuple[str, ...]
    """Canonical text, IPv4 before IPv6; empty until the controller allocated one."""
    subnet: str
    """The external subnet's name; empty means Kube-OVN's default."""
    namespace: str
    """Where the gateway's pods live; empty where the object does not say."""
    ready: bool
    """Whether it was ever seen ready."""
    placed: bool
    """Whether Kube-OVN has put its addresses on the gateway, as far as the object tells: one that asks for an address
    names it before, and may never get it."""
    terminating_since: float | None
    """When its deletion was asked for, seconds since the epoch; None while it was not."""
    resource_version: int
    created: float
    """Seconds since the epoch."""

    @property
    def terminating(self) -> bool:
        """Whether its deletion was asked for; Kube-OVN is still at it."""
        return self.terminating_since is not None

    def to_json(self) -> str:
        """One line, for the inventory."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> EIP:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["addresses"] = tuple(fields["addresses"])
        return cls(**fields)


class Payload(BaseModel):
    """Base of everything a job carries."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Identifier
    """Also the RQ job's id."""
    cluster: Identifier
    """UID of the namespace `kube-system` of the cluster this is about."""
    gateway: Name
    eip: Name | None
    """The EIP's name, where there was one."""
    uid: Identifier | None
    """The EIP's UID, where there was one."""
    namespace: Name | None = None
    """Where the gateway's pods live, where the EIP said so."""
    seen_at: Annotated[float, Field(gt=0)]
    """When the producer saw it, seconds since the epoch."""


class AddressPayload(Payload):
    """Work on known addresses."""

    addresses: Annotated[tuple[IPAddress, ...], Field(min_length=1, max_length=MAX_ADDRESSES)]
    subnet: Name | None = None
    """The external subnet; None means Kube-OVN's default."""

    @field_validator("addresses")
    @classmethod
    def _could_be_an_eips(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        for address in addresses:
            parse_address(str(address))
        return addresses


class Release(AddressPayload):
    """An EIP let go of these addresses on this gateway."""

    kind: Literal["release"] = "release"
    reason: Literal["deleted", "missing", "moved", "leaked"]
    """DELETED was seen; it was missing from a list; it has another gateway or address now; an audit found it."""
    was_ready: bool
    """Whether the EIP was ever ready; one that was not may still get its address after it went."""


class Confirmation(AddressPayload):
    """An EIP turned out to own addresses that a worker meant to take away: see that it has them."""

    kind: Literal["confirmation"] = "confirmation"


class Audit(Payload):
    """Compare one gateway with the API."""

    kind: Literal["audit"] = "audit"
    reason: Literal["deleted", "missing", "gap", "periodic", "requested"]
    """An EIP without a known address was deleted, or was missing from a list; events were missed; it was time; somebody
    asked."""
    apply: bool = True
    """Whether what nobody owns is released; without it it is only reported."""


Work = Release | Confirmation | Audit

_WORK: TypeAdapter[Work] = TypeAdapter(Annotated[Work, Field(discriminator="kind")])


def parse_work(payload: object) -> Work:
    """The work in a job's payload, which may come from anybody who can write to Redis.

    Raises:
        InvalidPayloadError: it is none; says which field is wrong.
    """
    try:
        return _WORK.validate_json(payload if isinstance(payload, (str, bytes)) else json.dumps(payload))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'payload'}: {problem['msg']}" for problem in error.errors()[:5]
        )
        raise InvalidPayloadError(f"payload rejected: {problems}. Nothing was done; drop this job.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayloadError(f"payload rejected: {error}. Nothing was done; drop this job.") from None


def work_to_dict(work: Work) -> dict[str, Any]:
    """The inverse of `parse_work`, as JSON types."""
    return work.model_dump(mode="json")


def pair_suffix(gateway: str, addresses: tuple[str, ...]) -> str:
    """Eight hex digits that tell the releases of one EIP's several (gateway, addresses) apart."""
    return sha256(" ".join((gateway, *addresses)).encode()).hexdigest()[:8]


class Outcome(StrEnum):
    """How a job ended that did not fail (design, "Outcomes")."""

    RECLAIMED = "reclaimed"
    ALREADY_ABSENT = "already_absent"
    GATEWAY_GONE = "gateway_gone"
    REASSIGNED = "reassigned"
    RESTORED = "restored"
    AUDITED = "audited"
