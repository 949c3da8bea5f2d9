"""A whole cluster on one machine, without a cluster: API, gateways and controller, for tests and the demo.

Everything runs in one event loop in a thread of its own; the methods here may be called from any other thread, and
wait for what they ask for.

    with SandboxCluster() as cluster:
        cluster.add_subnet()
        cluster.add_gateway("gw1")
        cluster.create_eip("eip1", "gw1")
        cluster.controller.switches.leaks.wrong_argument = True
        cluster.delete_eip("eip1")
        assert cluster.addresses("gw1") == [...]
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox import objects
from sandbox.api.server import ApiServer
from sandbox.api.watching import Cut
from sandbox.background import BackgroundLoop, wait_for
from sandbox.controller import Controller
from sandbox.gateways import GatewayHost, GatewayPod
from sandbox.kubernetes_api import KubernetesApi
from sandbox.objects import DEFAULT_EXTERNAL_SUBNET, EIPS, Object
from sandbox.pods import Fault, PodNamespaces
from sandbox.record import Record, Records
from sandbox.segments import addresses_in

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from sandbox.ipam import Reuse
    from sandbox.leaks import Switches
    from sandbox.netns import NetworkNamespace
    from sandbox.segments import Segment

T = TypeVar("T")


class SandboxCluster:
    """An API server, gateways and a controller. `state` keeps its files; a directory that goes with it without one.

    `host` is the address that the API listens on; beyond the loopback it asks for a token, which is in the kubeconfig.
    `name` is the host's name in the kubeconfig, where others reach it by that.

    `kubeconfig` is the path of a file that leads to the API, `netns_dir` the directory with a link to each gateway
    pod's network namespace by pod UID. `controller` may be looked at and switched at any time; starting and ending it
    is done by the methods here.
    """

    def __init__(
        self,
        state: Path | None = None,
        *,
        host: str = "127.0.0.1",
        name: str | None = None,
        port: int = 0,
        switches: Switches | None = None,
        reuse: Reuse = "lowest",
        run_controller: bool = True,
        records: Path | None = None,
    ) -> None:
        self._temporary = None if state else Path(tempfile.mkdtemp(prefix="sandbox-"))
        self.state = state or self._temporary or Path()
        self.kubeconfig = self.state / "kubeconfig"
        self.netns_dir = self.state / "netns"
        self.controller: Controller
        self.api: KubernetesApi
        self.server: ApiServer
        self._entrance: ApiServer
        self.hosts: GatewayHost
        self._host = host
        self._name = name
        self._port = port
        self._switches = switches
        self._reuse: Reuse = reuse
        self._run_controller = run_controller
        self._records = Records(records)
        self.background = BackgroundLoop()

    def start(self) -> SandboxCluster:
        """Start everything; the API answers when this returns."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.background.start()
        try:
            self._wait(self._start())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End everything; nothing stays behind but the files in a `state` directory that was given."""
        try:
            self._wait(self._close())
        finally:
            self.background.stop()
        self.kubeconfig.unlink(missing_ok=True)
        shutil.rmtree(self.netns_dir, ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> SandboxCluster:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def entrance(self) -> str:
        """The URL of the API for those whom faults set on `server` do not concern."""
        return self._entrance.url

    # Gateways.

    def add_subnet(
        self,
        name: str = DEFAULT_EXTERNAL_SUBNET,
        cidr_block: str = "10.1.69.0/24",
        gateway: str = "10.1.69.254",
        *,
        exclude_ips: Sequence[str] | None = None,
        provider: str | None = None,
    ) -> Segment:
        """Add an external subnet and the segment it stands for; both families as `v4,v6`.

        Excluded are the subnet's gateway and, of the subnet that is added without saying which, 10.1.69.1 … .199.
        """
        if exclude_ips is None:
            exclude_ips = ["10.1.69.1..10.1.69.199"] if cidr_block == "10.1.69.0/24" else []
        return self._wait(self.hosts.add_subnet(name, cidr_block, gateway, exclude_ips=exclude_ips, provider=provider))

    def add_gateway(
        self,
        name: str,
        subnets: Sequence[str] = (DEFAULT_EXTERNAL_SUBNET,),
        *,
        replicas: int = 1,
        pods: int | None = None,
        no_default_eip: bool = False,
        namespace: str | None = None,
        network_status: bool = True,
        promote_secondaries: bool = False,
        ready: bool = True,
    ) -> list[GatewayPod]:
        """Add a gateway (`GatewayHost.add_gateway`); its pods."""
        gateway = self._wait(
            self.hosts.add_gateway(
                name,
                subnets,
                replicas=replicas,
                pods=pods,
                no_default_eip=no_default_eip,
                namespace=namespace,
                network_status=network_status,
                promote_secondaries=promote_secondaries,
                ready=ready,
            )
        )
        return list(gateway.pods.values())

    def remove_gateway(self, name: str) -> None:
        """Remove a gateway with its pods."""
        self._wait(self.hosts.remove_gateway(name))

    def add_pod(self, gateway: str, *, ready: bool = True) -> GatewayPod:
        """Start one more pod of a gateway."""
        return self._wait(self.hosts.add_pod(gateway, ready=ready))

    def remove_pod(self, gateway: str, pod: str | None = None) -> None:
        """End a pod of a gateway: the only one, without a name."""
        self._wait(self.hosts.remove_pod(gateway, pod or self.pod(gateway).name))

    def replace_pod(self, gateway: str, pod: str | None = None, *, ready: bool = True) -> GatewayPod:
        """End a pod and start another in its place: fresh namespace, new UID."""
        return self._wait(self.hosts.replace_pod(gateway, pod, ready=ready))

    def set_ready(self, gateway: str, pod: str | None = None, *, ready: bool) -> None:
        """Let a pod be Ready or not."""
        self._wait(self.hosts.set_ready(gateway, pod or self.pod(gateway).name, ready=ready))

    def pods(self, gateway: str) -> list[GatewayPod]:
        """The pods of a gateway."""
        return list(self.hosts.gateways[gateway].pods.values())

    def pod(self, gateway: str, pod: str | None = None) -> GatewayPod:
        """One pod of a gateway: the only one, without a name."""
        if pod is not None:
            return self.hosts.gateways[gateway].pods[pod]
        (only,) = self.pods(gateway)
        return only

    def set_fault(self, gateway: str, fault: Fault | None, *, pod: str | None = None, times: int | None = None) -> None:
        """Let commands in a gateway's pod go wrong: the next `times`, or all until it is None again."""
        self.hosts.pods.set_fault(self.pod(gateway, pod).uid, fault, times=times)

    def addresses(self, gateway: str, interface: str = "net1", *, pod: str | None = None) -> list[str]:
        """The addresses on an interface of a gateway's pod in the kernel's order, IPv4 first, link-local left out."""
        return [str(each["local"]) for each in addresses_in(self.pod(gateway, pod).namespace, interface)]

    def attach_client(self, subnet: str = DEFAULT_EXTERNAL_SUBNET, *addresses: str) -> NetworkNamespace:
        """A machine outside: on the subnet's segment with these addresses (`10.1.69.10/24`), else behind its router."""
        segment = self.hosts.segments[subnet]
        return self.background.namespaces.submit(segment.attach_client, *addresses).result()

    # EIPs.

    def create_eip(
        self,
        name: str,
        gateway: str,
        v4ip: str | None = None,
        v6ip: str | None = None,
        subnet: str | None = None,
        *,
        wait_ready: bool = True,
        timeout: float = 30,
    ) -> Object:
        """Create an EIP as a user does; the object, as it is when ready or right away.

        Without a subnet it is of the gateway's first one.

        Raises:
            TimeoutError: it is not ready in time.
        """
        known = self.hosts.gateways.get(gateway)
        if subnet is None and known and DEFAULT_EXTERNAL_SUBNET not in known.external_subnets:
            subnet = known.external_subnets[0]
        body = objects.eip(name, gateway, v4ip=v4ip, v6ip=v6ip, external_subnet=subnet)
        created = self._wait(self.api.create(EIPS, body))
        return self.wait_ready(name, timeout=timeout) if wait_ready else created

    def wait_ready(self, name: str, *, timeout: float = 30) -> Object:
        """Wait until an EIP is ready and has its finalizer; the object.

        Raises:
            TimeoutError: it is not in time.
        """

        def ready() -> Object | None:
            eip = self.get_eip(name)
            complete = eip and (eip.get("status") or {}).get("ready") and eip["metadata"].get("finalizers")
            return eip if complete else None

        return wait_for(ready, f"EIP {name} to be ready", timeout=timeout)

    def delete_eip(self, name: str, *, wait_gone: bool = True, timeout: float = 30) -> None:
        """Delete an EIP as a user does, and wait until this very object is gone.

        Raises:
            TimeoutError: it is not in time.
        """
        before = self.get_eip(name)
        self._wait(self.api.delete(EIPS, name))
        if wait_gone and before:
            self.wait_gone(name, before["metadata"]["uid"], timeout=timeout)

    def wait_gone(self, name: str, uid: str, *, timeout: float = 30) -> None:
        """Wait until the EIP with this UID is gone.

        Raises:
            TimeoutError: it is not in time.
        """

        def gone() -> bool:
            now = self.get_eip(name)
            return now is None or now["metadata"]["uid"] != uid

        wait_for(gone, f"EIP {name} to be gone", timeout=timeout)

    def get_eip(self, name: str) -> Object | None:
        """An EIP's object, None when there is none."""
        return self._wait(self.api.get(EIPS, name))

    def remove_finalizer(self, name: str) -> None:
        """Take all finalizers off an EIP, as an operator does whose EIP stays terminating."""
        self.patch_eip(name, {"metadata": {"finalizers": None}})

    def patch_eip(self, name: str, change: Object) -> Object:
        """Merge a change into an EIP (RFC 7386) as a user does; the object then."""
        return self._wait(self.api.patch(EIPS, name, change))

    def compact_history(self) -> None:
        """Let the API forget its events, and end its watches, so that whoever follows has to list."""
        self._wait(self.server.compact())
        self._wait(self.server.cut_watches(Cut.END))

    # The controller.

    @property
    def records(self) -> Records:
        """What the controller did, over all its restarts."""
        return self._records

    def start_controller(self) -> None:
        """Start the controller, or start it again; it is up when this returns."""
        self._wait(self.controller.start())

    def stop_controller(self) -> None:
        """Let the controller finish what it has in hand, and end."""
        self._wait(self.controller.stop())

    def kill_controller(self) -> None:
        """Let the controller die here and now."""
        self._wait(self.controller.kill())

    def wait_for_record(self, *steps: str, timeout: float = 30, **fields: Any) -> Record:
        """Wait until the controller has done one of these steps, with these values of a record's fields.

        Raises:
            TimeoutError: it has not in time.
        """
        found = wait_for(lambda: self.records.find(*steps, **fields), f"{steps} {fields}", timeout=timeout)
        return found[0]

    async def _start(self) -> None:
        pods = PodNamespaces(self.netns_dir)
        token = None if ip_address(self._host).is_loopback else secrets.token_urlsafe(32)
        self.server = ApiServer(self._host, self._port, token, pods)
        # The cluster's own parts have a second entrance to the same objects: faults set on `server` do not concern
        # them, and its request log shows only what came from outside.
        self._entrance = ApiServer(exec_runner=pods)
        self._entrance.store = self.server.store
        await self.server.start()
        await self._entrance.start()
        self.server.kubeconfig(self.kubeconfig, f"http://{self._name}:{self.server.port}" if self._name else None)
        self.api = KubernetesApi(self._entrance.url)
        self.hosts = GatewayHost(self.api, pods, self.background.namespaces)
        self.controller = Controller(self.api, switches=self._switches, reuse=self._reuse, records=self._records)
        if self._run_controller:
            await self.controller.start()

    async def _close(self) -> None:
        # Each may be missing, where the start did not come so far.
        if hasattr(self, "controller"):
            await self.controller.kill()
            await self.hosts.close()
            await self.api.close()
        if hasattr(self, "_entrance"):
            await self._entrance.stop()
            await self.server.stop()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.background.call(work)
