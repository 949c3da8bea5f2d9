"""The sandbox cluster as a process of its own: `python -m tests.chaos.cluster DIRECTORY`.

It reads one JSON command a line, `["replace_pod", "gw-1"]`, and answers each with a line. Its first line says where
things are. It ends with its input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.cluster import SandboxCluster
from sandbox.gateways import GatewayPod
from sandbox.pods import Fault
from sandbox.segments import run_batch

SUBNET, CIDR, ROUTER = "external", "10.64.0.0/16", "10.64.255.254"
EXCLUDED = "10.64.192.0..10.64.254.255"
DECOYS = (
    "addr add 192.0.2.7/24 dev net1",
    "addr add 10.64.200.7/16 dev net1",
    "route add 198.51.100.0/24 via 10.64.255.254 dev net1 onlink proto 99",
    "route add 203.0.113.0/24 via 10.64.255.254 dev net1 onlink proto 99 table 77",
    "rule add pref 1077 from 198.51.100.7 lookup 77",
)
"""What an operator may have put on a gateway by hand, and nobody may touch."""


class Commands:
    """What the torture asks of the cluster."""

    def __init__(self, cluster: SandboxCluster) -> None:
        self._cluster = cluster

    def add_gateway(self, name: str, *, pods: int, no_default_eip: bool, promote_secondaries: bool) -> list[str]:
        """Add one; the UIDs of its pods."""
        made = self._cluster.add_gateway(
            name,
            [SUBNET],
            replicas=pods,
            no_default_eip=no_default_eip,
            promote_secondaries=promote_secondaries,
        )
        return [self._furnish(pod, no_default_eip=no_default_eip) for pod in made]

    def remove_pod(self, gateway: str, pod: str) -> None:
        """End a pod; its UID."""
        self._cluster.remove_pod(gateway, self._name(gateway, pod))

    def add_pod(self, gateway: str, *, no_default_eip: bool) -> str:
        """Start a pod; its UID."""
        return self._furnish(self._cluster.add_pod(gateway), no_default_eip=no_default_eip)

    def set_fault(self, gateway: str, pod: str, fault: str, times: int) -> None:
        """Let the next commands in a pod go wrong."""
        self._cluster.set_fault(gateway, Fault[fault], pod=self._name(gateway, pod), times=times)

    def _name(self, gateway: str, uid: str) -> str:
        return next(pod.name for pod in self._cluster.pods(gateway) if pod.uid == uid)

    @staticmethod
    def _furnish(pod: GatewayPod, *, no_default_eip: bool) -> str:
        # An address of the subnet would be the primary one, which an EIP's is to be on a gateway without default EIP.
        run_batch(pod.namespace, [each for each in DECOYS if not (no_default_eip and "10.64.200.7" in each)])
        return pod.uid


def main() -> None:
    """Obey until the input ends."""
    with SandboxCluster(Path(sys.argv[1]), run_controller=False) as cluster:
        cluster.add_subnet(SUBNET, CIDR, ROUTER, exclude_ips=[EXCLUDED])
        commands = Commands(cluster)
        _answer({"server": cluster.server.url, "entrance": cluster.entrance, "kubeconfig": str(cluster.kubeconfig)})
        for line in sys.stdin:
            name, args, kwargs = json.loads(line)
            command: Callable[..., Any] = getattr(commands, name)
            try:
                _answer({"value": command(*args, **kwargs)})
            except Exception as error:
                _answer({"error": f"{name}{args}: {type(error).__name__}: {error}"})


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
