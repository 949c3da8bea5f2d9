"""Gateways as namespaces: what a pod has, what happens to commands in it, and who is reached from outside."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config
from kubernetes.stream import stream

from sandbox.cluster import SandboxCluster
from sandbox.objects import IPS, PODS
from sandbox.pods import Fault
from sandbox.segments import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel


@pytest.fixture
def cluster() -> Iterator[SandboxCluster]:
    with SandboxCluster() as cluster:
        cluster.add_subnet()
        yield cluster


def run(cluster: SandboxCluster, gateway: str, *argv: str) -> tuple[int, str]:
    """Run a command in a gateway's pod through pods/exec; its exit code and stdout."""
    pod = cluster.pod(gateway)
    core = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
    socket = stream(
        core.connect_get_namespaced_pod_exec,
        *(pod.name, "kube-system"),
        command=list(argv),
        stdout=True,
        stderr=True,
        _preload_content=False,
    )
    socket.run_forever(timeout=10)
    output = socket.read_stdout() if socket.peek_stdout() else ""
    return (-1 if socket.returncode is None else socket.returncode), output


def pod_object(cluster: SandboxCluster, name: str) -> dict[str, Any]:
    core = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
    pod: dict[str, Any] = core.api_client.sanitize_for_serialization(core.read_namespaced_pod(name, "kube-system"))
    return pod


def test_a_pod_has_its_base_address_first_and_an_onlink_default_route_as_recorded(cluster: SandboxCluster) -> None:
    (pod,) = cluster.add_gateway("gw1")
    base = pod.interfaces[1].addresses[0]
    _, text = run(cluster, "gw1", "ip", "-j", "route")
    routes = json.loads(text)
    assert {"dst": "default", "gateway": "10.1.69.254", "dev": "net1", "flags": ["onlink"]} in routes
    assert {
        **{"dst": "10.1.69.0/24", "dev": "net1", "protocol": "kernel", "scope": "link"},
        **{"prefsrc": base, "flags": []},
    } in routes
    _, text = run(cluster, "gw1", "ip", "-j", "addr", "show", "dev", "net1")
    (link,) = json.loads(text)
    first = link["addr_info"][0]
    assert (first["local"], first["prefixlen"], first["broadcast"]) == (base, 24, "10.1.69.255")
    assert link["address"] == pod.interfaces[1].mac
    assert cluster.addresses("gw1", "eth0") == ["10.0.1.254"]


def test_the_pod_object_carries_the_labels_and_addresses_that_kube_ovn_and_multus_write(
    cluster: SandboxCluster,
) -> None:
    (pod,) = cluster.add_gateway("gw1")
    item = pod_object(cluster, "vpc-nat-gw-gw1-0")
    base = pod.interfaces[1].addresses[0]
    assert item["metadata"]["labels"]["app"] == "vpc-nat-gw-gw1"
    assert item["metadata"]["labels"]["ovn.kubernetes.io/vpc-nat-gw"] == "true"
    annotations = item["metadata"]["annotations"]
    assert annotations["ovn-vpc-external-network.kube-system.kubernetes.io/ip_address"] == base
    assert annotations["ovn.kubernetes.io/ip_address"] == "10.0.1.254"
    assert annotations["ovn.kubernetes.io/vpc_nat_gw"] == "gw1"
    status = json.loads(annotations["k8s.v1.cni.cncf.io/network-status"])
    assert [(each["interface"], each["ips"]) for each in status] == [("eth0", ["10.0.1.254"]), ("net1", [base])]
    assert item["status"]["phase"] == "Running"
    assert item["spec"]["containers"][0]["name"] == "vpc-nat-gw"
    ip = cluster.background.call(
        cluster.api.get(IPS, "vpc-nat-gw-gw1-0.kube-system.ovn-vpc-external-network.kube-system")
    )
    assert ip is not None
    assert ip["spec"]["v4IpAddress"] == base


def test_without_a_default_eip_the_external_interface_is_bare_and_the_first_eip_is_primary(
    cluster: SandboxCluster,
) -> None:
    cluster.add_gateway("gw1", no_default_eip=True)
    assert cluster.addresses("gw1") == []
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205")
    cluster.create_eip("eip2", "gw1", v4ip="10.1.69.206")
    _, text = run(cluster, "gw1", "ip", "-j", "-4", "addr", "show", "dev", "net1")
    secondary = {each["local"]: each.get("secondary", False) for each in json.loads(text)[0]["addr_info"]}
    assert secondary == {"10.1.69.205": False, "10.1.69.206": True}


def test_a_client_outside_reaches_an_eip_and_nothing_else(cluster: SandboxCluster) -> None:
    cluster.add_gateway("gw1")
    behind_the_router, on_the_wire = (
        cluster.attach_client(),
        cluster.attach_client("ovn-vpc-external-network", "10.1.69.10/24"),
    )
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205")
    for outside in (behind_the_router, on_the_wire):
        assert answers(outside, "10.1.69.205")
        assert not answers(outside, "10.1.69.206", timeout=0.3)


def test_an_ended_pod_answers_no_more(cluster: SandboxCluster) -> None:
    cluster.add_gateway("gw1")
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205")
    outside = cluster.attach_client()
    assert answers(outside, "10.1.69.205")
    cluster.remove_pod("gw1")
    assert not answers(outside, "10.1.69.205", timeout=0.3)


def test_both_families_and_several_external_subnets_have_an_interface_each(cluster: SandboxCluster) -> None:
    cluster.add_subnet("dual", "10.2.0.0/24,fd00:2::/64", "10.2.0.1,fd00:2::1")
    (pod,) = cluster.add_gateway("gw1", ["ovn-vpc-external-network", "dual"])
    assert [each.name for each in pod.interfaces] == ["eth0", "net1", "net2"]
    assert cluster.addresses("gw1", "net2") == ["10.2.0.254", str(pod.interfaces[2].addresses[1])]
    eip = cluster.create_eip("eip1", "gw1", subnet="dual")
    assert (eip["spec"]["v4ip"], eip["spec"]["v6ip"]) == ("10.2.0.2", "fd00:2::2")
    assert {"10.2.0.2", "fd00:2::2"} <= set(cluster.addresses("gw1", "net2"))
    outside = cluster.attach_client("dual", "10.2.0.10/24", "fd00:2::10/64")
    assert answers(outside, "10.2.0.2")
    assert answers(outside, "fd00:2::2")
    cluster.delete_eip("eip1")
    assert not {"10.2.0.2", "fd00:2::2"} & set(cluster.addresses("gw1", "net2"))


def test_replicas_are_named_as_a_deployments_and_serve_every_eip(cluster: SandboxCluster) -> None:
    first, second = cluster.add_gateway("gw1", replicas=2)
    template = first.name.rsplit("-", 1)[0]
    assert template.startswith("vpc-nat-gw-gw1-")
    assert second.name.rsplit("-", 1)[0] == template
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205")
    for pod in (first, second):
        assert "10.1.69.205" in cluster.addresses("gw1", pod=pod.name)
    cluster.delete_eip("eip1")
    for pod in (first, second):
        assert "10.1.69.205" not in cluster.addresses("gw1", pod=pod.name)


def test_a_replaced_pod_is_a_fresh_namespace_with_another_uid_and_only_live_eips(cluster: SandboxCluster) -> None:
    (before,) = cluster.add_gateway("gw1")
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205")
    before.namespace.ip("addr", "add", "10.1.69.250/24", "dev", "net1")
    after = cluster.replace_pod("gw1")
    assert (after.name, after.uid != before.uid) == (before.name, True)
    assert after.interfaces[1].addresses == before.interfaces[1].addresses
    cluster.wait_for_record("pod_initialised", pod_uid=after.uid)
    assert cluster.addresses("gw1") == [after.interfaces[1].addresses[0], "10.1.69.205"]


def test_the_directory_of_namespaces_leads_from_a_pods_uid_to_its_namespace(cluster: SandboxCluster) -> None:
    (before,) = cluster.add_gateway("gw1")
    link = cluster.netns_dir / before.uid
    assert os.stat(link).st_ino == os.stat(before.namespace.path).st_ino
    after = cluster.replace_pod("gw1")
    assert [each.name for each in cluster.netns_dir.iterdir()] == [after.uid]


def test_a_gateway_may_have_no_pods_or_none_that_is_ready(cluster: SandboxCluster) -> None:
    cluster.add_gateway("empty", pods=0)
    cluster.add_gateway("unready", ready=False)
    cluster.create_eip("eip1", "unready", v4ip="10.1.69.205", wait_ready=False)
    cluster.wait_for_record("failed", eip="eip1")
    assert cluster.pods("empty") == []
    assert "10.1.69.205" not in cluster.addresses("unready")
    cluster.set_ready("unready", ready=True)
    cluster.wait_ready("eip1")
    assert "10.1.69.205" in cluster.addresses("unready")


def test_commands_in_a_pod_run_for_real_and_end_with_their_own_exit_code(cluster: SandboxCluster) -> None:
    cluster.add_gateway("gw1")
    assert run(cluster, "gw1", "bash", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n")
    assert run(cluster, "gw1", "bash", "-c", "kill -TERM $$") == (143, "")
    assert run(cluster, "gw1", "cat", "/proc/sys/net/ipv4/conf/net1/promote_secondaries") == (0, "0\n")
    assert run(cluster, "gw1", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/net1/promote_secondaries") == (0, "")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DIE_HALF_WAY, (137, "01234")),
        (Fault.DIE_AT_ONCE, (137, "")),
        (Fault.FAIL, (1, "")),
        (Fault.GARBAGE, (0, '\x00\ufffd{"not": "an answer"\n]]')),
    ],
)
def test_a_fault_spoils_as_many_commands_as_asked_for(
    cluster: SandboxCluster, fault: Fault, expected: tuple[int, str]
) -> None:
    cluster.add_gateway("gw1")
    cluster.set_fault("gw1", fault, times=1)
    assert run(cluster, "gw1", "echo", "-n", "0123456789") == expected
    assert run(cluster, "gw1", "echo", "-n", "0123456789") == (0, "0123456789")


def test_a_command_outlives_the_connection_it_was_asked_for_over(cluster: SandboxCluster) -> None:
    cluster.add_gateway("gw1")
    cluster.controller.switches.delays.eip_add_before = 0.5
    cluster.create_eip("eip1", "gw1", v4ip="10.1.69.205", wait_ready=False)
    cluster.wait_for_record("eip_add_started", eip="eip1")
    time.sleep(0.2)
    cluster.kill_controller()
    assert "10.1.69.205" not in cluster.addresses("gw1")
    time.sleep(0.8)
    assert "10.1.69.205" in cluster.addresses("gw1")


def test_an_ended_pod_takes_its_commands_along(cluster: SandboxCluster) -> None:
    (pod,) = cluster.add_gateway("gw1")
    cluster.set_fault("gw1", Fault.HANG)
    cluster.create_eip("eip1", "gw1", wait_ready=False)
    cluster.wait_for_record("eip_add_started", eip="eip1")
    cluster.replace_pod("gw1")
    assert cluster.wait_for_record("eip_add_failed", eip="eip1").pod_uid == pod.uid
    cluster.wait_ready("eip1")


def test_a_gateway_that_is_removed_is_gone_with_its_pods(cluster: SandboxCluster) -> None:
    (pod,) = cluster.add_gateway("gw1")
    cluster.add_gateway("gw2")
    cluster.remove_gateway("gw1")
    pods, _ = cluster.background.call(cluster.api.list(PODS))
    assert [each["metadata"]["name"] for each in pods] == ["vpc-nat-gw-gw2-0"]
    assert not pod.namespace.path.exists()
