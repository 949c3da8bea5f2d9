"""Gateways as network namespaces, and the objects that a cluster has of them.

A gateway's pod gets `eth0` on the VPC's segment and `net1`, `net2`, … on its external subnets' segments, with a base
address each (unless `noDefaultEIP`) and the default route through the first one's gateway. EIPs are not put on here:
that is the controller's work, as for a real pod.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from sandbox import objects
from sandbox.ipam import SubnetPool, split_families
from sandbox.netns import NetworkNamespace
from sandbox.objects import GATEWAYS, IPS, PODS, SUBNETS, Object, PodInterface
from sandbox.segments import Segment, random_mac, run_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from sandbox.kubernetes_api import KubernetesApi
    from sandbox.pods import PodNamespaces

VPC = "vpc1"
VPC_SUBNET = "vpc1-net1"
VPC_CIDR = "10.0.1.0/24"
VPC_ROUTER = "10.0.1.1"

_POD_SETTINGS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/accept_ra": 0,
}
_HASH_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

T = TypeVar("T")


@dataclass
class GatewayPod:
    """One pod of a gateway, and what it is connected to: (segment, port) of each interface."""

    name: str
    uid: str
    node: str
    namespace: NetworkNamespace
    interfaces: tuple[PodInterface, ...]
    ports: list[tuple[Segment, str]]


@dataclass
class Gateway:
    """One gateway; `pods` by name, `bases` the base addresses by (pod, subnet), kept across a pod's restarts."""

    name: str
    external_subnets: tuple[str, ...]
    replicas: int
    no_default_eip: bool
    namespace: str
    network_status: bool
    promote_secondaries: bool
    template: str = field(default_factory=lambda: _hash(9))
    pods: dict[str, GatewayPod] = field(default_factory=dict)
    bases: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


class GatewayHost:
    """Makes gateways, their pods and segments, and their objects in the API.

    `namespaces` is where namespaces are made: an executor with one thread that lives as long as this object, because
    a namespace's holder dies with the thread that started it.
    """

    def __init__(
        self, api: KubernetesApi, pods: PodNamespaces, namespaces: Executor, *, node: str = "sandbox-node"
    ) -> None:
        self.api = api
        self.pods = pods
        self.node = node
        self.gateways: dict[str, Gateway] = {}
        self.segments: dict[str, Segment] = {}
        self._pools: dict[str, SubnetPool] = {}
        self._subnets: dict[str, Object] = {}
        self._namespaces = namespaces

    async def add_subnet(
        self, name: str, cidr_block: str, gateway: str, *, exclude_ips: Sequence[str] = (), provider: str | None = None
    ) -> Segment:
        """Create a Subnet object and the segment that it stands for; `v4`, `v6` or `v4,v6` as in the object."""
        body = objects.subnet(name, cidr_block, gateway, exclude_ips=exclude_ips, provider=provider)
        created = await self.api.create(SUBNETS, body)
        pool = SubnetPool.from_subnet(created)
        router = [f"{ip}/{pool.network_of(ip).prefixlen}" for ip in sorted(pool.gateways, key=lambda ip: ip.version)]
        segment = await self._in_thread(lambda: Segment(name, router))
        self.segments[name], self._pools[name], self._subnets[name] = segment, pool, created
        return segment

    async def add_gateway(
        self,
        name: str,
        external_subnets: Sequence[str],
        *,
        replicas: int = 1,
        pods: int | None = None,
        no_default_eip: bool = False,
        namespace: str | None = None,
        network_status: bool = True,
        promote_secondaries: bool = False,
        ready: bool = True,
    ) -> Gateway:
        """Create a VpcNatGateway and its pods.

        Args:
            name: The gateway's name.
            external_subnets: Names of subnets added before; `net1` is on the first.
            replicas: More than 1 is a Deployment, with its pods' names.
            pods: How many pods there really are; `replicas` of them without.
            no_default_eip: No base address on the external interfaces.
            namespace: Where the pods live, written into the spec; kube-system without.
            network_status: Whether pods carry Multus' network-status annotation.
            promote_secondaries: What the host's setting is; a pod inherits it. Off is the kernel's default.
            ready: Whether the pods are Ready.
        """
        if VPC_SUBNET not in self.segments:
            await self.add_subnet(VPC_SUBNET, VPC_CIDR, VPC_ROUTER, provider="ovn")
        gateway = Gateway(
            name,
            tuple(external_subnets),
            replicas,
            no_default_eip,
            namespace or objects.NAMESPACE,
            network_status,
            promote_secondaries,
        )
        lan_ip = str(self._pools[VPC_SUBNET].highest_free(4))
        self._pools[VPC_SUBNET].hold(f"gateway/{name}", ip_address(lan_ip))
        gateway.bases[self._pod_name(gateway), VPC_SUBNET] = (lan_ip,)
        body = objects.vpc_nat_gateway(
            name,
            external_subnets,
            vpc=VPC,
            vpc_subnet=VPC_SUBNET,
            lan_ip=lan_ip,
            replicas=replicas,
            no_default_eip=no_default_eip,
            namespace=namespace,
        )
        await self.api.create(GATEWAYS, body)
        self.gateways[name] = gateway
        for _ in range(replicas if pods is None else pods):
            await self.add_pod(name, ready=ready)
        return gateway

    async def remove_gateway(self, name: str) -> None:
        """Remove a gateway: its object, then its pods."""
        await self.api.delete(GATEWAYS, name)
        for pod in list(self.gateways[name].pods):
            await self.remove_pod(name, pod)
        del self.gateways[name]

    async def add_pod(self, gateway_name: str, *, ready: bool = True) -> GatewayPod:
        """Start one more pod of a gateway: a StatefulSet's has the name and addresses of the one before it."""
        gateway = self.gateways[gateway_name]
        name = self._pod_name(gateway)
        interfaces = await self._interfaces(gateway, name)
        namespace, ports = await self._in_thread(lambda: self._build(gateway, interfaces))
        vpc, *external = interfaces
        kind = "StatefulSet" if gateway.replicas == 1 else "ReplicaSet"
        body = objects.gateway_pod(
            name,
            namespace=gateway.namespace,
            gateway=gateway.name,
            node=self.node,
            vpc=vpc,
            external=external,
            network_status=gateway.network_status,
            owner_kind=kind,
        )
        for interface in interfaces:
            # A base address is taken before the pod has it, so that no EIP gets it in between.
            if interface.addresses:
                ip = objects.pod_ip(name, gateway.namespace, self.node, interface, kind)
                if await self.api.get(IPS, ip["metadata"]["name"]) is None:
                    await self.api.create(IPS, ip)
        created = await self.api.create(PODS, body, namespace=gateway.namespace)
        pod = GatewayPod(name, created["metadata"]["uid"], self.node, namespace, interfaces, ports)
        self.pods.add(pod.uid, namespace)
        gateway.pods[name] = pod
        await self.set_ready(gateway_name, name, ready=ready)
        return pod

    async def remove_pod(self, gateway_name: str, pod_name: str) -> None:
        """End a pod and remove its object; a Deployment's gives its addresses back."""
        gateway = self.gateways[gateway_name]
        pod = gateway.pods.pop(pod_name)
        await self.api.delete(PODS, pod_name, namespace=gateway.namespace)
        await self._in_thread(lambda: self._tear_down(pod))
        if gateway.replicas > 1:
            for interface in pod.interfaces:
                ip = objects.pod_ip(pod_name, gateway.namespace, pod.node, interface, "")
                await self.api.delete(IPS, ip["metadata"]["name"])
                self._pools[interface.subnet].release(f"pod/{pod_name}")

    async def replace_pod(self, gateway_name: str, pod_name: str | None = None, *, ready: bool = True) -> GatewayPod:
        """End a pod (the only one, without a name) and start another in its place: fresh namespace, new UID."""
        if pod_name is None:
            (pod_name,) = self.gateways[gateway_name].pods
        await self.remove_pod(gateway_name, pod_name)
        return await self.add_pod(gateway_name, ready=ready)

    async def set_ready(self, gateway_name: str, pod_name: str, *, ready: bool) -> None:
        """Write a pod's status: Running, and Ready or not."""
        gateway = self.gateways[gateway_name]
        vpc = gateway.pods[pod_name].interfaces[0]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = objects.pod_status(ready=ready, pod_ip=vpc.addresses[0], now=now)
        body = {"status": status}
        await self.api.patch(PODS, pod_name, body, namespace=gateway.namespace, subresource="status")

    async def close(self) -> None:
        """End every namespace; the objects stay, for whom they outlive."""
        await self._in_thread(self._end_all)

    def _end_all(self) -> None:
        for gateway in self.gateways.values():
            for pod in gateway.pods.values():
                self.pods.remove(pod.uid)
        for segment in self.segments.values():
            segment.close()

    def _pod_name(self, gateway: Gateway) -> str:
        if gateway.replicas == 1:
            return f"vpc-nat-gw-{gateway.name}-0"
        return f"vpc-nat-gw-{gateway.name}-{gateway.template}-{_hash(5)}"

    async def _interfaces(self, gateway: Gateway, pod: str) -> tuple[PodInterface, ...]:
        """The pod's interfaces, VPC side first, with the base addresses it keeps or gets."""
        interfaces = []
        for index, subnet in enumerate((VPC_SUBNET, *gateway.external_subnets)):
            spec = self._subnets[subnet]["spec"]
            addresses: tuple[str, ...] = ()
            if index == 0 or not gateway.no_default_eip:
                addresses = gateway.bases.get((pod, subnet)) or await self._new_base(subnet, pod)
                gateway.bases[pod, subnet] = addresses
            interfaces.append(
                PodInterface(
                    name="eth0" if index == 0 else f"net{index}",
                    subnet=subnet,
                    provider=spec["provider"],
                    cidr=spec["cidrBlock"],
                    gateway=spec["gateway"],
                    mac=random_mac(),
                    addresses=addresses,
                )
            )
        return tuple(interfaces)

    async def _new_base(self, subnet: str, pod: str) -> tuple[str, ...]:
        """One free address of each family, from the subnet's far end: EIPs come from the near one."""
        pool = self._pools[subnet]
        eips, _ = await self.api.list(objects.EIPS)
        for each in eips:
            for text in (each["spec"].get("v4ip"), each["spec"].get("v6ip")):
                if text and any(ip_address(text) in network for network in pool.networks):
                    pool.hold(each["metadata"]["uid"], ip_address(text))
        addresses = [pool.highest_free(network.version) for network in pool.networks]
        for address in addresses:
            pool.hold(f"pod/{pod}", address)
        for each in eips:
            pool.release(each["metadata"]["uid"])
        return tuple(str(address) for address in addresses)

    def _build(
        self, gateway: Gateway, interfaces: Sequence[PodInterface]
    ) -> tuple[NetworkNamespace, list[tuple[Segment, str]]]:
        """Make a pod's namespace with its interfaces, addresses and default route."""
        namespace = NetworkNamespace()
        promote = int(gateway.promote_secondaries)
        settings = {f"net/ipv4/conf/{scope}/promote_secondaries": promote for scope in ("all", "default")}
        namespace.set_sysctl(_POD_SETTINGS | settings)
        ports = []
        commands = []
        for index, interface in enumerate(interfaces):
            segment = self.segments[interface.subnet]
            ports.append((segment, segment.connect(namespace, interface.name, interface.mac)))
            pool = self._pools[interface.subnet]
            for text in interface.addresses:
                ip = ip_address(text)
                broadcast = "brd + " if ip.version == 4 else ""
                length = pool.network_of(ip).prefixlen
                commands.append(f"addr add {ip}/{length} {broadcast}dev {interface.name}")
            if index == 1:
                routers = split_families(interface.gateway)
                commands += [f"route add default via {ip} dev {interface.name} onlink" for ip in routers]
        run_batch(namespace, commands)
        return namespace, ports

    def _tear_down(self, pod: GatewayPod) -> None:
        self.pods.remove(pod.uid)
        for segment, port in pod.ports:
            # The kernel takes an ended namespace's interfaces away a little later; its addresses answer until then.
            segment.disconnect(port)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._namespaces, work)


def _hash(length: int) -> str:
    """Random letters as in the names of a Deployment's pods."""
    return "".join(random.choices(_HASH_LETTERS, k=length))
