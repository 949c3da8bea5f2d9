"""One release, end to end, on real parts: API, Redis protocol server, RQ, and the kernel's addresses."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from rq.serializers import JSONSerializer

from sandbox.cluster import SandboxCluster
from shared.errors import WrongClusterError
from shared.inventory import check_cluster
from tests.conftest import GATEWAY, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]
NetworkMaker = Callable[..., Product]


@pytest.fixture(params=["exec", "netlink"])
def product(request: pytest.FixtureRequest, make_product: NetworkMaker) -> Product:
    return make_product(driver=request.param, look_again_after=(0.5, 1.5), hold_limit=2)


def released(product: Product, name: str) -> bool:
    return bool(product.records.find(name))


def test_a_leaked_address_is_taken_off_and_nothing_else(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    for host in (202, 203, 205, 206, 208):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")
    product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    before = cluster.addresses(GATEWAY)
    cluster.delete_eip("eip-205")
    assert cluster.addresses(GATEWAY) == before
    assert product.finish("eip-205") == ["reclaimed"]
    assert cluster.addresses(GATEWAY) == [address for address in before if address != "10.1.69.205"]


def test_the_primary_goes_alone(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY, no_default_eip=True)
    for host in (205, 202, 203):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")
    namespace = cluster.pod(GATEWAY).namespace
    product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.delete_eip("eip-205")
    assert product.finish("eip-205") == ["reclaimed"]
    assert cluster.addresses(GATEWAY) == ["10.1.69.202", "10.1.69.203"]
    assert "default via 10.1.69.254" in namespace.ip("route")
    assert namespace.run("cat", "/proc/sys/net/ipv4/conf/net1/promote_secondaries").stdout.strip() == "0"


def test_an_address_that_a_healthy_controller_removed_is_already_absent(
    product: Product, cluster: SandboxCluster
) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("eip-205", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.delete_eip("eip-205")
    assert product.finish("eip-205") == ["already_absent"]


def test_an_address_with_a_new_owner_on_the_same_gateway_stays(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("old", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.delete_eip("old")
    cluster.create_eip("new", GATEWAY, "10.1.69.205")
    eventually(lambda: released(product, "old"), "the release")
    assert product.finish("old") == ["reassigned"]
    assert "10.1.69.205" in cluster.addresses(GATEWAY)


def test_an_address_with_a_new_owner_on_another_gateway_is_deleted_here_only(
    product: Product, cluster: SandboxCluster
) -> None:
    cluster.add_gateway("gw-here")
    cluster.add_gateway("gw-there")
    cluster.create_eip("old", "gw-here", "10.1.69.205")
    product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.delete_eip("old")
    cluster.create_eip("new", "gw-there", "10.1.69.205")
    assert product.finish("old") == ["reclaimed"]
    assert "10.1.69.205" not in cluster.addresses("gw-here")
    assert "10.1.69.205" in cluster.addresses("gw-there")


def test_a_release_while_no_producer_runs_is_published_by_the_next(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("eip-205", GATEWAY, "10.1.69.205")
    product.start_producer()()
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.delete_eip("eip-205")
    product.start_producer()
    assert product.finish("eip-205") == ["reclaimed"]


def test_every_active_pod_of_a_gateway_is_cleaned(product: Product, cluster: SandboxCluster) -> None:
    pods = cluster.add_gateway(GATEWAY, replicas=2)
    cluster.create_eip("eip-205", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    cluster.delete_eip("eip-205")
    assert product.finish("eip-205") == ["reclaimed"]
    assert all("10.1.69.205" not in cluster.addresses(GATEWAY, pod=pod.name) for pod in pods)


def test_a_gateway_that_is_gone_leaves_nothing_to_do(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("eip-205", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.delete_eip("eip-205")
    cluster.remove_gateway(GATEWAY)
    assert product.finish("eip-205") == ["gateway_gone"]


def test_a_random_address_deleted_before_ready_is_found_by_an_audit(product: Product, cluster: SandboxCluster) -> None:
    cluster.add_gateway(GATEWAY)
    product.start_producer()
    cluster.controller.switches.leaks.deletion_before_ready = "v1.12"
    cluster.controller.switches.delays.eip_add_after = 0.6
    cluster.create_eip("early", GATEWAY, wait_ready=False)
    time.sleep(0.2)
    base = cluster.addresses(GATEWAY)[:1]
    cluster.delete_eip("early")
    assert "audited" in product.finish("early", 60)
    assert cluster.addresses(GATEWAY) == base


def test_the_gateways_own_address_is_never_taken_away(make_product: NetworkMaker, cluster: SandboxCluster) -> None:
    product = make_product()
    cluster.add_gateway(GATEWAY)
    (base,) = cluster.addresses(GATEWAY)
    cluster.create_eip("eip-205", GATEWAY, "10.1.69.205")
    product.start_producer()
    cluster.delete_eip("eip-205")
    assert product.finish("eip-205")
    template = product.records.work(product.records.find("eip-205")[0])
    assert template is not None
    registry = product.work_queue.queue.failed_job_registry
    for number, address in enumerate((base, "10.1.69.254", "10.1.69.0", "10.1.69.255")):
        payload = {**template.model_dump(mode="json"), "id": f"forged-{number}", "addresses": [address]}
        product.work_queue.queue.enqueue(
            "workers.jobs.run", kwargs={"payload": payload}, job_id=payload["id"], serializer=JSONSerializer
        )
        product.worker().work(burst=True)
        assert payload["id"] in registry.get_job_ids()
    assert cluster.addresses(GATEWAY) == [base]


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "shared.queue.connect", "workers.jobs.ReclaimJob.work"])
def test_a_job_that_names_another_function_runs_nothing(
    name: str, make_product: NetworkMaker, cluster: SandboxCluster
) -> None:
    product = make_product()
    job = product.work_queue.queue.enqueue(name, "touch /tmp/eip-reclaimer-forged", job_id="forged")
    product.worker().work(burst=True)
    assert product.work_queue.queue.failed_job_registry.get_job_ids() == ["forged"]
    job.refresh()  # type: ignore[no-untyped-call]
    assert "which workers do not run" in str(job.latest_result().exc_string).splitlines()[0]  # type: ignore[union-attr]


def test_an_api_that_lists_nothing_releases_nothing_until_it_recovers(
    make_product: NetworkMaker, cluster: SandboxCluster
) -> None:
    product = make_product(brake_minimum=2)
    cluster.add_gateway(GATEWAY)
    for host in (202, 203, 205, 206):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.1.69.{host}")
    product.start_producer()()
    product.work_queue.redis.delete(product.work_queue.keys.checkpoint)
    cluster.server.faults.partial_lists(fraction=0.0)
    product.start_producer()
    state = eventually(product.brake.state, "the brake")
    assert state is not None
    assert state.held == 4
    assert not any(released(product, f"eip-{host}") for host in (202, 203, 205, 206))
    cluster.server.faults.clear()
    eventually(lambda: product.brake.state() is None, "the brake to disengage")
    assert len(product.inventory().all()) == 4


def test_another_clusters_api_behind_the_same_redis_is_refused(product: Product, cluster: SandboxCluster) -> None:
    product.work_queue.redis.set(product.work_queue.keys.cluster, "another-cluster")
    with pytest.raises(WrongClusterError, match="EIP_RECLAIMER_REDIS_URL"):
        product.inventory().claim_cluster()
    with pytest.raises(WrongClusterError):
        check_cluster(product.work_queue.redis, product.work_queue, "ours")


def test_two_hundred_releases_on_one_gateway_take_a_handful_of_execs(
    make_product: NetworkMaker, cluster: SandboxCluster
) -> None:
    product = make_product(driver="exec")
    cluster.add_subnet("wide", "10.2.0.0/16", "10.2.255.254")
    cluster.add_gateway(GATEWAY, ["wide"])
    for host in range(200):
        cluster.create_eip(f"eip-{host}", GATEWAY, f"10.2.1.{host}", subnet="wide", wait_ready=False)
    for host in range(200):
        cluster.wait_ready(f"eip-{host}")
    stop = product.start_producer()
    cluster.controller.switches.leaks.wrong_argument = True
    for host in range(200):
        cluster.delete_eip(f"eip-{host}", wait_gone=False)
    eventually(lambda: all(released(product, f"eip-{host}") for host in range(200)), "200 releases", 60)
    stop()
    before = cluster.server.executions.total
    product.worker().work(burst=True)
    assert {product.outcomes(f"eip-{host}")[0] for host in range(200)} == {"reclaimed"}
    assert cluster.server.executions.total - before <= 5
    assert len(cluster.addresses(GATEWAY)) == 1
