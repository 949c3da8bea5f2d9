"""Payloads are strict: whatever is not exactly one of ours is rejected, with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidPayloadError
from shared.models import EIP, Audit, Confirmation, Release, parse_work, work_to_dict
from tests.payloads import RELEASE, confirmation

COMMON = ("id", "cluster", "gateway", "eip", "uid", "namespace", "seen_at")
CONFIRMATION = confirmation()
AUDIT = {**{key: RELEASE[key] for key in COMMON}, "kind": "audit", "reason": "deleted", "apply": False}


@pytest.mark.parametrize(
    ("payload", "model"), [(RELEASE, Release), (CONFIRMATION, Confirmation), (AUDIT, Audit)], ids=lambda p: str(p)[:20]
)
def test_work_is_the_same_after_a_journey(payload: dict[str, Any], model: type) -> None:
    work = parse_work(payload)
    assert isinstance(work, model)
    assert work_to_dict(work) == payload
    assert parse_work(json.dumps(payload)) == work


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "command"}, "kind"),
        ({"addresses": []}, "addresses"),
        ({"addresses": "10.1.69.205"}, "addresses"),
        ({"addresses": ["10.1.69.205"] * 9}, "addresses"),
        ({"addresses": ["10.1.69.205/24"]}, "addresses"),
        ({"addresses": ["10.1.69.205; reboot"]}, "addresses"),
        ({"addresses": [167855565]}, "addresses"),
        ({"addresses": ["::ffff:10.1.69.205"]}, "IPv4-mapped"),
        ({"addresses": ["fe80::1%net1"]}, "zoned"),
        ({"addresses": ["127.0.0.1"]}, "cannot be an EIP's address"),
        ({"addresses": ["224.0.0.1"]}, "cannot be an EIP's address"),
        ({"addresses": ["169.254.1.1"]}, "cannot be an EIP's address"),
        ({"addresses": ["0.0.0.0"]}, "cannot be an EIP's address"),
        ({"gateway": "gw1; reboot"}, "gateway"),
        ({"gateway": "../gw1"}, "gateway"),
        ({"gateway": "GW1"}, "gateway"),
        ({"gateway": "gw1\n"}, "gateway"),
        ({"gateway": None}, "gateway"),
        ({"id": "release u1"}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"seen_at": 0}, "seen_at"),
        ({"seen_at": "1000.0"}, "seen_at"),
        ({"seen_at": float("nan")}, "payload"),
        ({"was_ready": 1}, "was_ready"),
        ({"reason": "because"}, "reason"),
        ({"extra": 1}, "extra"),
        ({"subnet": ""}, "subnet"),
    ],
    ids=str,
)
def test_what_is_not_ours_is_rejected_with_the_field_that_is_wrong(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidPayloadError, match=named) as rejected:
        parse_work({**RELEASE, **change})
    assert "Nothing was done" in str(rejected.value)


@pytest.mark.parametrize("field", [field for field in RELEASE if field not in ("kind", "namespace", "subnet")])
def test_a_payload_without_a_field_is_rejected(field: str) -> None:
    with pytest.raises(InvalidPayloadError, match=field):
        parse_work({key: value for key, value in RELEASE.items() if key != field})


@pytest.mark.parametrize("payload", [None, [], 17, "", "{", b"\xff", "[" * 100_000, {"kind": "release"}, object()])
def test_what_is_no_payload_at_all_is_rejected(payload: object) -> None:
    with pytest.raises(InvalidPayloadError, match="payload rejected"):
        parse_work(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([RELEASE, CONFIRMATION, AUDIT]), st.data())
def test_a_payload_edited_at_random_is_read_as_it_stands_or_rejected(
    payload: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from([*payload, "new"]))
    edited = {**payload, field: data.draw(json_values)}
    try:
        work = parse_work(edited)
    except InvalidPayloadError:
        return
    assert work_to_dict(work) == edited


def test_an_eip_is_the_same_after_a_journey() -> None:
    eip = EIP("u1", "eip-1", "gw1", ("10.1.69.205", "fd00::5"), "", "kube-system", True, True, False, 12, 1000.5)
    assert EIP.from_json(eip.to_json()) == EIP.from_json(eip.to_json().encode()) == eip
