"""Kube-OVN's own path: for each EIP that goes, one exec of its script's `eip-del` with the address, as its fix has it.

The controller hands EIPs to workers of its own, but two execs in one gateway's pod wait for each other: a gateway is
worked on address by address. So there is a queue and a task per gateway here. What Go does faster than Python is no
matter beside the exec itself; the client is the leanest there is at hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import CONTAINER, EIPS, PODS, SCRIPT


class Gateways:
    """One queue and one task per gateway."""

    def __init__(self, api: KubernetesApi, pods: dict[str, Any], prefix_length: int) -> None:
        self._api = api
        self._pods = pods
        self._prefix_length = prefix_length
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self, eip: dict[str, Any]) -> None:
        """Let its gateway's task come to it."""
        gateway = eip["spec"]["natGwDp"]
        if gateway not in self._queues:
            self._queues[gateway] = asyncio.Queue()
            self._tasks.add(asyncio.create_task(self._work(gateway)))
        self._queues[gateway].put_nowait(eip)

    async def _work(self, gateway: str) -> None:
        while True:
            eip = await self._queues[gateway].get()
            argv = ["bash", SCRIPT, "eip-del", f"{eip['status']['ip']}/{self._prefix_length}"]
            result = await self._api.exec(self._pods[gateway], CONTAINER, argv)
            tell(gone=eip["metadata"]["name"], exit_code=result.exit_code)


def tell(**fields: Any) -> None:
    """Say something to whoever measures."""
    sys.stdout.write(json.dumps({**fields, "at": time.time()}) + "\n")
    sys.stdout.flush()


async def pods_by_gateway(api: KubernetesApi) -> dict[str, Any]:
    """The only pod of each gateway."""
    found, _ = await api.list(PODS, labels="ovn.kubernetes.io/vpc-nat-gw=true")
    return {pod["metadata"]["labels"]["app"].removeprefix("vpc-nat-gw-"): pod for pod in found}


async def follow(prefix_length: int) -> None:
    """Follow the API's EIPs for ever."""
    async with KubernetesApi.from_kubeconfig(Path(os.environ["EIP_RECLAIMER_KUBECONFIG"])) as api:
        gateways = Gateways(api, await pods_by_gateway(api), prefix_length)
        ready = False
        async for event in api.follow(EIPS):
            if not ready:
                # It has listed, so from now on it misses nothing.
                ready = True
                tell(ready=True)
            if event.type == "DELETED":
                gateways.release(event.object)


if __name__ == "__main__":
    asyncio.run(follow(int(sys.argv[1])))
