"""Layer-2 networks outside the gateways: where an EIP is reached from.

A `Segment` is a namespace with a bridge. Gateways' external interfaces are ports of it, the bridge itself has the
subnet's gateway address and routes, and clients stand either behind that router or on the wire.
"""

from __future__ import annotations

import itertools
import json
import random
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from sandbox.netns import NetworkNamespace

if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE = "bridge0"
CLIENT_ROUTERS = ("198.18.0.1/24", "2001:db8:18::1/64")
"""The router's side of the networks in which clients stand that are not on the segment itself."""

_SETTINGS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    # Set before interfaces are made, which copy `default`: a host's own choice is inherited otherwise.
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
    "net/ipv6/conf/default/accept_dad": 0,
}
_CLIENT_SETTINGS = {"net/ipv6/conf/default/accept_dad": 0}


class Segment:
    """One external (or VPC) network. Create it from a thread that outlives it, as every namespace.

    `addresses` are the router's, with prefix length: `["10.1.69.254/24"]`.
    """

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.clients: list[NetworkNamespace] = []
        self._ports = itertools.count()
        self._hosts = itertools.count(1)
        self.namespace = NetworkNamespace()
        self.namespace.set_sysctl(_SETTINGS)
        run_batch(
            self.namespace,
            [
                f"link add {BRIDGE} type bridge mcast_snooping 0",
                f"link set {BRIDGE} up",
                *(f"addr add {address} dev {BRIDGE}" for address in (*addresses, *CLIENT_ROUTERS)),
            ],
        )

    def connect(self, namespace: NetworkNamespace, interface: str, mac: str) -> str:
        """Give a namespace an interface on this segment, up and without addresses; the name of the segment's port."""
        port = f"port{next(self._ports)}"
        run_batch(
            self.namespace,
            [
                f"link add {port} type veth peer name {interface} address {mac} netns {namespace.pid}",
                f"link set {port} master {BRIDGE} up",
            ],
        )
        namespace.ip("link", "set", interface, "up")
        return port

    def disconnect(self, port: str) -> None:
        """Remove a port and the interface at its other end; one that is already gone is no error."""
        self.namespace.run("ip", "link", "del", port, check=False)

    def attach_client(self, *addresses: str) -> NetworkNamespace:
        """An outside machine, with its interface `eth0`.

        With addresses (`10.1.69.10/24`) it is on the wire, and sees who answers ARP for an EIP. Without, it is behind
        the segment's router.
        """
        client = NetworkNamespace()
        self.clients.append(client)
        client.set_sysctl(_CLIENT_SETTINGS)
        self.connect(client, "eth0", random_mac())
        commands = [f"addr add {address} dev eth0" for address in addresses]
        if not addresses:
            number = next(self._hosts)
            for text in CLIENT_ROUTERS:
                router = ip_interface(text)
                commands.append(f"addr add {router.ip + number}/{router.network.prefixlen} dev eth0")
                commands.append(f"route add default via {router.ip} dev eth0")
        run_batch(client, commands)
        return client

    def close(self) -> None:
        """End the segment and its clients."""
        for client in self.clients:
            client.close()
        self.namespace.close()


def run_batch(namespace: NetworkNamespace, commands: Sequence[str]) -> None:
    """Run several commands of iproute2's `ip` in a namespace, with one process.

    Raises:
        subprocess.CalledProcessError: one of them failed; the later ones did not run.
    """
    namespace.run("ip", "-batch", "-", stdin="\n".join(commands) + "\n")


def answers(client: NetworkNamespace, address: str, *, port: int = 9, timeout: float = 1) -> bool:
    """Whether a machine with this address answers a client within `timeout` seconds.

    A TCP connection is asked for, because a refusal is an answer too: nothing has to listen.
    """
    attempt = client.run(
        *("timeout", str(timeout), "bash", "-c", 'exec 3<>"/dev/tcp/$1/$2"', "bash", address, str(port)), check=False
    )
    return attempt.returncode == 0 or "refused" in attempt.stderr


def random_mac() -> str:
    """A locally administered unicast MAC address."""
    first, *rest = random.randbytes(6)
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 0x02, *rest))


def addresses_in(namespace: NetworkNamespace, interface: str) -> list[dict[str, Any]]:
    """The `addr_info` entries of an interface in the kernel's order, link-local ones left out."""
    return shown_addresses(namespace.ip("-j", "addr", "show", "dev", interface))


def shown_addresses(shown: str) -> list[dict[str, Any]]:
    """The same, from what `ip -j addr show dev INTERFACE` printed."""
    return [each for each in json.loads(shown)[0]["addr_info"] if each["scope"] == "global"]
