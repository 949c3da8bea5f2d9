"""The objects of a cluster with Kube-OVN, in the shape its own releases write them.

Where each object lives in the API is a `Resource`; what goes into it is one function per kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Object = dict[str, Any]

FINALIZER = "kubeovn.io/kube-ovn-controller"
FORMER_FINALIZER = "kube-ovn-controller"
NAMESPACE = "kube-system"
CONTAINER = "vpc-nat-gw"
DEFAULT_EXTERNAL_SUBNET = "ovn-vpc-external-network"
SCRIPT = "/kube-ovn/nat-gateway.sh"
"""Where the script lies in a gateway's image."""

GATEWAY_POD_LABEL = "ovn.kubernetes.io/vpc-nat-gw"
INITIALISED_ANNOTATION = "ovn.kubernetes.io/vpc_nat_gw_init"


@dataclass(frozen=True)
class Resource:
    """One kind's place in the API."""

    api_version: str
    kind: str
    plural: str

    def path(self, name: str | None = None, *, namespace: str | None = None, subresource: str = "") -> str:
        """The URL path of one object, or of the collection without a name."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return "/".join([root + inside, self.plural, *(part for part in (name, subresource) if part)])


PODS = Resource("v1", "Pod", "pods")
EIPS = Resource("kubeovn.io/v1", "IptablesEIP", "iptables-eips")
GATEWAYS = Resource("kubeovn.io/v1", "VpcNatGateway", "vpc-nat-gateways")
SUBNETS = Resource("kubeovn.io/v1", "Subnet", "subnets")
IPS = Resource("kubeovn.io/v1", "IP", "ips")


@dataclass(frozen=True)
class PodInterface:
    """One interface of a gateway pod; `addresses` without prefix length, empty where it has none of its own."""

    name: str
    subnet: str
    provider: str
    cidr: str
    gateway: str
    mac: str
    addresses: tuple[str, ...]


def eip(
    name: str,
    gateway: str,
    *,
    v4ip: str | None = None,
    v6ip: str | None = None,
    external_subnet: str | None = None,
    namespace: str | None = None,
) -> Object:
    """An IptablesEIP as a user creates it: what is None is not in the spec."""
    spec = {
        "natGwDp": gateway,
        "v4ip": v4ip,
        "v6ip": v6ip,
        "externalSubnet": external_subnet,
        "namespace": namespace,
    }
    return _object(EIPS, name, spec={key: value for key, value in spec.items() if value is not None})


def eip_labels(gateway: str, subnet: str, addresses: Sequence[str]) -> dict[str, str]:
    """The labels the controller sets; a label cannot hold an IPv6 address's colons, so that one is left out."""
    v4 = next((ip for ip in addresses if ":" not in ip), "")
    return {
        "ovn.kubernetes.io/eip_v4_ip": v4,
        "ovn.kubernetes.io/subnet": subnet,
        "ovn.kubernetes.io/vpc-nat-gw-name": gateway,
    }


def subnet(
    name: str, cidr_block: str, gateway: str, *, exclude_ips: Sequence[str] = (), provider: str | None = None
) -> Object:
    """A Subnet; `cidr_block` and `gateway` are `v4`, `v6` or `v4,v6`."""
    families = {":" in part for part in cidr_block.split(",")}
    protocol = "Dual" if len(families) == 2 else "IPv6" if True in families else "IPv4"
    spec = {
        "cidrBlock": cidr_block,
        "default": False,
        "excludeIps": [*exclude_ips, *(ip for ip in gateway.split(",") if ip and ip not in exclude_ips)],
        "gateway": gateway,
        "gatewayType": "distributed",
        "natOutgoing": False,
        "private": False,
        "protocol": protocol,
        "provider": provider or f"{name}.{NAMESPACE}",
    }
    return _object(SUBNETS, name, spec=spec)


def vpc_nat_gateway(
    name: str,
    external_subnets: Sequence[str],
    *,
    vpc: str,
    vpc_subnet: str,
    lan_ip: str,
    replicas: int = 1,
    no_default_eip: bool = False,
    namespace: str | None = None,
) -> Object:
    """A VpcNatGateway; fields that only newer releases have are in it only where they say something."""
    spec: Object = {
        "externalSubnets": list(external_subnets),
        "lanIp": lan_ip,
        "selector": [],
        "subnet": vpc_subnet,
        "vpc": vpc,
    }
    if replicas != 1:
        spec["replicas"] = replicas
    if no_default_eip:
        spec["noDefaultEIP"] = True
    if namespace:
        spec["namespace"] = namespace
    labels = {"ovn.kubernetes.io/qos": "", "ovn.kubernetes.io/subnet": vpc_subnet, "ovn.kubernetes.io/vpc": vpc}
    return _object(GATEWAYS, name, labels=labels, spec=spec)


def gateway_pod(
    name: str,
    *,
    namespace: str,
    gateway: str,
    node: str,
    vpc: PodInterface,
    external: Sequence[PodInterface],
    network_status: bool = True,
    owner_kind: str = "StatefulSet",
) -> Object:
    """A gateway's pod; `network_status` adds the annotation that Multus writes."""
    annotations = {
        "k8s.v1.cni.cncf.io/networks": ",".join(_network(interface) for interface in external),
        "ovn.kubernetes.io/vpc_nat_gw": gateway,
        "ovn.kubernetes.io/pod_nic_type": "veth-pair",
        **_interface_annotations("ovn", vpc),
    }
    for interface in external:
        annotations |= _interface_annotations(interface.provider, interface)
    if network_status:
        status = [
            {"name": "kube-ovn", "interface": vpc.name, "ips": list(vpc.addresses), "mac": vpc.mac, "default": True}
        ]
        status += [
            {"name": _network(each), "interface": each.name, "ips": list(each.addresses), "mac": each.mac}
            for each in external
        ]
        annotations["k8s.v1.cni.cncf.io/network-status"] = json.dumps(status, indent=4)
    pod = _object(
        PODS,
        name,
        labels={"app": f"vpc-nat-gw-{gateway}", GATEWAY_POD_LABEL: "true"},
        spec={
            "containers": [
                {
                    "name": CONTAINER,
                    "image": "localhost/sandbox/vpc-nat-gateway",
                    "command": ["sleep", "infinity"],
                    "securityContext": {"privileged": True, "allowPrivilegeEscalation": True},
                }
            ],
            "nodeName": node,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 0,
        },
    )
    pod["metadata"] |= {"namespace": namespace, "annotations": annotations}
    if owner_kind == "StatefulSet":
        pod["metadata"]["labels"] |= {"statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": "0"}
    return pod


def pod_status(*, ready: bool, pod_ip: str, now: str) -> Object:
    """The status of a pod on its node; `now` in RFC 3339.

    A gateway's container has no readiness probe: it is ready while it runs.
    """
    state = "True" if ready else "False"
    running = {"running": {"startedAt": now}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
    kinds = {"Initialized": "True", "Ready": state, "ContainersReady": state, "PodScheduled": "True"}
    return {
        "phase": "Running",
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}],
        "hostIP": "192.0.2.2",
        "startTime": now,
        "conditions": [
            {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": now}
            for kind, value in kinds.items()
        ],
        "containerStatuses": [
            {
                "name": CONTAINER,
                "image": "localhost/sandbox/vpc-nat-gateway",
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "started": ready,
                "state": running if ready else waiting,
            }
        ],
    }


def pod_ip(pod: str, namespace: str, node: str, interface: PodInterface, pod_type: str) -> Object:
    """The IP object of one of a pod's interfaces: `<pod>.<namespace>` on the VPC side, `….<provider>` outside."""
    name = f"{pod}.{namespace}" if interface.provider == "ovn" else f"{pod}.{namespace}.{interface.provider}"
    labels = {
        interface.subnet: "",
        "ovn.kubernetes.io/ip_reserved": "false",
        "ovn.kubernetes.io/node-name": node,
        "ovn.kubernetes.io/subnet": interface.subnet,
    }
    spec = {
        "attachIps": [],
        "attachMacs": [],
        "attachSubnets": [],
        "containerID": "",
        "ipAddress": ",".join(interface.addresses),
        "macAddress": interface.mac,
        "namespace": namespace,
        "nodeName": node,
        "podName": pod,
        "podType": pod_type,
        "subnet": interface.subnet,
        "v4IpAddress": next((ip for ip in interface.addresses if ":" not in ip), ""),
        "v6IpAddress": next((ip for ip in interface.addresses if ":" in ip), ""),
    }
    return _object(IPS, name, labels=labels, spec=spec)


def is_active(pod: Mapping[str, Any]) -> bool:
    """Whether a gateway's pod runs, is ready, and is not about to go."""
    status = pod.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    return status.get("phase") == "Running" and ready and not pod["metadata"].get("deletionTimestamp")


def _object(resource: Resource, name: str, *, spec: Object, labels: Mapping[str, str] | None = None) -> Object:
    metadata: Object = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}


def _network(interface: PodInterface) -> str:
    """The NetworkAttachmentDefinition of a provider `<name>.<namespace>`, as `<namespace>/<name>`."""
    name, _, namespace = interface.provider.partition(".")
    return f"{namespace}/{name}"


def _interface_annotations(provider: str, interface: PodInterface) -> dict[str, str]:
    prefix = f"{provider}.kubernetes.io"
    annotations = {
        f"{prefix}/allocated": "true",
        f"{prefix}/cidr": interface.cidr,
        f"{prefix}/gateway": interface.gateway,
        f"{prefix}/logical_switch": interface.subnet,
        f"{prefix}/mac_address": interface.mac,
    }
    if interface.addresses:
        annotations[f"{prefix}/ip_address"] = ",".join(interface.addresses)
    return annotations
