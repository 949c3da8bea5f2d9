"""One pod of a gateway in a round: what it had when the round began, and what it showed at the last look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from shared.kube.objects import Subnet
from shared.models import IPAddress
from workers.gateways.interface import Address, Fence, Gateway, Snapshot, Step
from workers.places import Pod
from workers.precedence import among


class Site:
    """One opened pod. A round asks it about each of its releases, and a pod may have hundreds of addresses."""

    def __init__(self, pod: Pod, gateway: Gateway, inside: Collection[str]) -> None:
        """Reads the pod; `inside` names the interfaces that are not external."""
        self.pod = pod
        self.gateway = gateway
        self.before = self.now = gateway.read()
        self._inside = inside
        self._held = self._external(self.before)
        self._shown = self._held
        self._global = _count(self._shown)

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> None:
        """Change the pod, and look at it once more; see `interface.Gateway.carry_out`."""
        self.now = self.gateway.carry_out(steps, fence)
        self._shown = self._external(self.now)
        self._global = _count(self._shown)

    def holds(self, addresses: Collection[IPAddress]) -> list[Address]:
        """Where the addresses were on external interfaces when the round began, in the kernel's order."""
        return _places(self._held, addresses)

    def has(self, addresses: Collection[IPAddress]) -> list[Address]:
        """Where they are on external interfaces by the last look, in the kernel's order."""
        return _places(self._shown, addresses)

    def places_beside(self, ip: IPAddress, subnets: Iterable[Subnet]) -> Iterator[tuple[Address, IPAddress]]:
        """Where an address belongs by the last look, beside each of the others of its subnets, which is told too."""
        for network in (network for subnet in subnets if (network := subnet.network_of(ip))):
            for neighbour in self.now.addresses:
                if neighbour.ip != ip and neighbour.ip in network and neighbour.interface not in self._inside:
                    yield Address(neighbour.interface, ip, network.prefixlen), neighbour.ip

    def shows(self, addresses: Collection[IPAddress]) -> str:
        """What the last look showed of the addresses, in words."""
        there = self.has(addresses)
        others = self._global - len(there)
        return f"{', '.join(map(str, there)) or 'not there'}, beside {others} others, on pod {self.pod.place.name}"

    def _external(self, snapshot: Snapshot) -> dict[IPAddress, list[tuple[int, Address]]]:
        found: dict[IPAddress, list[tuple[int, Address]]] = {}
        for order, address in enumerate(among(snapshot.addresses)):
            if address.interface not in self._inside:
                found.setdefault(address.ip, []).append((order, address))
        return found


def _count(found: dict[IPAddress, list[tuple[int, Address]]]) -> int:
    """How many addresses those are that anybody outside could reach."""
    return sum(address.scope == "global" for places in found.values() for _, address in places)


def _places(found: dict[IPAddress, list[tuple[int, Address]]], addresses: Collection[IPAddress]) -> list[Address]:
    places = sorted((place for ip in set(addresses) for place in found.get(ip, ())), key=lambda place: place[0])
    return [address for _, address in places]
