"""What is kept of audits, and what several of them tell together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from shared.keys import Keys
from shared.reports import Carried, Finding, GatewayReport, Kind, Reports, merged, with_doubles

IP = "10.1.69.205"


def carried(ip: str = IP, owner: str | None = None, pods: tuple[str, ...] = ("pod-0",)) -> Carried:
    return Carried(ip, 24, "net1", pods, owner, "external")


def leak(gateway: str, ip: str = IP) -> Finding:
    return Finding(Kind.LEAKED, gateway, ip, None, "nobody owns it", 1000.0, mendable=True, subnet="external")


def report(gateway: str, *addresses: Carried, findings: tuple[Finding, ...] = ()) -> GatewayReport:
    return GatewayReport(gateway, 1000.0, "audit-1", "kube-system", ("pod-0",), addresses, findings)


def kinds(reports: list[GatewayReport]) -> dict[str, list[tuple[Kind, bool]]]:
    return {each.gateway: [(found.kind, found.mendable) for found in each.findings] for each in reports}


@pytest.mark.server
def test_the_last_report_of_each_gateway_is_kept(redis: Redis) -> None:
    reports = Reports(redis, Keys("test"))
    first, second = report("gw1", carried(), findings=(leak("gw1"),)), report("gw2")
    reports.keep([first, second])
    assert reports.all() == [first, second]
    reports.keep([replace(first, findings=())])
    assert reports.of("gw1") == replace(first, findings=())
    reports.forget(["gw1"])
    assert reports.of("gw1") is None
    reports.keep_only([report("gw3")])
    assert [each.gateway for each in reports.all()] == ["gw3"]


def test_a_leak_that_another_gateway_carries_too_is_doubled() -> None:
    reports = [report("gw1", carried(), findings=(leak("gw1"),)), report("gw2", carried(owner="eip1"))]
    assert kinds(with_doubles(reports)) == {"gw1": [(Kind.DOUBLED, True)], "gw2": []}


def test_what_nobody_owns_on_either_gateway_is_doubled_on_both() -> None:
    reports = [report(name, carried(), findings=(leak(name),)) for name in ("gw1", "gw2")]
    assert kinds(with_doubles(reports)) == {"gw1": [(Kind.DOUBLED, True)], "gw2": [(Kind.DOUBLED, True)]}


def test_what_an_eip_of_each_gateway_owns_is_told_and_left_alone() -> None:
    reports = [report("gw1", carried(owner="eip1")), report("gw2", carried(owner="eip2"))]
    told = with_doubles(reports)
    assert kinds(told) == {"gw1": [(Kind.DOUBLED, False)], "gw2": [(Kind.DOUBLED, False)]}
    assert "EIP eip2 of gateway gw2" in told[0].findings[0].why


def test_the_same_address_in_another_subnet_is_another_address() -> None:
    elsewhere = replace(carried(owner="eip1"), subnet="another")
    reports = [report("gw1", carried(), findings=(leak("gw1"),)), report("gw2", elsewhere)]
    assert kinds(with_doubles(reports))["gw1"] == [(Kind.LEAKED, True)]


@pytest.mark.server
def test_what_is_doubled_follows_the_reports(redis: Redis) -> None:
    reports = Reports(redis, Keys("test"))
    reports.keep([report("gw1", carried(), findings=(leak("gw1"),)), report("gw2", carried(owner="eip1"))])
    assert kinds(reports.all())["gw1"] == [(Kind.DOUBLED, True)]
    reports.keep([report("gw2")])
    assert kinds(reports.all())["gw1"] == [(Kind.LEAKED, True)]


@pytest.mark.server
def test_what_was_released_since_is_told_no_more(redis: Redis) -> None:
    keys = Keys("test")
    reports = Reports(redis, keys)
    reports.keep([report("gw1", carried(), carried("10.1.69.206", "eip1"), findings=(leak("gw1"),))])
    redis.hset(keys.record(leak("gw1").release_id), "gateway", "gw1")
    assert reports.all()[0].findings == (leak("gw1"),)
    redis.hset(keys.record(leak("gw1").release_id), "outcome", "reclaimed")
    (told,) = reports.all()
    assert (told.findings, [each.ip for each in told.carried]) == ((), ["10.1.69.206"])
    assert reports.of("gw1") == told


def test_parts_of_one_audit_on_different_nodes_are_one_report() -> None:
    first = report("gw1", carried(), carried("10.1.69.206", "eip1"), findings=(leak("gw1"),))
    second = replace(
        report("gw1", carried("10.1.69.206", "eip1", ("pod-1",)), carried("10.1.69.207", pods=("pod-1",))),
        pods=("pod-1",),
        at=1010.0,
        findings=(leak("gw1", "10.1.69.207"),),
    )
    whole = merged(first, second)
    assert (whole.pods, whole.at) == (("pod-0", "pod-1"), 1010.0)
    assert {each.ip: each.pods for each in whole.carried} == {
        IP: ("pod-0",),
        "10.1.69.206": ("pod-0", "pod-1"),
        "10.1.69.207": ("pod-1",),
    }
    assert {each.address for each in whole.findings} == {IP, "10.1.69.207"}


def test_of_a_pod_that_was_looked_at_twice_the_later_look_counts() -> None:
    assert merged(report("gw1", carried(), findings=(leak("gw1"),)), report("gw1")) == report("gw1")
