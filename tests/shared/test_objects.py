"""Kube-OVN's objects, as its releases write them and as nobody should."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from shared.errors import MalformedObjectError
from shared.kube.objects import base_addresses, claimed_texts, is_active, read_eip, read_gateway, read_subnet

EIP: dict[str, Any] = {
    "metadata": {
        "name": "eip-205",
        "uid": "u1",
        "resourceVersion": "12",
        "creationTimestamp": "2026-05-01T10:00:00Z",
        "labels": {"ovn.kubernetes.io/vpc-nat-gw-name": "gw1"},
    },
    "spec": {"natGwDp": "gw1", "v4ip": "10.1.69.205", "v6ip": "", "macAddress": "", "externalSubnet": ""},
    "status": {"ready": True, "ip": "10.1.69.205"},
}


def eip(**sections: Any) -> dict[str, Any]:
    return {**EIP, **{name: {**EIP[name], **change} for name, change in sections.items()}}


def test_an_eip_is_read() -> None:
    read = read_eip(EIP)
    assert (read.uid, read.name, read.gateway, read.addresses) == ("u1", "eip-205", "gw1", ("10.1.69.205",))
    assert (read.ready, read.terminating, read.resource_version) == (True, False, 12)
    assert read.created == 1777629600.0


@pytest.mark.parametrize(
    ("spec", "status", "addresses"),
    [
        ({"v6ip": "FD00:0::5"}, {}, ("10.1.69.205", "fd00::5")),
        ({"v4ip": "", "v6ip": ""}, {"ip": "10.1.69.205,fd00::5"}, ("10.1.69.205", "fd00::5")),
        ({"v4ip": ""}, {"ip": ""}, ()),
        # Whatever it claims in either place, the gateway may carry.
        ({"v4ip": "10.1.69.206"}, {}, ("10.1.69.205", "10.1.69.206")),
    ],
)
def test_addresses_are_those_of_spec_and_status(
    spec: dict[str, Any], status: dict[str, Any], addresses: tuple[str, ...]
) -> None:
    assert read_eip(eip(spec=spec, status=status)).addresses == addresses


@pytest.mark.parametrize(
    ("spec", "status", "placed"),
    [
        ({}, {"ready": True}, True),
        ({}, {"ready": False, "ip": "10.1.69.205"}, True),
        ({"macAddress": "00:00:00:12:34:56"}, None, True),
        ({"macAddress": ""}, {"ready": False, "ip": ""}, False),
        ({}, None, False),
    ],
)
def test_an_eip_is_placed_once_the_object_shows_what_is_written_after_eip_add(
    spec: dict[str, Any], status: dict[str, Any] | None, placed: bool
) -> None:
    given = {"natGwDp": "gw1", "v4ip": "10.1.69.205", **spec}
    assert read_eip({**EIP, "spec": given, "status": status}).placed is placed


def test_an_eip_without_status_is_not_ready() -> None:
    assert not read_eip({**EIP, "status": None}).ready
    assert not read_eip(eip(status={"ready": "true"})).ready


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"metadata": {"name": "another"}}, "name", "another"),
        ({"metadata": {"uid": "another"}}, "uid", "another"),
        ({"metadata": {"resourceVersion": "778"}}, "resource_version", 778),
        ({"metadata": {"creationTimestamp": {}}}, "created", 0.0),
        ({"metadata": {"deletionTimestamp": None}}, "terminating_since", 0.0),
        ({"spec": {"natGwDp": "gw2"}}, "gateway", "gw2"),
        ({"spec": {"externalSubnet": "another"}}, "subnet", "another"),
        ({"spec": {"namespace": "another"}}, "namespace", "another"),
        ({"spec": {"v4ip": "10.1.69.99"}, "status": {"ip": ""}}, "addresses", ("10.1.69.99",)),
        ({"status": {"ready": 1}}, "ready", False),
    ],
)
def test_an_eip_is_read_as_it_is_whatever_is_remembered_of_one_like_it(
    change: dict[str, Any], field: str, value: object
) -> None:
    like_it = read_eip(EIP)
    assert getattr(like_it, field) != value
    assert getattr(read_eip(eip(**change)), field) == value
    assert read_eip(EIP) == like_it


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (None, "without metadata"),
        ([], "without metadata"),
        ({}, "without metadata"),
        ({**EIP, "spec": None}, "names no gateway"),
        ({**EIP, "spec": "gw1"}, "spec is no object"),
        ({**EIP, "status": []}, "status is no object"),
        (eip(metadata={"uid": None}), "no name, uid"),
        (eip(metadata={"resourceVersion": "x"}), "numeric resourceVersion"),
        (eip(metadata={"name": 7}), "not text"),
        (eip(spec={"natGwDp": ""}), "names no gateway"),
        (eip(spec={"natGwDp": "gw 1"}), "cannot be an object's name"),
        (eip(spec={"externalSubnet": "a/b"}), "cannot be an object's name"),
        (eip(spec={"v4ip": 17}), "v4ip is 17, not text"),
        (eip(spec={"v4ip": {}}), "not text"),
        (eip(status={"ip": ["10.1.69.206"]}), "not text"),
        (eip(spec={"v4ip": "10.1.69"}), "10.1.69"),
        (eip(spec={"v6ip": "::ffff:10.1.69.206"}), "IPv4-mapped"),
        (eip(status={"ip": "10.1.69.205 or so"}), "or so"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_is_wrong(obj: object, told: str) -> None:
    with pytest.raises(MalformedObjectError, match=told):
        read_eip(obj)


def test_what_cannot_be_read_still_claims_what_it_names() -> None:
    odd = eip(spec={"natGwDp": None, "v4ip": " 10.1.69.205 ", "v6ip": 17}, status={"ip": "10.1.69.206"})
    assert claimed_texts(odd) >= {"10.1.69.205", "10.1.69.206"}
    assert claimed_texts(None) == claimed_texts({"spec": []}) == set()


def subnet(**spec: Any) -> Any:
    return read_subnet({"metadata": {"name": "external"}, "spec": {"cidrBlock": "10.1.69.0/24", **spec}})


@pytest.mark.parametrize(
    ("cidr", "address", "role"),
    [
        ("10.1.69.0/24", "10.1.69.0", "the network address"),
        ("10.1.69.0/24", "10.1.69.255", "the broadcast address"),
        ("10.1.69.0/24", "10.1.69.254", "the gateway"),
        ("10.1.69.0/24", "10.1.69.205", None),
        ("10.1.69.4/30", "10.1.69.4", "the network address"),
        ("10.1.69.4/30", "10.1.69.7", "the broadcast address"),
        ("10.1.69.4/31", "10.1.69.4", None),
        ("10.1.69.4/31", "10.1.69.5", None),
        ("10.1.69.4/32", "10.1.69.4", None),
        ("fd00::/64", "fd00::", "the network address"),
        ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", None),
        ("10.1.69.0/24,fd00::/64", "fd00::5", None),
    ],
)
def test_a_subnets_own_addresses_are_known(cidr: str, address: str, role: str | None) -> None:
    told = subnet(cidrBlock=cidr, gateway="10.1.69.254").own_address(ip_address(address))
    assert told == (None if role is None else f"{role} of subnet external")


@pytest.mark.parametrize(
    ("address", "excluded"),
    [("10.1.69.1", True), ("10.1.69.9", True), ("10.1.69.11", True), ("10.1.69.10", False), ("fd00::1", False)],
)
def test_excluded_ranges_are_known(address: str, excluded: bool) -> None:
    assert subnet(excludeIps=["10.1.69.1..10.1.69.9", "10.1.69.11"]).excludes(ip_address(address)) is excluded


@pytest.mark.parametrize(
    "spec", [{"cidrBlock": "10.1.69.0/33"}, {"cidrBlock": 7}, {"gateway": "x"}, {"excludeIps": ["a..b"]}]
)
def test_a_subnet_that_cannot_be_read_is_told(spec: dict[str, Any]) -> None:
    with pytest.raises(MalformedObjectError):
        subnet(**spec)


def test_a_gateways_subnets_come_from_its_spec_else_from_its_status() -> None:
    named = {"metadata": {"name": "gw1"}, "spec": {"externalSubnets": ["a", 7]}, "status": {"externalSubnets": ["b"]}}
    assert read_gateway(named).external_subnets == ("a",)
    assert read_gateway({**named, "spec": {}}).external_subnets == ("b",)
    assert read_gateway({"metadata": {"name": "gw1"}}).external_subnets == ()


def test_a_pods_own_addresses_are_those_of_its_annotations_and_its_status() -> None:
    pod: dict[str, Any] = {
        "metadata": {
            "annotations": {
                "ovn.kubernetes.io/ip_address": "10.0.0.9,fd01::9",
                "external.kube-system.kubernetes.io/ip_address": "10.1.69.201",
                "k8s.v1.cni.cncf.io/network-status": '[{"ips": ["10.1.70.1"]}, {"name": "x"}]',
                "other/annotation": "10.9.9.9",
            }
        },
        "status": {"podIPs": [{"ip": "10.0.0.9"}, {}, "odd"]},
    }
    found = {"10.0.0.9", "fd01::9", "10.1.69.201", "10.1.70.1"}
    assert base_addresses(pod) == {ip_address(text) for text in found}
    pod["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/network-status": "no json", "a.kubernetes.io/ip_address": "?"}
    assert base_addresses(pod) == {ip_address("10.0.0.9")}


@pytest.mark.parametrize(
    ("status", "metadata", "active"),
    [
        ({}, {}, True),
        ({"phase": "Pending"}, {}, False),
        ({}, {"deletionTimestamp": "2026-05-01T10:00:00Z"}, False),
        ({"containerStatuses": []}, {}, False),
        ({"containerStatuses": [{"name": "vpc-nat-gw", "state": {"waiting": {}}}]}, {}, False),
        ({"containerStatuses": [{"name": "sidecar", "state": {"running": {}}}]}, {}, False),
    ],
)
def test_a_pod_is_active_while_its_gateway_container_runs(
    status: dict[str, Any], metadata: dict[str, Any], active: bool
) -> None:
    running = {"phase": "Running", "containerStatuses": [{"name": "vpc-nat-gw", "state": {"running": {}}}]}
    pod = {"metadata": metadata, "status": {**running, **status}}
    assert is_active(pod, "vpc-nat-gw") is active
