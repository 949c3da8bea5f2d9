"""The resources the emulator serves, and how each one differs from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "type",
)
POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource type.

    `selectable` are the fields a fieldSelector may name beside metadata.name (and metadata.namespace where
    namespaced); `graded` resources count metadata.generation.
    """

    group: str
    plural: str
    singular: str
    kind: str
    short_name: str
    namespaced: bool = False
    has_status: bool = False
    graded: bool = False
    selectable: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition defines it: such objects are kept as they come."""
        return self.group == "kubeovn.io"

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def qualified(self) -> str:
        """`<plural>.<group>`, as error messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """`<Kind>.<group>`, as validation messages name it."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


def _kubeovn(plural: str, kind: str, short_name: str) -> Resource:
    return Resource("kubeovn.io", plural, plural.removesuffix("s"), kind, short_name, has_status=True, graded=True)


NAMESPACES = Resource(
    "",
    "namespaces",
    "namespace",
    "Namespace",
    "ns",
    has_status=True,
    selectable=("status.phase",),
    verbs=tuple(verb for verb in VERBS if verb != "deletecollection"),
)
PODS = Resource("", "pods", "pod", "Pod", "po", namespaced=True, has_status=True, graded=True, selectable=POD_FIELDS)
EVENTS = Resource("", "events", "event", "Event", "ev", namespaced=True, selectable=EVENT_FIELDS)
EVENTS_V1 = Resource("events.k8s.io", "events", "event", "Event", "ev", namespaced=True)

RESOURCES: tuple[Resource, ...] = (
    NAMESPACES,
    PODS,
    EVENTS,
    EVENTS_V1,
    _kubeovn("ips", "IP", "ip"),
    _kubeovn("iptables-dnat-rules", "IptablesDnatRule", "dnat"),
    _kubeovn("iptables-eips", "IptablesEIP", "eip"),
    _kubeovn("iptables-fip-rules", "IptablesFIPRule", "fip"),
    _kubeovn("iptables-snat-rules", "IptablesSnatRule", "snat"),
    _kubeovn("subnets", "Subnet", "subnet"),
    _kubeovn("vpc-nat-gateways", "VpcNatGateway", "vpc-nat-gw"),
)
BY_PATH: dict[tuple[str, str], Resource] = {(each.group, each.plural): each for each in RESOURCES}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(each.group for each in RESOURCES if each.group))
