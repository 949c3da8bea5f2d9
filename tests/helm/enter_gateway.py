"""What a worker with netlink does on its node, as a process whose rights a test chooses.

`python -m tests.helm.enter_gateway PROC UID ADDRESS` finds the pod's namespace in a directory like /proc, enters it and
takes the address off; prints `done`, or why not.
"""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path

from shared.errors import ReclaimerError
from workers.gateways.interface import DeleteAddress, GatewayPod
from workers.gateways.namespaces import ProcessLocator
from workers.gateways.netlink import NetlinkDriver


def main() -> int:
    proc, uid, address = sys.argv[1:]
    pod = GatewayPod(name="gw1-0", namespace="kube-system", uid=uid, node="node-a", container="vpc-nat-gw")
    try:
        with NetlinkDriver(ProcessLocator(Path(proc))).open(pod) as gateway:
            found = [each for each in gateway.read().addresses if each.ip == ip_address(address)]
            gateway.carry_out([DeleteAddress(each) for each in found], lambda: None)
    except ReclaimerError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write("done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
