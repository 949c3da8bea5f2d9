"""An operator with kopf: a handler that execs `ip addr del` for each EIP that goes.

What a good engineer would make of kopf in an afternoon: the framework watches and calls; the handler is asynchronous,
deletes that very address, and retries. Addresses of one gateway are taken off by up to `AT_ONCE` execs side by side,
which is safe as long as none is a primary. Nobody looks for owners, and nobody looks again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import kopf

from benchmarks.peers.kube_ovn import pods_by_gateway, tell
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import CONTAINER

AT_ONCE = 4
TRIES = 3


class Operator:
    """The handler and what it needs."""

    def __init__(self, prefix_length: int) -> None:
        self.ready = False
        """Whether it has heard of the EIPs there are."""
        self._prefix_length = prefix_length
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._api: KubernetesApi
        self._pods: dict[str, Any]

    async def connect(self) -> None:
        """Find the gateways' pods."""
        self._api = KubernetesApi.from_kubeconfig(Path(os.environ["EIP_RECLAIMER_KUBECONFIG"]))
        self._pods = await pods_by_gateway(self._api)

    async def release(self, eip: dict[str, Any]) -> None:
        """Take its address off."""
        gateway, address = eip["spec"]["natGwDp"], f"{eip['status']['ip']}/{self._prefix_length}"
        async with self._slots[gateway]:
            for _ in range(TRIES):
                argv = ["ip", "addr", "del", address, "dev", "net1"]
                result = await self._api.exec(self._pods[gateway], CONTAINER, argv)
                if result.exit_code == 0:
                    break
        tell(gone=eip["metadata"]["name"], exit_code=result.exit_code)


def main(prefix_length: int) -> None:
    """Run kopf with one handler."""
    operator = Operator(prefix_length)

    @kopf.on.startup()
    async def connect(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        await operator.connect()

    @kopf.on.login()
    def login(**_: Any) -> kopf.ConnectionInfo:
        import yaml  # noqa: PLC0415 - only to find the server

        config = yaml.safe_load(Path(os.environ["EIP_RECLAIMER_KUBECONFIG"]).read_text())
        return kopf.ConnectionInfo(server=config["clusters"][0]["cluster"]["server"])

    @kopf.on.event("kubeovn.io", "v1", "iptables-eips")
    async def gone(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] == "DELETED":
            await operator.release(dict(event["object"]))
        elif not operator.ready:
            operator.ready = True
            tell(ready=True)

    logging.getLogger("kopf").setLevel(logging.WARNING)
    kopf.run(clusterwide=True, standalone=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
