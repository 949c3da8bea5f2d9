"""Clusters with many EIPs at once: objects straight into the API, addresses straight into the kernel.

The controller takes a second for each; here it is not asked, and must not run while EIPs are added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox import objects
from sandbox.cluster import SandboxCluster
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import EIPS, FINALIZER

AT_ONCE = 20


def add_eips(cluster: SandboxCluster, eips: Mapping[str, tuple[str, str]], subnet: str) -> None:
    """Add EIPs as they are when Kube-OVN is done with them, without their addresses in the kernel.

    Args:
        cluster: where; its controller is stopped.
        eips: by name, gateway and address.
        subnet: the external subnet.
    """

    async def add_all() -> None:
        slots = asyncio.Semaphore(AT_ONCE)
        async with KubernetesApi.from_kubeconfig(cluster.kubeconfig) as api:

            async def add(name: str, gateway: str, address: str) -> None:
                body: dict[str, Any] = objects.eip(name, gateway, v4ip=address, external_subnet=subnet)
                body["metadata"] |= {
                    "labels": objects.eip_labels(gateway, subnet, [address]),
                    "finalizers": [FINALIZER],
                }
                async with slots:
                    await api.create(EIPS, body)
                    await api.patch(EIPS, name, {"status": {"ip": address, "ready": True}}, subresource="status")

            await asyncio.gather(*(add(name, *place) for name, place in eips.items()))

    asyncio.run(add_all())


def add_addresses(cluster: SandboxCluster, gateway: str, addresses: Iterable[str], prefix_length: int) -> None:
    """Put addresses on the external interface of a gateway's only pod."""
    lines = "".join(f"address add {address}/{prefix_length} dev net1\n" for address in addresses)
    cluster.pod(gateway).namespace.run("ip", "-batch", "-", stdin=lines)
