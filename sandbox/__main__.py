"""`python -m sandbox --state DIR`: a cluster in one process, until it is asked to end.

    python -m sandbox --state /tmp/sandbox --gateway gw1 --eip eip1=gw1 --eip eip2=gw1,10.1.69.205 --leak wrong-argument

It writes `kubeconfig` and `sandbox.json` (what is where) into DIR, prints one line when all is ready, and takes both
away again when SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args

from sandbox import leaks
from sandbox.cluster import SandboxCluster
from sandbox.ipam import Reuse
from sandbox.objects import DEFAULT_EXTERNAL_SUBNET
from sandbox.privileges import require_rights


def main() -> int:
    """Read the command line, run, and wait for the end."""
    arguments = _parser().parse_args()
    require_rights()
    asked_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_end.set())
    state: Path = arguments.state
    existed = state.exists()
    cluster = SandboxCluster(
        state,
        host=str(arguments.host),
        name=arguments.name,
        port=arguments.port,
        switches=leaks.from_arguments(arguments),
        reuse=arguments.reuse,
        run_controller=arguments.controller,
        records=arguments.records,
    )
    map_file = state / "sandbox.json"
    # One that was killed left it: nobody may take it for this one's.
    map_file.unlink(missing_ok=True)
    try:
        with cluster:
            _fill(cluster, arguments)
            # All at once: others wait for it to be there, and read it then.
            unfinished = map_file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(_map_of(cluster), indent=2) + "\n")
            unfinished.replace(map_file)
            sys.stdout.write(f"ready: {cluster.server.url}, export KUBECONFIG={cluster.kubeconfig}\n")
            sys.stdout.flush()
            asked_to_end.wait()
    finally:
        map_file.unlink(missing_ok=True)
        if not existed:
            # What somebody else put into it stays.
            with contextlib.suppress(OSError):
                state.rmdir()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="A cluster with Kube-OVN's leaks.")
    parser.add_argument("--state", type=Path, required=True, help="where kubeconfig and sandbox.json go")
    parser.add_argument(
        "--host",
        type=ip_address,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the API's; beyond the loopback it asks for a token, which is in the kubeconfig (default: %(default)s)",
    )
    parser.add_argument("--name", help="the host's name in the kubeconfig, where others reach it by that")
    parser.add_argument("--port", type=int, default=0, help="the API's; a free one without")
    parser.add_argument(
        "--subnet",
        action="append",
        default=[],
        metavar="NAME=CIDR@GATEWAY",
        help=f"an external subnet, both families as v4,v6; without any: {DEFAULT_EXTERNAL_SUBNET}, 10.1.69.0/24",
    )
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="NAME[=SUBNET,…][*REPLICAS]",
        help="a gateway, on the first subnet without others named",
    )
    parser.add_argument("--no-default-eip", action="store_true", help="gateways get no base address")
    parser.add_argument("--eip", action="append", default=[], metavar="NAME=GATEWAY[,ADDRESS]")
    parser.add_argument("--no-controller", dest="controller", action="store_false")
    parser.add_argument("--records", type=Path, help="append what the controller does here, as JSON lines")
    parser.add_argument("--reuse", choices=get_args(Reuse), default="lowest", help="when addresses come again")
    leaks.add_arguments(parser)
    return parser


def _fill(cluster: SandboxCluster, arguments: argparse.Namespace) -> None:
    names = []
    for text in arguments.subnet:
        name, _, place = text.partition("=")
        cidr_block, _, gateway = place.partition("@")
        cluster.add_subnet(name, cidr_block, gateway)
        names.append(name)
    if not names:
        cluster.add_subnet()
        names = [DEFAULT_EXTERNAL_SUBNET]
    for text in arguments.gateway:
        gateway, _, replicas = text.partition("*")
        name, _, subnets = gateway.partition("=")
        cluster.add_gateway(
            name,
            subnets.split(",") if subnets else names[:1],
            replicas=int(replicas or 1),
            no_default_eip=arguments.no_default_eip,
        )
    for text in arguments.eip:
        name, _, place = text.partition("=")
        gateway, _, address = place.partition(",")
        # An EIP that is never to be ready is not waited for.
        wait = arguments.controller and not cluster.controller.switches.leaks.fails(name)
        cluster.create_eip(name, gateway, address or None, wait_ready=wait)


def _map_of(cluster: SandboxCluster) -> dict[str, Any]:
    """What is where, for whoever uses the cluster from outside."""
    gateways = {
        name: [
            {
                "name": pod.name,
                "namespace": gateway.namespace,
                "uid": pod.uid,
                "node": pod.node,
                "netns": str(pod.namespace.path),
                "interfaces": {each.name: list(each.addresses) for each in pod.interfaces},
            }
            for pod in gateway.pods.values()
        ]
        for name, gateway in cluster.hosts.gateways.items()
    }
    return {
        "pid": os.getpid(),
        "api": cluster.server.url,
        "kubeconfig": str(cluster.kubeconfig.resolve()),
        "netns_dir": str(cluster.netns_dir.resolve()),
        "gateways": gateways,
        "segments": {name: str(segment.namespace.path) for name, segment in cluster.hosts.segments.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
