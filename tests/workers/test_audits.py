"""The audit of one gateway: what it takes to call something wrong, and what becomes of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Literal

import pytest

from sandbox.cluster import SandboxCluster
from shared.kube.objects import Subnet, read_subnet
from shared.models import EIP, Audit, parse_work
from shared.queue import WorkQueue
from shared.reports import Finding, Kind
from shared.settings import load_settings
from tests.conftest import GATEWAY, Product
from tests.payloads import release
from workers.audits.comparison import Comparison, Expected, Suspicion, compare, findings, stuck
from workers.audits.mending import publish_leaks, what_became
from workers.audits.revived import revived
from workers.gateways.interface import Address, Snapshot
from workers.owners import Owners

SUBNET: Subnet = read_subnet(
    {"metadata": {"name": "external"}, "spec": {"cidrBlock": "10.1.69.0/24", "gateway": "10.1.69.254"}}
)
SETTINGS = load_settings(audit_pause=2, stuck_after=300)
NOW = 10_000.0
LIVE = EIP("u1", "eip1", "gw1", ("10.1.69.206",), "external", "", True, True, None, 7, NOW - 60)
LEAKED, KEPT = "10.1.69.205", "10.1.69.206"


def look(*addresses: str, eips: tuple[EIP, ...] = (LIVE,), pods: int = 1) -> tuple[Comparison, Owners]:
    owners = Owners()
    for eip in eips:
        owners.add(eip)
    snapshot = Snapshot(tuple(Address("net1", ip_address(address), 24) for address in addresses))
    snapshots = {f"pod-{number}": snapshot if number == 0 else Snapshot(()) for number in range(pods)}
    expected = Expected(owners, own=(), subnets=[SUBNET])
    return compare(snapshots, expected, inside=("lo", "eth0"), settings=SETTINGS), owners


def after(*looks: tuple[Comparison, Owners], pause: float = 2.0) -> list[tuple[Kind, str | None, bool]]:
    suspicion = Suspicion()
    for number, (comparison, _) in enumerate(looks):
        suspicion.look(comparison, NOW + number * pause)
    comparison, owners = looks[-1]
    found = findings("gw1", comparison, suspicion, owners, SETTINGS)
    return [(each.kind, each.address, each.mendable) for each in found]


def test_a_leak_is_what_was_seen_unowned_twice_with_a_pause_between() -> None:
    seen = look(LEAKED, KEPT)
    assert after(seen) == [(Kind.UNDECIDED, LEAKED, False)]
    assert after(seen, seen, pause=1.9) == [(Kind.UNDECIDED, LEAKED, False)]
    assert after(seen, seen) == [(Kind.LEAKED, LEAKED, True)]


def test_one_look_that_does_not_show_it_begins_anew() -> None:
    assert after(look(LEAKED, KEPT), look(KEPT), look(LEAKED, KEPT)) == [(Kind.UNDECIDED, LEAKED, False)]


def test_nothing_is_a_leak_while_an_eip_has_no_address() -> None:
    seen = look(LEAKED, KEPT, eips=(LIVE, replace(LIVE, uid="u2", name="new", addresses=(), placed=False)))
    assert after(seen, seen) == [(Kind.UNDECIDED, LEAKED, False)]


def test_missing_is_what_an_eip_owns_and_a_pod_lacks() -> None:
    assert after(look(), look()) == [(Kind.MISSING, KEPT, False)]
    assert after(look()) == []
    lacking = look(KEPT, pods=2)
    assert after(lacking, lacking) == [(Kind.MISSING, KEPT, False)]
    assert lacking[0].missing[KEPT].pods == ("pod-1",)


@pytest.mark.parametrize("state", [{"placed": False, "ready": False}, {"terminating_since": NOW - 5}])
def test_what_kube_ovn_has_not_placed_or_is_taking_away_is_not_missing(state: dict[str, Any]) -> None:
    seen = look(eips=(replace(LIVE, **state),))
    assert after(seen, seen) == []


def test_an_address_that_another_eip_takes_over_meanwhile_is_another_case() -> None:
    assert after(look(), look(eips=(replace(LIVE, uid="u2", name="eip2"),))) == []


@pytest.mark.parametrize(
    ("state", "is_stuck"),
    [
        ({}, False),
        ({"terminating_since": NOW - 299}, False),
        ({"terminating_since": NOW - 301}, True),
        ({"addresses": (), "created": NOW - 299}, False),
        ({"addresses": (), "created": NOW - 301}, True),
    ],
)
def test_what_is_stuck(state: dict[str, Any], is_stuck: bool) -> None:
    assert [each.kind for each in stuck("gw1", [replace(LIVE, **state)], NOW, SETTINGS)] == [Kind.STUCK] * is_stuck


@pytest.mark.server
@pytest.mark.parametrize(
    ("created", "uid", "is_revived"),
    [(1, "anew", True), (59, "anew", True), (61, "anew", False), (-10, "anew", False), (1, "u1", False)],
)
def test_what_is_revived(work_queue: WorkQueue, created: float, uid: str, is_revived: bool) -> None:
    gone = parse_work(release())
    work_queue.publish_now([gone], "published")
    eip = replace(LIVE, name="eip-1", uid=uid, created=gone.seen_at + created)
    assert [each.kind for each in revived(work_queue.records, [eip])] == [Kind.REVIVED] * is_revived


@pytest.fixture
def product(make_product: Callable[..., Product], cluster: SandboxCluster) -> Product:
    product = make_product(driver="netlink", look_again_after=(0.5,))
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, KEPT)
    cluster.pod(GATEWAY).namespace.ip("address", "add", f"{LEAKED}/24", "dev", "net1")
    return product


def publish(
    product: Product, reason: Literal["periodic", "requested", "deleted"] = "requested", *, apply: bool = True
) -> str:
    audit = Audit(
        id=f"audit-{reason}-{int(apply)}",
        cluster=product.api.cluster_uid(),
        gateway=GATEWAY,
        eip=None,
        uid=None,
        seen_at=time.time(),
        reason=reason,
        apply=apply,
    )
    product.work_queue.publish_now([audit], "published")
    return audit.id


@pytest.mark.kernel
@pytest.mark.server
def test_an_audit_that_only_reports_releases_nothing(product: Product, cluster: SandboxCluster) -> None:
    audit = publish(product, "periodic", apply=False)
    assert product.finish(audit) == ["audited"]
    assert LEAKED in cluster.addresses(GATEWAY)
    assert product.records.find(LEAKED) == []
    report = product.work_queue.reports.of(GATEWAY)
    assert report is not None
    assert {each.ip: each.owner for each in report.carried if each.ip in (KEPT, LEAKED)} == {KEPT: "kept", LEAKED: None}
    assert {(each.kind, each.address) for each in report.findings if each.kind is not Kind.PROTECTED} == {
        (Kind.LEAKED, LEAKED)
    }


@pytest.mark.kernel
@pytest.mark.server
def test_an_audit_that_applies_releases_what_it_found(product: Product, cluster: SandboxCluster) -> None:
    audit = publish(product)
    assert product.finish(audit) == ["audited"]
    assert product.finish(LEAKED) == ["reclaimed"]
    assert LEAKED not in cluster.addresses(GATEWAY)
    assert KEPT in cluster.addresses(GATEWAY)


@pytest.mark.kernel
@pytest.mark.server
def test_an_audit_tells_of_every_leak_it_released_also_of_what_is_gone_by_its_last_look(
    product: Product, cluster: SandboxCluster
) -> None:
    product.settings = load_settings(**{**product.settings.model_dump(), "look_again_after": (0.2, 6)})
    audit = publish(product, "deleted")
    assert product.finish(LEAKED) == ["reclaimed"]
    assert product.records.outcome(audit) is None, "the last look is still to come"
    assert product.finish(audit) == ["audited"]
    outcome = product.records.events(audit)[-1]
    assert outcome["leaked"] == [LEAKED]
    assert LEAKED not in cluster.addresses(GATEWAY)


@pytest.mark.kernel
@pytest.mark.server
def test_an_eip_that_never_gets_an_address_keeps_no_report_back(product: Product, cluster: SandboxCluster) -> None:
    cluster.stop_controller()
    cluster.create_eip("waits", GATEWAY, wait_ready=False)
    hasty = load_settings(**{**product.settings.model_dump(), "stuck_after": 0.5})
    product.settings = hasty
    audit = publish(product, "periodic", apply=False)
    assert product.finish(audit) == ["audited"]
    report = product.work_queue.reports.of(GATEWAY)
    assert report is not None
    found = {(each.kind, each.address, each.eip) for each in report.findings if each.kind is not Kind.PROTECTED}
    assert found == {(Kind.UNDECIDED, LEAKED, None), (Kind.STUCK, None, "waits")}
    assert LEAKED in cluster.addresses(GATEWAY)


@pytest.mark.kernel
@pytest.mark.server
def test_the_report_of_a_gateway_goes_with_it(product: Product, cluster: SandboxCluster) -> None:
    assert product.finish(publish(product, apply=False)) == ["audited"]
    assert product.work_queue.reports.of(GATEWAY) is not None
    cluster.remove_gateway(GATEWAY)
    assert product.finish(publish(product)) == ["gateway_gone"]
    assert product.work_queue.reports.of(GATEWAY) is None


@pytest.mark.kernel
@pytest.mark.server
def test_a_leak_that_is_being_released_is_not_released_twice(product: Product) -> None:
    assert product.finish(publish(product, apply=False)) == ["audited"]
    reports, cluster_uid = product.work_queue.reports.all(), product.api.cluster_uid()
    (first,) = publish_leaks(product.work_queue, reports, cluster_uid, "test")
    later = [replace(each, findings=tuple(_later(found) for found in each.findings)) for each in reports]
    (second,) = publish_leaks(product.work_queue, later, cluster_uid, "test")
    assert second == first
    assert what_became(product.work_queue, [first]) == {}
    assert product.finish(LEAKED) == ["reclaimed"]
    assert what_became(product.work_queue, [first]) == {first: "reclaimed"}


def _later(finding: Finding) -> Finding:
    return replace(finding, since=finding.since + 100)
