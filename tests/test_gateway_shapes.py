"""A release end to end on gateways of every shape: HA pods on several nodes, several subnets, dual stack, bare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq import SimpleWorker

from sandbox.cluster import SandboxCluster
from tests.conftest import GATEWAY, Product, StartWorker
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

MakeProduct = Callable[..., Product]


@pytest.fixture(params=["exec", "netlink"])
def product(request: pytest.FixtureRequest, make_product: MakeProduct, cluster: SandboxCluster) -> Product:
    product = make_product(driver=request.param)
    cluster.controller.switches.leaks.wrong_argument = True
    return product


def test_a_dual_stack_eips_addresses_go_together(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_subnet("dual", "10.3.0.0/24,fd00:3::/64", "10.3.0.254,fd00:3::fe")
    cluster.add_gateway(GATEWAY, ["dual"])
    cluster.create_eip("kept", GATEWAY, "10.3.0.6", "fd00:3::6")
    cluster.create_eip("eip", GATEWAY, "10.3.0.5", "fd00:3::5")
    product.start_producer()
    before = cluster.addresses(GATEWAY)
    assert {"10.3.0.5", "fd00:3::5"} < set(before)
    cluster.delete_eip("eip")
    assert product.finish("eip") == ["reclaimed"]
    assert cluster.addresses(GATEWAY) == [each for each in before if each not in ("10.3.0.5", "fd00:3::5")]


def test_a_dual_stack_eip_whose_one_address_has_a_new_owner_loses_the_other_only(
    product: Product, cluster: SandboxCluster
) -> None:
    cluster.add_subnet("dual", "10.3.0.0/24,fd00:3::/64", "10.3.0.254,fd00:3::fe")
    cluster.add_gateway(GATEWAY, ["dual"])
    cluster.create_eip("eip", GATEWAY, "10.3.0.5", "fd00:3::5")
    product.start_producer()
    cluster.delete_eip("eip")
    cluster.create_eip("new", GATEWAY, "10.3.0.5", "fd00:3::9")
    assert product.finish("eip") == ["reclaimed"]
    addresses = cluster.addresses(GATEWAY)
    assert "10.3.0.5" in addresses
    assert "fd00:3::9" in addresses
    assert "fd00:3::5" not in addresses


def test_an_address_goes_from_the_interface_of_its_subnet(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_subnet("second", "10.4.0.0/24", "10.4.0.254")
    cluster.add_subnet("third", "10.5.0.0/28", "10.5.0.14")
    cluster.add_gateway(GATEWAY, ["second", "third"])
    cluster.create_eip("a", GATEWAY, "10.4.0.5", subnet="second")
    cluster.create_eip("b", GATEWAY, "10.5.0.5", subnet="third")
    product.start_producer()
    cluster.delete_eip("b")
    assert product.finish("b") == ["reclaimed"]
    assert "10.5.0.5" not in cluster.addresses(GATEWAY, "net2")
    assert "10.4.0.5" in cluster.addresses(GATEWAY, "net1")
    cluster.delete_eip("a")
    assert product.finish("a") == ["reclaimed"]
    assert "10.4.0.5" not in cluster.addresses(GATEWAY, "net1")


def test_a_gateway_without_a_default_eip_may_lose_its_last_address(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY, no_default_eip=True)
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    assert cluster.addresses(GATEWAY) == ["10.1.69.205"]
    cluster.delete_eip("eip")
    assert product.finish("eip") == ["reclaimed"]
    assert cluster.addresses(GATEWAY) == []


def test_a_pod_that_does_not_run_is_not_waited_for(product: Product, cluster: SandboxCluster) -> None:
    first, second = cluster.add_gateway(GATEWAY, replicas=2)
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.set_ready(GATEWAY, second.name, ready=False)
    cluster.delete_eip("eip")
    assert product.finish("eip") == ["reclaimed"]
    assert "10.1.69.205" not in cluster.addresses(GATEWAY, pod=first.name)


def test_a_pod_that_is_replaced_meanwhile_has_nothing_to_lose(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("kept", GATEWAY, "10.1.69.206")
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.delete_eip("eip")
    eventually(lambda: product.records.find("eip"), "the release")
    cluster.replace_pod(GATEWAY)
    eventually(lambda: "10.1.69.206" in cluster.addresses(GATEWAY), "the live EIP on the new pod")
    assert product.finish("eip") == ["already_absent"]
    assert "10.1.69.206" in cluster.addresses(GATEWAY)


def test_the_same_address_on_several_gateways_goes_from_its_own(product: Product, cluster: SandboxCluster) -> None:
    for name in ("gw-1", "gw-2", "gw-3"):
        cluster.add_gateway(name)
    cluster.create_eip("eip", "gw-1", "10.1.69.205")
    for name in ("gw-2", "gw-3"):
        cluster.pod(name).namespace.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    product.start_producer()
    cluster.delete_eip("eip")
    assert product.finish("eip") == ["reclaimed"]
    assert ["10.1.69.205" in cluster.addresses(name) for name in ("gw-1", "gw-2", "gw-3")] == [False, True, True]


class TestNetlinkOnSeveralNodes:
    """Each worker reaches the pods of its own node; a job travels until it has been on all of them."""

    @pytest.fixture
    def product(self, make_product: MakeProduct, cluster: SandboxCluster) -> Product:
        cluster.controller.switches.leaks.wrong_argument = True
        product = make_product()
        cluster.hosts.node = "node-1"
        cluster.add_gateway(GATEWAY, replicas=2, pods=1)
        cluster.hosts.node = "node-2"
        cluster.add_pod(GATEWAY)
        cluster.create_eip("kept", GATEWAY, "10.1.69.206")
        cluster.create_eip("eip", GATEWAY, "10.1.69.205")
        return product

    def release(self, product: Product, cluster: SandboxCluster) -> None:
        product.start_producer()
        cluster.delete_eip("eip")
        eventually(lambda: product.records.find("eip"), "the release")

    def carriers(self, cluster: SandboxCluster, address: str) -> list[str]:
        pods = cluster.pods(GATEWAY)
        return [pod.node for pod in pods if address in cluster.addresses(GATEWAY, pod=pod.name)]

    def test_a_release_is_done_on_the_pods_of_every_node(
        self, product: Product, cluster: SandboxCluster, start_worker: StartWorker
    ) -> None:
        assert self.carriers(cluster, "10.1.69.205") == ["node-1", "node-2"]
        for node in ("node-1", "node-2"):
            start_worker("netlink", node_name=node)
        eventually(lambda: len(SimpleWorker.all_keys(product.work_queue.redis)) == 2, "both workers")
        self.release(product, cluster)
        eventually(lambda: product.outcomes("eip") == ["reclaimed"], "the outcome")
        assert self.carriers(cluster, "10.1.69.205") == []
        assert self.carriers(cluster, "10.1.69.206") == ["node-1", "node-2"]
        queue = product.work_queue
        for name in (queue.name, queue.node_queue("node-1"), queue.node_queue("node-2")):
            assert queue.open(name).intermediate_queue.get_job_ids() == []

    def test_a_release_waits_for_a_worker_on_the_node_of_each_pod(
        self, product: Product, cluster: SandboxCluster, start_worker: StartWorker
    ) -> None:
        self.release(product, cluster)
        (work_id,) = product.records.find("eip")
        start_worker("netlink", node_name="node-1")
        eventually(lambda: product.records.events(work_id)[-1]["event"] == "failed, retried", "a try")
        assert product.outcomes("eip") == [None]
        assert self.carriers(cluster, "10.1.69.205") == ["node-2"]
        assert "node-2, where no worker with the netlink driver runs" in product.records.events(work_id)[-1]["reason"]
        start_worker("netlink", node_name="node-2")
        eventually(lambda: product.outcomes("eip") == ["reclaimed"], "the outcome")
        assert self.carriers(cluster, "10.1.69.205") == []

    def test_a_release_follows_a_pod_that_has_moved(
        self, product: Product, cluster: SandboxCluster, start_worker: StartWorker
    ) -> None:
        self.release(product, cluster)
        start_worker("netlink", node_name="node-1")
        (work_id,) = product.records.find("eip")
        eventually(lambda: product.records.events(work_id)[-1]["event"] == "failed, retried", "a try")
        cluster.hosts.node = "node-3"
        (gone,) = (pod for pod in cluster.pods(GATEWAY) if pod.node == "node-2")
        replaced = cluster.replace_pod(GATEWAY, gone.name)
        replaced.namespace.ip("addr", "replace", "10.1.69.205/24", "dev", "net1")
        start_worker("netlink", node_name="node-3")
        eventually(lambda: product.outcomes("eip") == ["reclaimed"], "the outcome")
        assert self.carriers(cluster, "10.1.69.205") == []
        assert self.carriers(cluster, "10.1.69.206") == ["node-1", "node-3"]
