"""Reading Kube-OVN's objects: dicts of the API in, plain typed data out. Nothing here does I/O.

Shapes are those of Kube-OVN v1.11 … v1.16 (kube-ovn-facts, §2 and §3).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from shared.errors import MalformedObjectError
from shared.models import EIP, IPAddress, parse_address

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

GATEWAY_LABEL = "ovn.kubernetes.io/vpc-nat-gw-name"
"""On an EIP: its gateway; set by the controller a moment after creation."""


_EIP_TEXTS = (
    *("name", "uid", "resourceVersion"),
    *("natGwDp", "externalSubnet", "namespace", "v4ip", "v6ip", "ip"),
)
_TEXT_OR_NOTHING = {str, type(None)}


def read_eip(obj: object) -> EIP:
    """An `IptablesEIP` as the API sent it.

    Raises:
        MalformedObjectError: it lacks what every EIP has, or holds something that is no address.
    """
    metadata, spec, status = _sections(obj)
    texts = (
        *(metadata.get("name"), metadata.get("uid"), metadata.get("resourceVersion")),
        *(spec.get("natGwDp"), spec.get("externalSubnet"), spec.get("namespace")),
        *(spec.get("v4ip"), spec.get("v6ip"), status.get("ip")),
    )
    if not _TEXT_OR_NOTHING.issuperset(map(type, texts)):
        for field, value in zip(_EIP_TEXTS, texts, strict=True):
            _text({field: value}, field)
    deleted = str(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None
    ready = status.get("ready") is True
    # All three are written after `eip-add` only (kube-ovn-facts, §2).
    placed = ready or bool(status.get("ip") or spec.get("macAddress"))
    return _eip(*texts, ready, placed, deleted, str(metadata.get("creationTimestamp")))


@lru_cache(maxsize=1 << 12)
def _eip(
    name: str | None,
    uid: str | None,
    version: str | None,
    gateway: str | None,
    subnet: str | None,
    namespace: str | None,
    v4ip: str | None,
    v6ip: str | None,
    ip: str | None,
    ready: bool,
    placed: bool,
    deleted: str | None,
    created: str,
) -> EIP:
    """The EIP that an object with these fields is; remembered, since a worker is told of the same ones at each look."""
    where = f"IptablesEIP {name or '<unnamed>'}"
    if not (name and uid and version and version.isdigit()):
        raise MalformedObjectError(f"{where} has no name, uid or numeric resourceVersion")
    if not gateway:
        raise MalformedObjectError(f"{where} names no gateway in spec.natGwDp")
    for value in (gateway, subnet, namespace):
        if value and not _can_be_name(value):
            raise MalformedObjectError(f"{where}: {value!r} cannot be an object's name")
    try:
        addresses = _claimed(v4ip or "", v6ip or "", ip or "")
    except ValueError as error:
        raise MalformedObjectError(f"{where}: {error}") from None
    return EIP(
        uid=uid,
        name=name,
        gateway=gateway,
        addresses=addresses,
        subnet=subnet or "",
        namespace=namespace or "",
        ready=ready,
        placed=placed,
        terminating_since=_seconds(deleted) if deleted is not None else None,
        resource_version=int(version),
        created=_seconds(created),
    )


@lru_cache(maxsize=1 << 10)
def _can_be_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


@lru_cache(maxsize=1 << 14)
def _claimed(v4ip: str, v6ip: str, ip: str) -> tuple[str, ...]:
    """The addresses that an EIP claims in fields of these names, each once, as canonical text.

    Raises:
        ValueError: what it claims is none.
    """
    texts = (text.strip() for text in (v4ip, v6ip, *ip.split(",")))
    addresses = {parse_address(text) for text in texts if text}
    return tuple(str(address) for address in sorted(addresses, key=lambda a: (a.version, int(a))))


def claimed_texts(obj: object) -> set[str]:
    """What an `IptablesEIP` that cannot be read names as addresses, as far as that is text."""
    found: set[str] = set()
    for section in ("spec", "status"):
        fields = obj.get(section) if isinstance(obj, dict) else None
        if isinstance(fields, dict):
            values = (fields.get(field) for field in ("v4ip", "v6ip", "ip"))
            found |= {value.strip() for value in values if isinstance(value, str)}
    return found


@dataclass(frozen=True, slots=True)
class Subnet:
    """What of a `Subnet` says which addresses Kube-OVN may hand out."""

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...]
    gateways: tuple[IPAddress, ...]
    excluded: tuple[tuple[IPAddress, IPAddress], ...]
    """Inclusive ranges."""
    provider: str

    def network_of(self, address: IPAddress) -> IPv4Network | IPv6Network | None:
        """The CIDR that holds the address."""
        return next((net for net in self.networks if net.version == address.version and address in net), None)

    def own_address(self, address: IPAddress) -> str | None:
        """What the address is to the subnet itself, in words; None for one that an EIP can have."""
        if address in self.gateways:
            return f"the gateway of subnet {self.name}"
        net = self.network_of(address)
        # /31 and /32 (RFC 3021) have neither, and IPv6 has no broadcast address.
        if net is None or net.prefixlen >= net.max_prefixlen - 1:
            return None
        if address == net.network_address:
            return f"the network address of subnet {self.name}"
        if net.version == 4 and address == net.broadcast_address:
            return f"the broadcast address of subnet {self.name}"
        return None

    def excludes(self, address: IPAddress) -> bool:
        """Whether `excludeIps` keeps Kube-OVN from handing the address out."""
        return any(
            low.version == address.version and int(low) <= int(address) <= int(high) for low, high in self.excluded
        )


def read_subnet(obj: object) -> Subnet:
    """A `Subnet` as the API sent it.

    Raises:
        MalformedObjectError: its CIDR, gateway or excludeIps cannot be read.
    """
    metadata, spec, _ = _sections(obj)
    name = _text(metadata, "name")
    try:
        return Subnet(
            name=name,
            networks=tuple(ip_network(part.strip()) for part in _text(spec, "cidrBlock").split(",") if part.strip()),
            gateways=tuple(ip_address(part.strip()) for part in _text(spec, "gateway").split(",") if part.strip()),
            excluded=tuple(_range(part) for part in spec.get("excludeIps") or ()),
            provider=_text(spec, "provider"),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedObjectError(f"Subnet {name or '<unnamed>'}: {error}") from None


@dataclass(frozen=True, slots=True)
class NatGateway:
    """What of a `VpcNatGateway` says where its pods are."""

    name: str
    namespace: str
    """Empty where the object does not say."""
    external_subnets: tuple[str, ...]


def read_gateway(obj: object) -> NatGateway:
    """A `VpcNatGateway` as the API sent it."""
    metadata, spec, status = _sections(obj)
    subnets = spec.get("externalSubnets") or status.get("externalSubnets") or ()
    return NatGateway(
        name=_text(metadata, "name"),
        namespace=_text(spec, "namespace"),
        external_subnets=tuple(s for s in subnets if isinstance(s, str)),
    )


def base_addresses(pod: object) -> set[IPAddress]:
    """The pod's own addresses, from the annotations that Kube-OVN and Multus write and from its status."""
    metadata, _, status = _sections(pod)
    texts = [_text(entry, "ip") for entry in status.get("podIPs") or () if isinstance(entry, dict)]
    for key, value in (metadata.get("annotations") or {}).items():
        if key.endswith("kubernetes.io/ip_address"):
            texts += str(value).split(",")
        elif key == "k8s.v1.cni.cncf.io/network-status":
            texts += _multus_addresses(str(value))
    return {address for text in texts if (address := _address_or_none(text)) is not None}


def ip_object_addresses(obj: object) -> set[IPAddress]:
    """The addresses that an `IP` object gives to its pod."""
    _, spec, _ = _sections(obj)
    texts = [_text(spec, "v4IpAddress"), _text(spec, "v6IpAddress"), *_text(spec, "ipAddress").split(",")]
    return {address for text in texts if (address := _address_or_none(text)) is not None}


def is_active(pod: object, container: str) -> bool:
    """Whether commands can run in the pod: Running, not terminating, its gateway container running."""
    metadata, _, status = _sections(pod)
    if status.get("phase") != "Running" or "deletionTimestamp" in metadata:
        return False
    states = [
        entry.get("state") or {}
        for entry in status.get("containerStatuses") or ()
        if isinstance(entry, dict) and entry.get("name") == container
    ]
    return bool(states) and all("running" in state for state in states)


def _multus_addresses(text: str) -> list[str]:
    try:
        networks = json.loads(text)
        return [ip for network in networks for ip in network.get("ips") or ()]
    except (ValueError, AttributeError, TypeError):
        return []


def _sections(obj: object) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise MalformedObjectError("an object without metadata")
    name = obj["metadata"].get("name")
    sections = [obj["metadata"]]
    for section in ("spec", "status"):
        value = obj.get(section)
        if value is not None and not isinstance(value, dict):
            raise MalformedObjectError(f"{obj.get('kind', 'object')} {name}: {section} is no object")
        sections.append(value or {})
    return sections[0], sections[1], sections[2]


def _text(section: dict[str, Any], field: str) -> str:
    value = section.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedObjectError(f"{field} is {value!r}, not text")
    return value


def _seconds(timestamp: object) -> float:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return 0.0


def _range(text: str) -> tuple[IPAddress, IPAddress]:
    low, _, high = text.partition("..")
    return ip_address(low.strip()), ip_address((high or low).strip())


def _address_or_none(text: str) -> IPAddress | None:
    try:
        return ip_address(text.strip())
    except ValueError:
        return None
