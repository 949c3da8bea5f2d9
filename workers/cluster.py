"""What a worker asks the Kubernetes API: where a gateway's pods are, which addresses are theirs, who owns what."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from shared.errors import MalformedObjectError, NoActivePodError
from shared.kube.api import EIPS, GATEWAYS, IPS, SUBNETS, KubeApi, Object
from shared.kube.objects import (
    GATEWAY_LABEL,
    NatGateway,
    Subnet,
    base_addresses,
    claimed_texts,
    ip_object_addresses,
    is_active,
    read_eip,
    read_gateway,
    read_subnet,
)
from shared.log import get_logger
from shared.models import EIP, IPAddress
from shared.queue import WorkQueue
from shared.settings import Settings
from workers.gateways.interface import GatewayPod

log = get_logger(__name__)

SUBNET_SECONDS = 60
"""How long a Subnet object is taken as unchanged."""
REMEMBERED_PODS = 1000
LONGEST_LABEL = 63


@dataclass(frozen=True, slots=True)
class Pod:
    """An active gateway pod and the addresses that are its own."""

    place: GatewayPod
    base_addresses: frozenset[IPAddress]


@dataclass(slots=True)
class Owners:
    """Who owns what on one gateway, at one moment."""

    by_address: dict[str, str] = field(default_factory=dict)
    """Address → who owns it, in words."""
    placed: set[str] = field(default_factory=set)
    """Addresses that Kube-OVN has put on the gateway for an owner that the API lists."""
    known: dict[str, str] = field(default_factory=dict)
    """Address → UID of its owner, where only the inventory tells of one."""
    waiting: list[EIP] = field(default_factory=list)
    """EIPs of the gateway that have no address yet."""

    def of(self, address: IPAddress) -> str | None:
        """Who owns the address; None for nobody."""
        return self.by_address.get(str(address))


class Cluster:
    """The API as workers see it. Not safe across threads."""

    def __init__(self, api: KubeApi, work_queue: WorkQueue, settings: Settings) -> None:
        self._api = api
        self._work_queue = work_queue
        self._settings = settings
        self._subnets: dict[str, tuple[float, Subnet | None]] = {}
        self._base: OrderedDict[str, frozenset[IPAddress]] = OrderedDict()

    def gateway(self, name: str) -> NatGateway | None:
        """The gateway object; None when it does not exist, so that nothing is left to clean."""
        found = self._api.get(f"{GATEWAYS}/{name}")
        return None if found is None else read_gateway(found)

    def external_subnets(self, gateway: NatGateway, named: Iterable[str | None]) -> list[Subnet]:
        """The gateway's external subnets and those that work on it names; what no longer exists is left out."""
        names = {name or self._settings.external_subnet for name in named} | set(gateway.external_subnets)
        found = (self.subnet(name) for name in sorted(names or {self._settings.external_subnet}))
        return [subnet for subnet in found if subnet is not None]

    def subnet(self, name: str) -> Subnet | None:
        """A subnet; None when it does not exist or cannot be read, which is reported."""
        read_at, subnet = self._subnets.get(name, (float("-inf"), None))
        if time.monotonic() - read_at < SUBNET_SECONDS:
            return subnet
        try:
            found = self._api.get(f"{SUBNETS}/{name}")
            subnet = None if found is None else read_subnet(found)
        except MalformedObjectError as error:
            log.error("subnet cannot be read", reason=str(error))
            subnet = None
        self._subnets[name] = (time.monotonic(), subnet)
        return subnet

    def active_pods(self, gateway: NatGateway, namespaces: Collection[str], subnets: Iterable[Subnet]) -> list[Pod]:
        """The pods of the gateway that run.

        Args:
            gateway: the gateway.
            namespaces: those that EIPs name for its pods; without any, the gateway's or the configured one.
            subnets: the gateway's external subnets.

        Raises:
            NoActivePodError: none runs now.
        """
        app = f"{self._settings.gateway_pod_prefix}-{gateway.name}"
        places = sorted(set(namespaces) or {gateway.namespace or self._settings.gateway_namespace})
        providers = sorted({subnet.provider for subnet in subnets})
        pods = []
        for namespace in places:
            items, _ = self._api.list_objects(
                f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"app={app},ovn.kubernetes.io/vpc-nat-gw=true"
            )
            pods += [item for item in items if is_active(item, self._settings.gateway_container)]
        if not pods:
            raise NoActivePodError(
                f"gateway {gateway.name} exists, but no pod of it runs in {', '.join(places)} (label app={app}). "
                "Bring the gateway's pod up; if its pods live elsewhere, set EIP_RECLAIMER_GATEWAY_NAMESPACE or "
                "EIP_RECLAIMER_GATEWAY_POD_PREFIX. Then requeue this job if it has failed."
            )
        return [Pod(self._place(pod), self._base_addresses(pod, providers)) for pod in pods]

    def owners(self, gateway: str, addresses: Iterable[IPAddress]) -> Owners:
        """Who owns addresses on a gateway: what the API says now, and what the inventory knows.

        The API is the truth and is asked every time. The inventory is believed beside it: an EIP that it still has is
        either live, or its own release is about to be published.
        """
        owners = Owners()
        for item in self._eips_of(gateway):
            try:
                eip = read_eip(item)
            except MalformedObjectError as error:
                # What cannot be read may still be an owner.
                log.error("object cannot be read", reason=str(error))
                owners.by_address |= dict.fromkeys(claimed_texts(item), "an EIP that cannot be read")
                continue
            if eip.gateway != gateway:
                continue
            if not eip.addresses and not eip.terminating:
                owners.waiting.append(eip)
            state = "terminating EIP" if eip.terminating else "EIP"
            owners.by_address |= dict.fromkeys(eip.addresses, f"{state} {eip.name}")
            owners.placed |= set(eip.addresses) if eip.placed else set()
        redis, keys = self._work_queue.redis, self._work_queue.keys
        for address in sorted(set(map(str, addresses)) - set(owners.by_address)):
            uid: bytes | None = redis.srandmember(keys.owners(gateway, address))  # type: ignore[assignment]
            if uid:
                owners.known[address] = uid.decode()
                owners.by_address[address] = f"known EIP with UID {uid.decode()}"
        return owners

    def is_placed(self, owners: Owners, address: IPAddress) -> bool:
        """Whether Kube-OVN has put an address on the gateway for an owner that is there.

        An owner that the API's list lacks is asked for by name: the list may be wrong, and so may be what is known.
        """
        uid = owners.known.get(str(address))
        if uid is None:
            return str(address) in owners.placed
        stored: bytes | None = self._work_queue.redis.hget(self._work_queue.keys.inventory, uid)  # type: ignore[assignment]
        eip = EIP.from_json(stored) if stored is not None else None
        if eip is None or not eip.placed:
            return False
        found = self._api.get(f"{EIPS}/{eip.name}")
        return found is not None and found["metadata"].get("uid") == uid

    def _eips_of(self, gateway: str) -> list[Object]:
        """At least the gateway's EIPs. The controller labels an EIP only after its address is on the gateway."""
        if len(gateway) > LONGEST_LABEL:
            return self._api.list_objects(EIPS)[0]
        labelled, _ = self._api.list_objects(EIPS, labelSelector=f"{GATEWAY_LABEL}={gateway}")
        unlabelled, _ = self._api.list_objects(EIPS, labelSelector=f"!{GATEWAY_LABEL}")
        return labelled + unlabelled

    def _place(self, pod: Object) -> GatewayPod:
        metadata = pod["metadata"]
        return GatewayPod(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            node=str((pod.get("spec") or {}).get("nodeName") or ""),
            container=self._settings.gateway_container,
        )

    def _base_addresses(self, pod: Object, providers: list[str]) -> frozenset[IPAddress]:
        """From the pod itself and from its `IP` objects, which name it; they stay the same as long as the pod does."""
        uid = "/".join((pod["metadata"]["uid"], *providers))
        if uid in self._base:
            self._base.move_to_end(uid)
            return self._base[uid]
        name = f"{pod['metadata']['name']}.{pod['metadata']['namespace']}"
        found = base_addresses(pod)
        for ip_name in (name, *(f"{name}.{provider}" for provider in providers if provider)):
            ip_object = self._api.get(f"{IPS}/{ip_name}")
            if ip_object is not None:
                found |= ip_object_addresses(ip_object)
        self._base[uid] = frozenset(found)
        if len(self._base) > REMEMBERED_PODS:
            self._base.popitem(last=False)
        return self._base[uid]
