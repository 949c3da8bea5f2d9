"""Where gateways are: their pods, the addresses that are the pods' own, their external subnets."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from shared.errors import MalformedObjectError, NoActivePodError
from shared.kube.api import GATEWAYS, IPS, SUBNETS, KubeApi, Object
from shared.kube.objects import (
    NatGateway,
    Subnet,
    base_addresses,
    ip_object_addresses,
    is_active,
    read_gateway,
    read_subnet,
)
from shared.log import get_logger
from shared.models import IPAddress
from shared.settings import Settings
from workers.gateways.interface import GatewayPod

log = get_logger(__name__)

UNCHANGED_SECONDS = 60
"""How long a Subnet is taken as unchanged, and a VpcNatGateway of which a pod runs."""
MOST_GATEWAYS = 200
"""More than so many are not named in a request; each name has up to 63 characters."""
REMEMBERED_PODS = 1000
GATEWAY_PODS = "ovn.kubernetes.io/vpc-nat-gw=true"
"""Label of every gateway's pods."""


@dataclass(frozen=True, slots=True)
class Pod:
    """An active gateway pod."""

    place: GatewayPod
    told: frozenset[IPAddress]
    """Addresses that the Pod object says are its own."""


class Places:
    """Finds gateways in the API. Safe across threads."""

    def __init__(self, api: KubeApi, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._subnets: dict[str, tuple[float, Subnet | None]] = {}
        self._gateways: dict[str, tuple[float, NatGateway]] = {}
        self._pods: dict[str, tuple[float, list[str], list[Pod]]] = {}
        self._names: tuple[float, frozenset[str] | None] = (float("-inf"), None)
        self._base: OrderedDict[str, frozenset[IPAddress]] = OrderedDict()
        self._base_lock = threading.Lock()

    def running(self, name: str, namespaces: Collection[str]) -> tuple[NatGateway, list[Pod]] | None:
        """A gateway and its pods that run; None when there is no such gateway, so that nothing is left to clean.

        Args:
            name: the gateway's.
            namespaces: those that EIPs name for its pods; without any, the gateway's or the configured one.

        Raises:
            NoActivePodError: none runs now.
        """
        gateway = self._remembered(name)
        if gateway is not None:
            # Where none of its pods runs any more, the gateway may be gone.
            with suppress(NoActivePodError):
                return self._with_pods(gateway, namespaces)
        found = self._api.get(f"{GATEWAYS}/{name}")
        if found is None:
            self._gateways.pop(name, None)
            return None
        gateway = read_gateway(found)
        self._gateways[name] = (time.monotonic(), gateway)
        return self._with_pods(gateway, namespaces)

    def ran(self, name: str, namespaces: Collection[str]) -> tuple[NatGateway, list[Pod]] | None:
        """What `running` returned last, a minute ago at most; None where that is not known."""
        gateway = self._remembered(name)
        read_at, named, pods = self._pods.get(name, (float("-inf"), [], []))
        if gateway is None or time.monotonic() - read_at >= UNCHANGED_SECONDS or named != sorted(namespaces):
            return None
        return gateway, pods

    def last_pods(self, name: str) -> list[Pod]:
        """A gateway's pods as of the last time it was asked; none where it never was."""
        return self._pods.get(name, (0.0, [], []))[2]

    def gateways(self) -> list[NatGateway]:
        """Every gateway object; one that cannot be read is reported and left out."""
        return _readable(self._api.each_object(GATEWAYS))

    def gateway_names(self) -> frozenset[str] | None:
        """The names of all gateways a minute ago or later; None where there are too many to name each of them."""
        read_at, names = self._names
        now = time.monotonic()
        if now - read_at < UNCHANGED_SECONDS:
            return names
        items, _ = next(self._api.pages(GATEWAYS, limit=str(MOST_GATEWAYS + 1)))
        found = _readable(items)
        self._gateways |= {gateway.name: (now, gateway) for gateway in found}
        names = frozenset(gateway.name for gateway in found) if len(items) <= MOST_GATEWAYS else None
        self._names = (now, names)
        return names

    def remembered_names(self) -> frozenset[str] | None:
        """What `gateway_names` returned last, a minute ago at most; None where that is not known."""
        read_at, names = self._names
        return names if time.monotonic() - read_at < UNCHANGED_SECONDS else None

    def external_subnets(self, gateway: NatGateway, named: Iterable[str | None]) -> list[Subnet]:
        """The gateway's external subnets and those that work on it names; what no longer exists is left out."""
        names = {name or self._settings.external_subnet for name in named} | set(gateway.external_subnets)
        found = (self.subnet(name) for name in sorted(names or {self._settings.external_subnet}))
        return [subnet for subnet in found if subnet is not None]

    def subnet(self, name: str) -> Subnet | None:
        """A subnet; None when it does not exist or cannot be read, which is reported."""
        read_at, subnet = self._subnets.get(name, (float("-inf"), None))
        if time.monotonic() - read_at < UNCHANGED_SECONDS:
            return subnet
        try:
            found = self._api.get(f"{SUBNETS}/{name}")
            subnet = None if found is None else read_subnet(found)
        except MalformedObjectError as error:
            log.error("subnet cannot be read", reason=str(error))
            subnet = None
        self._subnets[name] = (time.monotonic(), subnet)
        return subnet

    def namespaces(self, gateway: NatGateway, named: Collection[str]) -> list[str]:
        """Where the gateway's pods live; `named` are those that EIPs name."""
        return sorted(set(named) or {gateway.namespace or self._settings.gateway_namespace})

    def pod_objects(self, namespaces: Iterable[str], app: str | None = None) -> list[Object]:
        """The gateway pods in some namespaces, as the API has them; of one `app` label, or of all gateways."""
        selector = f"{GATEWAY_PODS},app={app}" if app else GATEWAY_PODS
        return [
            item
            for namespace in namespaces
            for item in self._api.each_object(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        ]

    def active_among(self, gateway: NatGateway, items: Iterable[Object], searched: Collection[str]) -> list[Pod]:
        """The gateway's pods that run, among the gateway pods of the namespaces that were searched.

        Raises:
            NoActivePodError: none runs now.
        """
        app = self._app(gateway)
        pods = [
            item
            for item in items
            if (item["metadata"].get("labels") or {}).get("app") == app
            and item["metadata"]["namespace"] in searched
            and is_active(item, self._settings.gateway_container)
        ]
        if not pods:
            raise NoActivePodError(
                f"gateway {gateway.name} exists, but no pod of it runs in {', '.join(searched)} (label app={app}). "
                "Bring the gateway's pod up; if its pods live elsewhere, set EIP_RECLAIMER_GATEWAY_NAMESPACE or "
                f"EIP_RECLAIMER_GATEWAY_POD_PREFIX. Then: eip-reclaimer failed replay --all --gateway {gateway.name}"
            )
        return [Pod(self._place(pod), frozenset(base_addresses(pod))) for pod in pods]

    def own_addresses(self, pods: Iterable[Pod], subnets: Iterable[Subnet]) -> set[IPAddress]:
        """The addresses that are the pods' own, in the cluster and on the gateway's external subnets."""
        providers = sorted({subnet.provider for subnet in subnets})
        return {address for pod in pods for address in pod.told | self._base_addresses(pod.place, providers)}

    def _with_pods(self, gateway: NatGateway, namespaces: Collection[str]) -> tuple[NatGateway, list[Pod]]:
        self._pods.pop(gateway.name, None)
        searched = self.namespaces(gateway, namespaces)
        pods = self.active_among(gateway, self.pod_objects(searched, self._app(gateway)), searched)
        self._pods[gateway.name] = (time.monotonic(), sorted(namespaces), pods)
        return gateway, pods

    def _remembered(self, name: str) -> NatGateway | None:
        read_at, gateway = self._gateways.get(name, (float("-inf"), None))
        return gateway if time.monotonic() - read_at < UNCHANGED_SECONDS else None

    def _app(self, gateway: NatGateway) -> str:
        return f"{self._settings.gateway_pod_prefix}-{gateway.name}"

    def _place(self, pod: Object) -> GatewayPod:
        metadata = pod["metadata"]
        return GatewayPod(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            node=str((pod.get("spec") or {}).get("nodeName") or ""),
            container=self._settings.gateway_container,
        )

    def _base_addresses(self, pod: GatewayPod, providers: list[str]) -> frozenset[IPAddress]:
        """From the `IP` objects, which name the pod; they stay the same as long as the pod does."""
        uid = "/".join((pod.uid, *providers))
        with self._base_lock:
            if uid in self._base:
                self._base.move_to_end(uid)
                return self._base[uid]
        name = f"{pod.name}.{pod.namespace}"
        found: set[IPAddress] = set()
        for ip_name in (name, *(f"{name}.{provider}" for provider in providers if provider)):
            ip_object = self._api.get(f"{IPS}/{ip_name}")
            if ip_object is not None:
                found |= ip_object_addresses(ip_object)
        with self._base_lock:
            self._base[uid] = frozenset(found)
            if len(self._base) > REMEMBERED_PODS:
                self._base.popitem(last=False)
        return frozenset(found)


def _readable(items: Iterable[Object]) -> list[NatGateway]:
    found = []
    for item in items:
        try:
            found.append(read_gateway(item))
        except MalformedObjectError as error:
            log.error("gateway cannot be read", reason=str(error))
    return found
