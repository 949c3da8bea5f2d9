"""Gateways of this machine's kernel whose objects are in a real API server, and the kubelets behind its pods/exec."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from sandbox.api.execution import Executions
from sandbox.background import BackgroundLoop
from sandbox.gateways import GatewayHost
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import EIPS, FINALIZER, PODS, eip, eip_labels
from sandbox.pods import PodNamespaces
from sandbox.redis_server import free_port
from sandbox.segments import addresses_in, run_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.objects import Object
    from tests.kube.envtest import RealApiServer

SUBNET = "ovn-vpc-external-network"
CIDR, ROUTER = "10.2.0.0/16", "10.2.255.254"
NODE_PATH = "/api/v1/nodes"


class RealGateways:
    """Gateways on nodes of a real API. Nobody cleans up behind EIPs: the address of one that is deleted leaks."""

    def __init__(self, api: RealApiServer, directory: Path, nodes: Sequence[str]) -> None:
        self._api = api
        self._nodes = tuple(nodes)
        self.netns_dir = directory / "netns"
        self._kubeconfig = api.kubeconfig(directory / "gateways.kubeconfig")
        self._background = BackgroundLoop()
        self._kubelet_port = free_port()

    def __enter__(self) -> Self:
        self._background.start()
        self._background.call(self._start())
        for node in self._nodes:
            self._add_node(node)
        return self

    def __exit__(self, *_: Any) -> None:
        for node in self._nodes:
            self._api.ask("DELETE", f"{NODE_PATH}/{node}")
        self._background.call(self._stop())
        self._background.stop()

    def add_gateway(self, name: str, node: str, namespace: str | None = None) -> None:
        """Add a gateway whose pod runs on that node."""
        self._hosts.node = node
        self._background.call(self._hosts.add_gateway(name, [SUBNET], namespace=namespace))

    def add_eips(self, gateway: str, addresses: dict[str, str]) -> None:
        """Add EIPs with these addresses by their names, as Kube-OVN leaves them: on the gateway, ready, held."""
        (pod,) = self._hosts.gateways[gateway].pods.values()
        commands = [f"addr add {address}/16 dev net1" for address in addresses.values()]
        self._background.namespaces.submit(run_batch, pod.namespace, commands).result()
        for name, address in addresses.items():
            self._background.call(self._add_eip(name, gateway, address))

    def add_waiting_eip(self, name: str, gateway: str) -> None:
        """Add an EIP that has no address yet, for which the gateway's releases wait."""
        self._background.call(self._api_client.create(EIPS, eip(name, gateway)))

    def delete_eip(self, name: str) -> None:
        """Delete an EIP as Kube-OVN's controller with the wrong argument does: only its object goes."""

        async def delete() -> None:
            await self._api_client.patch(EIPS, name, {"metadata": {"finalizers": None}})
            await self._api_client.delete(EIPS, name)

        self._background.call(delete())

    def uid(self, name: str) -> str:
        """The UID of an EIP."""
        found = self._background.call(self._api_client.get(EIPS, name))
        assert found is not None, name
        return str(found["metadata"]["uid"])

    def addresses(self, gateway: str) -> list[str]:
        """The addresses on the gateway's external interface now."""
        (pod,) = self._hosts.gateways[gateway].pods.values()
        return [str(each["local"]) for each in addresses_in(pod.namespace, "net1")]

    @property
    def executions(self) -> int:
        """How many commands ran in pods by now."""
        return self._executions.total

    async def _start(self) -> None:
        self._api_client = KubernetesApi.from_kubeconfig(self._kubeconfig)
        pods = PodNamespaces(self.netns_dir)
        self._hosts = GatewayHost(self._api_client, pods, self._background.namespaces)
        await self._hosts.add_subnet(SUBNET, CIDR, ROUTER)
        self._executions = Executions(pods, 0.0)
        application = web.Application()
        application.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.load_cert_chain(self._api.certificate, self._api.certificate.with_suffix(".key"))
        await web.TCPSite(self._runner, "127.0.0.1", self._kubelet_port, ssl_context=certificates).start()

    async def _stop(self) -> None:
        await self._executions.stop()
        await self._runner.cleanup()
        await self._hosts.close()
        await self._api_client.close()

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """What the API server asks a kubelet, which calls the streams otherwise than pods/exec does."""
        place = request.match_info
        pod = await self._api_client.get(PODS, place["pod"], namespace=place["namespace"])
        assert pod is not None
        names = {"input": "stdin", "output": "stdout", "error": "stderr"}
        query = [(names.get(name, name), value) for name, value in request.query.items()]
        asked = request.clone(rel_url=request.rel_url.with_query([*query, ("container", place["container"])]))
        return await self._executions.serve(asked, pod)

    async def _add_eip(self, name: str, gateway: str, address: str) -> None:
        body = eip(name, gateway, v4ip=address)
        body["metadata"] |= {"labels": eip_labels(gateway, SUBNET, [address]), "finalizers": [FINALIZER]}
        await self._api_client.create(EIPS, body)
        status: Object = {"status": {"ready": True, "ip": address}}
        await self._api_client.patch(EIPS, name, status, subresource="status")

    def _add_node(self, name: str) -> None:
        self._api.ask("POST", NODE_PATH, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._kubelet_port}},
        }
        self._api.ask("PATCH", f"{NODE_PATH}/{name}/status", {"status": status}, "application/merge-patch+json")
