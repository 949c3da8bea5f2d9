"""What a change of the world means for what we know: a pure function, because everything rests on it.

In go the EIPs we know (with the UIDs already released) and what was seen of them; out comes what to remember, what to
forget, and which releases follow. The rules are design, "The producer":

- a release is: the object is gone, or its gateway or address changed; a deletionTimestamp alone is none;
- the same name with another UID is another EIP;
- what is older than what we know changes nothing, and a released UID never comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Literal

from shared.models import EIP, Audit, Release, Work, pair_suffix


@dataclass(frozen=True, slots=True)
class Seen:
    """An EIP is there, in this state."""

    eip: EIP

    @property
    def uid(self) -> str:
        """The EIP's."""
        return self.eip.uid


@dataclass(frozen=True, slots=True)
class Gone:
    """An EIP is there no longer."""

    uid: str
    reason: Literal["deleted", "missing"]
    last: EIP | None = None
    """Its last state, where it was told or is remembered."""


Change = Seen | Gone


@dataclass(slots=True)
class Difference:
    """What follows from some changes."""

    known: dict[str, EIP] = field(default_factory=dict)
    """By UID: to be remembered."""
    forgotten: dict[str, EIP] = field(default_factory=dict)
    """By UID, with the state known before: to be forgotten and never known again."""
    replaced: dict[str, EIP] = field(default_factory=dict)
    """By UID, the state known before of those in `known`."""
    works: list[Work] = field(default_factory=list)
    acquired: list[tuple[EIP, str]] = field(default_factory=list)
    """An EIP for which Kube-OVN has now put an address on its gateway."""

    def __bool__(self) -> bool:
        return bool(self.known or self.forgotten or self.works)


def difference(
    known: Mapping[str, EIP], released: Set[str], changes: Iterable[Change], *, cluster: str, now: float
) -> Difference:
    """What follows from the changes, taken in order.

    Args:
        known: by UID the EIPs known before, at least those the changes are about.
        released: UIDs that were released before, at least those the changes are about.
        changes: what was seen.
        cluster: UID of the cluster, for the work that follows.
        now: seconds since the epoch, likewise.
    """
    result = Difference()
    for change in changes:
        uid = change.uid
        if uid in released or uid in result.forgotten:
            continue
        before = result.known.get(uid, known.get(uid))
        state = change.eip if isinstance(change, Seen) else change.last
        if state is not None and (before is None or state.resource_version > before.resource_version):
            state = _carry_over(before, state)
            if before is not None:
                result.works += _moved(before, state, cluster=cluster, now=now)
                if uid in known:
                    result.replaced.setdefault(uid, known[uid])
            if isinstance(change, Seen):
                result.acquired += _acquired(before, state)
            result.known[uid] = state
        if isinstance(change, Gone):
            last = result.known.pop(uid, before)
            result.replaced.pop(uid, None)
            if last is None:
                continue
            result.forgotten[uid] = known.get(uid, last)
            result.works.append(_gone(last, change.reason, cluster=cluster, now=now))
    # An owner that was gained and lost within one batch waits for nothing.
    result.acquired = [(eip, address) for eip, address in result.acquired if eip.uid in result.known]
    return result


def _carry_over(before: EIP | None, state: EIP) -> EIP:
    if before is None:
        return state
    # No address in a newer state says that the object was reset, not that the gateway no longer has the address.
    same_place = before.gateway == state.gateway and not state.addresses
    return replace(
        state,
        ready=before.ready or state.ready,
        placed=state.placed or (before.placed and before.gateway == state.gateway),
        addresses=before.addresses if same_place else state.addresses,
    )


def _moved(before: EIP, state: EIP, *, cluster: str, now: float) -> list[Release]:
    if before.gateway != state.gateway:
        left = before.addresses
    else:
        left = tuple(address for address in before.addresses if address not in state.addresses)
    if not left:
        return []
    suffix = pair_suffix(before.gateway, left)
    return [_release(replace(before, addresses=left), "moved", f"release-{before.uid}-{suffix}", cluster, now)]


def _gone(last: EIP, reason: Literal["deleted", "missing"], *, cluster: str, now: float) -> Release | Audit:
    if last.addresses:
        return _release(last, reason, f"release-{last.uid}", cluster, now)
    # Nobody can name the address that may still come to the gateway: the gateway itself has to be asked.
    return Audit(
        id=f"audit-{last.uid}",
        cluster=cluster,
        gateway=last.gateway,
        eip=last.name,
        uid=last.uid,
        namespace=last.namespace or None,
        seen_at=now,
        reason=reason,
    )


def _release(
    eip: EIP, reason: Literal["deleted", "missing", "moved"], work_id: str, cluster: str, now: float
) -> Release:
    return Release(
        id=work_id,
        cluster=cluster,
        gateway=eip.gateway,
        eip=eip.name,
        uid=eip.uid,
        namespace=eip.namespace or None,
        seen_at=now,
        addresses=tuple(ip_address(address) for address in eip.addresses),
        subnet=eip.subnet or None,
        reason=reason,
        was_ready=eip.ready,
    )


def _acquired(before: EIP | None, state: EIP) -> list[tuple[EIP, str]]:
    if not state.placed:
        return []
    had = before.addresses if before is not None and before.placed and before.gateway == state.gateway else ()
    return [(state, address) for address in state.addresses if address not in had]


def gone_from_list(known: Iterable[EIP], listed: Set[str], resource_version: int) -> list[Gone]:
    """The known EIPs that a list at that resourceVersion should have shown and did not.

    What came to be after the list was taken (another producer saw it) is not missing from it.
    """
    return [
        Gone(eip.uid, "missing", eip)
        for eip in known
        if eip.uid not in listed and eip.resource_version <= resource_version
    ]
