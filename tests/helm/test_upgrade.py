"""Install, upgrade with other settings, go back: no release is lost, of two hundred that are queued all the while and of
a hundred more that come meanwhile.

The API server, the server that the chart brings, gateways and processes are real; controllers and kubelets are
`tests.helm.nodes` and `tests.helm.gateways`.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.connection import connect
from shared.queue import WorkQueue
from shared.settings import load_settings
from tests.helm.chart import NETLINK, Values
from tests.helm.cluster import Installation
from tests.helm.conftest import Install
from tests.helm.gateways import RealGateways
from tests.helm.nodes import Nodes
from tests.helm.valkey import BundledValkey
from tests.kube.envtest import RealApiServer
from tests.waiting import eventually

pytestmark = [pytest.mark.envtest, pytest.mark.kernel, pytest.mark.server, pytest.mark.timeout(600)]

NODES = ("node-a", "node-b")
HELD = {f"held-{number}": NODES[number % 2] for number in range(8)}
"""Gateways whose releases wait until the end for an EIP without an address, and their nodes."""
BUSY = {f"busy-{number}": NODES[number % 2] for number in range(4)}
"""Gateways whose releases are done meanwhile."""
EACH = 25
PACE = 0.15
"""Seconds between deletions while the workloads are replaced."""
INSTALLED: Values = {**NETLINK, "settings.holdLimit": 600, "settings.auditInterval": 0}
UPGRADED: Values = {**INSTALLED, "settings.logLevel": "debug", "settings.jobTimeout": 50, "settings.busyPause": 0.5}


def password(installation: Installation, name: str) -> str:
    return base64.b64decode(installation.object("Secret", name)["data"]["password"]).decode()


@pytest.fixture
def gateways(real_api: RealApiServer, install: Install, tmp_path: Path) -> Iterator[RealGateways]:
    with RealGateways(real_api, tmp_path, NODES) as running:
        for number, (name, node) in enumerate({**HELD, **BUSY}.items()):
            running.add_gateway(name, node)
            running.add_eips(name, {f"{name}-{host}": f"10.2.{number}.{host}" for host in range(1, EACH + 1)})
            running.add_eips(name, {f"{name}-stays": f"10.2.{number}.200"})
        yield running


@pytest.fixture
def installation(install: Install) -> Installation:
    return install(INSTALLED)


@pytest.fixture
def valkey(installation: Installation, tmp_path: Path) -> Iterator[BundledValkey]:
    config = installation.object("ConfigMap", "eip-reclaimer-valkey")
    with BundledValkey(config, tmp_path / "valkey", password(installation, "eip-reclaimer-valkey")) as running:
        yield running


@pytest.fixture
def nodes(installation: Installation, valkey: BundledValkey, gateways: RealGateways) -> Iterator[Nodes]:
    resolved = {"eip-reclaimer-valkey:6379": f"127.0.0.1:{valkey.port}"}
    # The namespaces of pods are found by their UID: no process here is in a pod's cgroup.
    found = Nodes(installation, NODES, resolved, {"EIP_RECLAIMER_NETNS_DIR": str(gateways.netns_dir)})
    yield found
    found.close()


def test_no_release_is_lost_over_an_upgrade_and_a_rollback(
    installation: Installation, nodes: Nodes, valkey: BundledValkey, gateways: RealGateways
) -> None:
    url = f"redis://eip-reclaimer:{valkey.password}@127.0.0.1:{valkey.port}/0"
    work_queue = WorkQueue(connect(load_settings(redis_url=url)), load_settings(redis_url=url))
    works = {
        f"{name}-{host}": f"release-{gateways.uid(f'{name}-{host}')}"
        for name in (*HELD, *BUSY)
        for host in range(1, EACH + 1)
    }
    held = [work for eip, work in works.items() if eip.startswith("held")]
    assert (len(held), len(works)) == (200, 300)
    nodes.roll_out()
    assert {name: len(nodes.of(f"eip-reclaimer-{name}")) for name in ("producer", "worker-exec", "worker-netlink")} == {
        "producer": 2,
        "worker-exec": 2,
        "worker-netlink": 2,
    }
    test = nodes.run(installation.test_pod())
    assert test.status == 0, test.last_words()
    assert "all is well" in test.log.read_text()
    secrets = {name: password(installation, name) for name in ("eip-reclaimer-valkey", "eip-reclaimer-dashboard")}
    for name in HELD:
        gateways.add_waiting_eip(f"{name}-waits", name)
    for name in HELD:
        for host in range(1, EACH + 1):
            gateways.delete_eip(f"{name}-{host}")
    eventually(lambda: all(work_queue.records.work(work) for work in held), "two hundred releases to be published")

    first = list(nodes.running)
    deletions = threading.Thread(target=delete_one_after_another, args=(gateways,))
    deletions.start()
    installation.upgrade(values=UPGRADED)
    nodes.roll_out()
    second = list(nodes.running)
    assert not {pod.name for pod in first} & {pod.name for pod in second}
    assert {pod.variable("EIP_RECLAIMER_LOG_LEVEL") for pod in second} == {"debug"}
    assert not any(outcomes(work_queue, held))
    installation.rollback()
    nodes.roll_out()
    assert {pod.variable("EIP_RECLAIMER_LOG_LEVEL") for pod in nodes.running} == {"info"}
    assert installation.revisions() == [(1, "superseded"), (2, "superseded"), (3, "deployed")]
    deletions.join()
    assert not any(outcomes(work_queue, held))

    for name in HELD:
        gateways.delete_eip(f"{name}-waits")
    eventually(lambda: all(outcomes(work_queue, works.values())), "all releases to end", 120)
    assert set(outcomes(work_queue, works.values())) == {"reclaimed"}
    for work in works.values():
        assert events(work_queue, work).count("outcome") == 1, events(work_queue, work)
        assert events(work_queue, work).count("published") == 1
        assert events(work_queue, work).count("failed") == 0
    for number, name in enumerate((*HELD, *BUSY)):
        base, *others = gateways.addresses(name)
        assert others == [f"10.2.{number}.200"], name
        assert base.startswith("10.2.255.")
    assert {name: password(installation, name) for name in secrets} == secrets
    nodes.settle()
    assert [(pod.name, status, killed) for pod, status, killed in nodes.ended if killed or status != 0] == []
    assert len(nodes.ended) == len(first) + len(second)


def delete_one_after_another(gateways: RealGateways) -> None:
    for host in range(1, EACH + 1):
        for name in BUSY:
            gateways.delete_eip(f"{name}-{host}")
            time.sleep(PACE)


def outcomes(work_queue: WorkQueue, works: Any) -> list[str | None]:
    return [work_queue.records.outcome(work) for work in works]


def events(work_queue: WorkQueue, work: str) -> list[str]:
    stored: list[bytes] = work_queue.redis.lrange(work_queue.keys.trace(work), 0, -1)  # type: ignore[assignment]
    return [json.loads(each)["event"] for each in stored]
