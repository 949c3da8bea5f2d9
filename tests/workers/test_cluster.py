"""Owners are found also while Kube-OVN is just labelling them, and on gateways that have just come."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, cast

import pytest

from sandbox.cluster import SandboxCluster
from sandbox.objects import eip, eip_labels
from shared.kube.api import EIPS, KubeApi, Object
from shared.kube.objects import GATEWAY_LABEL
from shared.queue import WorkQueue
from shared.settings import Settings
from tests.conftest import GATEWAY
from workers import cluster as cluster_module
from workers import places as places_module
from workers.cluster import Cluster

pytestmark = pytest.mark.server

ADDRESS = ip_address("10.1.69.205")


class Labelling:
    """An API with very many gateways, in which an EIP is labelled right after whoever asks has had the first answer."""

    def __init__(self) -> None:
        self.object: Any = eip("new", "gw1", v4ip="10.1.69.205")
        self.object["metadata"] |= {"uid": "u1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}

    def pages(self, _path: str, limit: str) -> Iterator[tuple[list[Object], int]]:
        yield [{"metadata": {"name": f"gw{number}"}, "spec": {}} for number in range(int(limit))], 7

    def list_objects(self, _path: str, **query: str) -> tuple[list[Object], int]:
        labelled = GATEWAY_LABEL in self.object["metadata"].get("labels", {})
        wanted = not query["labelSelector"].startswith("!")
        found = [dict(self.object)] if labelled == wanted else []
        self.object["metadata"] = {**self.object["metadata"], "labels": eip_labels("gw1", "external", ["10.1.69.205"])}
        return found, 7


def test_an_owner_that_is_labelled_between_two_lists_is_found(work_queue: WorkQueue, settings: Settings) -> None:
    cluster = Cluster(cast("KubeApi", Labelling()), work_queue, settings)
    assert cluster.owners("gw1", [ADDRESS]).of(ADDRESS) == "EIP new"


@pytest.fixture
def lists(cluster: SandboxCluster) -> Any:
    """Counts the lists of EIPs."""
    return lambda: cluster.server.requests.count(verb="list", prefix=EIPS)


@pytest.fixture
def worker(cluster: SandboxCluster, work_queue: WorkQueue, settings: Settings) -> Cluster:
    settings = settings.model_copy(update={"kubeconfig": cluster.kubeconfig})
    return Cluster(KubeApi(settings), work_queue, settings)


def owner(worker: Cluster, gateway: str = GATEWAY) -> str | None:
    return worker.owners(gateway, [ADDRESS]).of(ADDRESS)


@pytest.mark.kernel
@pytest.mark.parametrize("too_much", ["nothing", "gateways", "characters"])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_owner_is_found_whatever_others_there_are(
    worker: Cluster,
    cluster: SandboxCluster,
    lists: Any,
    monkeypatch: pytest.MonkeyPatch,
    too_much: str,
    labelled: bool,
) -> None:
    if too_much == "gateways":
        monkeypatch.setattr(places_module, "MOST_GATEWAYS", 2)
    if too_much == "characters":
        monkeypatch.setattr(cluster_module, "LONGEST_SELECTOR", 60)
    for gateway in (GATEWAY, "another", "a-third"):
        cluster.add_gateway(gateway)
    cluster.create_eip("theirs", "another", "10.1.69.206")
    if not labelled:
        cluster.stop_controller()
    cluster.create_eip("ours", GATEWAY, str(ADDRESS), wait_ready=labelled)
    before = lists()
    assert owner(worker) == "EIP ours"
    assert lists() - before == (1 if too_much == "nothing" else 2)
    assert owner(worker, "another") is None
    assert owner(worker, "a-third") is None


@pytest.mark.kernel
def test_gateways_that_come_and_go_hide_no_owner(worker: Cluster, cluster: SandboxCluster) -> None:
    cluster.add_gateway("first")
    assert owner(worker, "first") is None
    # Neither is among the names that are remembered.
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("ours", GATEWAY, str(ADDRESS))
    assert owner(worker) == "EIP ours"
    cluster.remove_gateway("first")
    assert owner(worker) == "EIP ours"
    assert owner(worker, "first") is None


@pytest.mark.kernel
def test_the_only_gateways_owners_are_found(worker: Cluster, cluster: SandboxCluster, lists: Any) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("ours", GATEWAY, str(ADDRESS))
    before = lists()
    assert owner(worker) == "EIP ours"
    assert lists() - before == 1
