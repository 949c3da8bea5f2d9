"""What changes mean for what is known: each case by name, then any history in any order, seen any number of times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.difference import Change, Difference, Gone, Seen, difference, gone_from_list
from shared.models import EIP, Audit, Confirmation, Release

A, B = "10.1.69.205", "10.1.69.206"


def eip(uid: str = "u1", *addresses: str, **fields: Any) -> EIP:
    state: dict[str, Any] = {
        "name": f"eip-{uid}",
        "gateway": "gw1",
        "addresses": addresses,
        "subnet": "",
        "namespace": "",
        "ready": True,
        "placed": True,
        "terminating_since": None,
        "resource_version": 10,
        "created": 0.0,
    }
    return EIP(uid=uid, **{**state, **fields})


def of(known: list[EIP], *changes: Change, released: frozenset[str] = frozenset()) -> Difference:
    return difference({each.uid: each for each in known}, released, changes, cluster="c1", now=1000.0)


def released(result: Difference) -> list[tuple[str, str, tuple[str, ...]]]:
    """Gateway, reason and addresses of each release; no addresses for an audit."""
    told: list[tuple[str, str, tuple[str, ...]]] = []
    for work in result.works:
        assert not isinstance(work, Confirmation)
        addresses = tuple(map(str, work.addresses)) if isinstance(work, Release) else ()
        told.append((work.gateway, work.reason, addresses))
    return told


def test_a_new_eip_is_remembered() -> None:
    result = of([], Seen(eip("u1", A)))
    assert result.known == {"u1": eip("u1", A)}
    assert result.acquired == [(eip("u1", A), A)]
    assert result.works == []


def test_an_address_that_an_eip_asks_for_is_acquired_once_kube_ovn_has_put_it_on() -> None:
    asking = eip("u1", A, ready=False, placed=False)
    assert of([], Seen(asking)).acquired == []
    placed = eip("u1", A, resource_version=11)
    assert of([asking], Seen(placed)).acquired == [(placed, A)]
    assert of([placed], Seen(eip("u1", A, resource_version=12, placed=False))).known["u1"].placed


@pytest.mark.parametrize("reason", ["deleted", "missing"])
def test_an_eip_that_goes_is_released_with_all_it_had(reason: Any) -> None:
    result = of([eip("u1", A, "fd00::5")], Gone("u1", reason))
    (work,) = result.works
    assert isinstance(work, Release)
    assert (work.id, work.cluster, work.eip, work.uid) == ("release-u1", "c1", "eip-u1", "u1")
    assert (work.seen_at, work.was_ready, work.subnet, work.namespace) == (1000.0, True, None, None)
    assert released(result) == [("gw1", reason, (A, "fd00::5"))]
    assert result.forgotten == {"u1": eip("u1", A, "fd00::5")}


def test_the_last_state_counts_where_the_deletion_tells_it() -> None:
    last = eip("u1", A, resource_version=11)
    assert released(of([eip("u1")], Gone("u1", "deleted", last))) == [("gw1", "deleted", (A,))]


def test_an_eip_that_went_without_being_known_is_released_by_its_last_state() -> None:
    assert released(of([], Gone("u1", "deleted", eip("u1", A)))) == [("gw1", "deleted", (A,))]


def test_nothing_can_be_released_of_what_was_never_known() -> None:
    assert not of([], Gone("u1", "deleted"))


def test_an_eip_without_address_asks_for_an_audit() -> None:
    (work,) = of([eip("u1", ready=False)], Gone("u1", "deleted")).works
    assert isinstance(work, Audit)
    assert (work.id, work.gateway, work.reason) == ("audit-u1", "gw1", "deleted")


def test_an_eip_that_was_never_ready_says_so() -> None:
    (work,) = of([eip("u1", A, ready=False)], Gone("u1", "deleted")).works
    assert isinstance(work, Release)
    assert not work.was_ready


def test_ready_once_is_ready_for_ever() -> None:
    result = of([eip("u1", A)], Seen(eip("u1", A, ready=False, resource_version=11)), Gone("u1", "deleted"))
    (work,) = result.works
    assert isinstance(work, Release)
    assert work.was_ready


def test_a_deletion_timestamp_alone_releases_nothing() -> None:
    assert of([eip("u1", A)], Seen(eip("u1", A, terminating_since=5.0, resource_version=11))).works == []


def test_another_gateway_releases_the_former_pair() -> None:
    moved = eip("u1", A, gateway="gw2", resource_version=11)
    result = of([eip("u1", A)], Seen(moved))
    assert released(result) == [("gw1", "moved", (A,))]
    assert result.replaced == {"u1": eip("u1", A)}
    assert result.acquired == [(moved, A)]


def test_another_address_releases_the_former_one_only() -> None:
    result = of([eip("u1", A, "fd00::5")], Seen(eip("u1", B, "fd00::5", resource_version=11)))
    assert released(result) == [("gw1", "moved", (A,))]


def test_several_moves_are_several_jobs() -> None:
    result = of(
        [eip("u1", A)],
        Seen(eip("u1", A, gateway="gw2", resource_version=11)),
        Seen(eip("u1", A, gateway="gw3", resource_version=12)),
        Gone("u1", "deleted"),
    )
    assert released(result) == [("gw1", "moved", (A,)), ("gw2", "moved", (A,)), ("gw3", "deleted", (A,))]
    assert len({work.id for work in result.works}) == 3


def test_an_object_that_lost_its_address_still_has_it() -> None:
    result = of([eip("u1", A)], Seen(eip("u1", resource_version=11)))
    assert result.works == []
    assert result.known["u1"].addresses == (A,)


def test_an_older_state_changes_nothing() -> None:
    assert not of([eip("u1", A)], Seen(eip("u1", B, gateway="gw2", resource_version=9)))


def test_a_released_uid_never_comes_back() -> None:
    later = Seen(eip("u1", A, resource_version=99))
    assert not of([], later, Gone("u1", "deleted"), released=frozenset({"u1"}))
    result = of([eip("u1", A)], Gone("u1", "deleted"), later, Gone("u1", "deleted"))
    assert len(result.works) == 1
    assert result.known == {}


def test_an_owner_that_went_within_the_batch_gained_nothing() -> None:
    assert of([], Seen(eip("u1", A)), Gone("u1", "deleted")).acquired == []


def test_only_what_a_list_should_have_shown_is_missing_from_it() -> None:
    listed, missing = eip("u1"), eip("u2")
    newer = eip("u3", resource_version=21)
    assert gone_from_list([listed, missing, newer], {"u1"}, 20) == [Gone("u2", "missing", missing)]


Life = list[EIP]
"""The states of one EIP, oldest first."""


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    """EIPs with the states they go through; versions are those of one API."""
    every: list[Life] = []
    for number in range(draw(st.integers(1, 4))):
        state = eip(f"u{number}", ready=False)
        life: Life = []
        for _ in range(draw(st.integers(1, 4))):
            version = draw(st.integers(1, 5)) + (life[-1].resource_version if life else number)
            gateway = draw(st.sampled_from(["gw1", "gw2"]))
            allocated = bool(life) or draw(st.booleans())
            addresses = (draw(st.sampled_from([A, B])),) if allocated else ()
            state = replace(state, gateway=gateway, addresses=addresses, resource_version=version)
            life.append(state)
        every.append(life)
    return every


@given(lives(), st.data())
def test_each_pair_that_was_known_is_released_whatever_is_seen_of_it_and_when(
    every: list[Life], data: st.DataObject
) -> None:
    history: list[Change] = [Seen(state) for life in every for state in life]
    history += [Gone(life[0].uid, "deleted", life[-1]) for life in every]
    # Two producers see it, one of them late, in batches that may be of any size.
    told = data.draw(st.permutations(history + history))
    known: dict[str, EIP] = {}
    tombstones: set[str] = set()
    published: list[Release] = []
    pairs: dict[str, set[tuple[str, str]]] = {}
    while told:
        size = data.draw(st.integers(1, len(told)))
        result = difference(known, tombstones, told[:size], cluster="c1", now=1000.0)
        told = told[size:]
        for uid in result.forgotten:
            known.pop(uid, None)
            tombstones.add(uid)
        known.update(result.known)
        for uid, state in result.known.items():
            pairs.setdefault(uid, set()).update((state.gateway, address) for address in state.addresses)
        published += [work for work in result.works if isinstance(work, Release)]
    assert known == {}
    for life in every:
        uid = life[0].uid
        ours = [work for work in published if work.uid == uid]
        # What was known at the end of some batch was released from there, in the end.
        freed = {(work.gateway, str(address)) for work in ours for address in work.addresses}
        assert pairs.get(uid, set()) <= freed
        assert sum(work.reason == "deleted" for work in ours) <= 1
        assert not life[-1].addresses or any(work.reason == "deleted" for work in ours)
