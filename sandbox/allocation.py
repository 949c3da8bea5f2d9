"""The controller's IPAM: the pools of all subnets, read from the objects in the API at each start."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from sandbox import objects
from sandbox.eip_writer import has_finalizer
from sandbox.ipam import Reuse, SubnetPool
from sandbox.objects import EIPS, GATEWAYS, IPS, SUBNETS, Object
from sandbox.placement import Placement, RetryLaterError, interface_of, pods_namespace, wanted_addresses
from sandbox.segments import random_mac

if TYPE_CHECKING:
    from sandbox.kubernetes_api import Event, KubernetesApi
    from sandbox.record import Records


class Allocation:
    """Who holds which address: EIPs by UID, pods' base addresses by their IP object as `ip/<name>`."""

    def __init__(self, api: KubernetesApi, reuse: Reuse, records: Records) -> None:
        self._api = api
        self._reuse: Reuse = reuse
        self._records = records
        self.pools: dict[str, SubnetPool] = {}

    async def read(self) -> None:
        """Forget everything, and take what the objects say."""
        subnets, _ = await self._api.list(SUBNETS)
        self.pools = {each["metadata"]["name"]: SubnetPool.from_subnet(each, self._reuse) for each in subnets}
        await self._read_base_addresses()
        for eip in (await self._api.list(EIPS))[0]:
            if has_finalizer(eip):
                self._hold(subnet_of(eip), eip["metadata"]["uid"], [str(ip) for ip in wanted_addresses(eip)])

    def ip_event(self, event: Event) -> None:
        """Follow a change of an IP object."""
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.release(f"ip/{name}", detail=f"IP object {name}")
        else:
            self._hold_base(event.object)

    async def place(self, eip: Object) -> Placement:
        """Where an EIP belongs, with the addresses it holds or gets now.

        Raises:
            RetryLaterError: its gateway or its subnet is not there.
            AddressUnavailableError: the address it asks for is taken, or there is none left.
        """
        name, uid = eip["metadata"]["name"], eip["metadata"]["uid"]
        gateway = await self._api.get(GATEWAYS, eip["spec"]["natGwDp"])
        if gateway is None and not eip["metadata"].get("deletionTimestamp"):
            raise RetryLaterError(f"there is no gateway {eip['spec']['natGwDp']}")
        subnet = subnet_of(eip)
        pool = await self._pool(subnet)
        before = pool.addresses_of(uid)
        addresses = pool.allocate(uid, wanted_addresses(eip))
        placement = Placement(
            eip=name,
            uid=uid,
            gateway=eip["spec"]["natGwDp"],
            namespace=pods_namespace(eip, gateway),
            interface=interface_of(gateway, subnet),
            subnet=subnet,
            mac=eip["spec"].get("macAddress") or random_mac(),
            addresses=tuple((ip, pool.network_of(ip)) for ip in addresses),
        )
        if before != addresses:
            self._records.add("allocated", **placement.about)
        return placement

    def hand_over(self, placement: Placement, uid: str) -> None:
        """Let another EIP hold what a placement's holds."""
        self.pools[placement.subnet].hand_over(placement.uid, uid)

    def release(self, owner: str, **about: str) -> None:
        """Take back all that an owner holds; none is no error."""
        for pool in self.pools.values():
            # A pod that comes back has its base address again.
            if addresses := pool.release(owner, again=not owner.startswith("ip/")):
                self._records.add("released", uid=owner, addresses=tuple(map(str, addresses)), **about)

    async def _pool(self, subnet: str) -> SubnetPool:
        if subnet not in self.pools:
            item = await self._api.get(SUBNETS, subnet)
            if item is None:
                raise RetryLaterError(f"there is no subnet {subnet}")
            self.pools[subnet] = SubnetPool.from_subnet(item, self._reuse)
            await self._read_base_addresses()
        return self.pools[subnet]

    async def _read_base_addresses(self) -> None:
        for ip in (await self._api.list(IPS))[0]:
            self._hold_base(ip)

    def _hold_base(self, ip: Object) -> None:
        spec = ip["spec"]
        owner = f"ip/{ip['metadata']['name']}"
        self._hold(spec["subnet"], owner, [spec.get("v4IpAddress", ""), spec.get("v6IpAddress", "")])

    def _hold(self, subnet: str, owner: str, addresses: list[str]) -> None:
        if pool := self.pools.get(subnet):
            for text in filter(None, addresses):
                pool.hold(owner, ip_address(text))


def subnet_of(eip: Object) -> str:
    """The external subnet that an EIP's address is of."""
    return eip["spec"].get("externalSubnet") or objects.DEFAULT_EXTERNAL_SUBNET
