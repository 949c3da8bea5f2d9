"""The floor of an address: pyroute2 on an open socket in the gateway's namespace, and our driver's look beside it.

Prints seconds per address: `look` is one dump of the addresses, `delete` one RTM_DELADDR (of an address that is not
there, which the kernel answers as quickly), `driver_look` what the product's driver does to open and read a gateway.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from workers.gateways.interface import GatewayPod
from workers.gateways.namespaces import DirectoryLocator, netlink_socket
from workers.gateways.netlink import NetlinkDriver


def main(directory: str, pod_uid: str, count: int) -> None:
    """Time so many of each."""
    with Path(directory, pod_uid).open() as namespace:
        bare = IPRoute(fileno=netlink_socket(namespace.fileno()), groups=0)
    driver = NetlinkDriver(DirectoryLocator(directory))
    pod = GatewayPod("pod", "kube-system", pod_uid, "sandbox-node")
    index = bare.link_lookup(ifname="net1")[0]

    def delete() -> None:
        try:
            bare.addr("del", index=index, address="10.79.0.1", prefixlen=12)
        except NetlinkError as error:
            if error.code != errno.EADDRNOTAVAIL:
                raise

    def look() -> None:
        list(bare.get_addr(index=index))

    def driver_look() -> None:
        with driver.open(pod) as gateway:
            gateway.read()

    facts = {each.__name__: _seconds(each, count) for each in (look, delete, driver_look)}
    sys.stdout.write(json.dumps(facts) + "\n")


def _seconds(what: Callable[[], None], count: int) -> float:
    what()
    began = time.perf_counter()
    for _ in range(count):
        what()
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
