"""Where an EIP's address goes: its gateway's active pods, and the script that puts it on there and takes it off."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from sandbox.kubernetes_api import ApiError, ExecResult
from sandbox.objects import CONTAINER, NAMESPACE, PODS, SCRIPT, Object, is_active

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.ipam import IPAddress, IPNetwork
    from sandbox.kubernetes_api import KubernetesApi
    from sandbox.leaks import Switches
    from sandbox.record import Records


class RetryLaterError(Exception):
    """It did not work now; the controller tries again."""


@dataclass(frozen=True)
class Placement:
    """One EIP's place: its addresses with the CIDR of each, the pods' namespace and the interface there."""

    eip: str
    uid: str
    gateway: str
    namespace: str
    interface: str
    subnet: str
    mac: str
    addresses: tuple[tuple[IPAddress, IPNetwork], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The addresses alone."""
        return tuple(str(ip) for ip, _ in self.addresses)

    @property
    def about(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"eip": self.eip, "uid": self.uid, "gateway": self.gateway, "addresses": self.texts}


class Executor(Protocol):
    """A way to run a command in a pod."""

    async def __call__(self, pod: Object, argv: Sequence[str]) -> ExecResult:
        """Run it and wait for its end."""


class ApiExecutor:
    """Runs commands through pods/exec."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def __call__(self, pod: Object, argv: Sequence[str]) -> ExecResult:
        """Run it and wait for its end."""
        return await self._api.exec(pod, CONTAINER, argv)


class NamespaceExecutor:
    """Enters namespaces itself, by pod UID in a directory: for an API server without kubelets behind it."""

    def __init__(self, directory: Path, script: Path) -> None:
        self._directory = directory
        self._script = script

    async def __call__(self, pod: Object, argv: Sequence[str]) -> ExecResult:
        """Run it and wait for its end."""
        command = [str(self._script) if part == SCRIPT else part for part in argv]
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--net={self._directory / pod['metadata']['uid']}", "--", *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return ExecResult(process.returncode or 0, output.decode(errors="replace"))


async def no_executor(pod: Object, argv: Sequence[str]) -> ExecResult:  # noqa: ARG001 - the shape of an Executor
    """Runs nothing and calls it a success: for objects without gateways behind them."""
    return ExecResult(0, "")


class GatewayScript:
    """nat-gateway.sh, as the controller calls it in the pods of a gateway."""

    def __init__(self, api: KubernetesApi, run: Executor, switches: Switches, records: Records) -> None:
        self._api = api
        self._run = run
        self._switches = switches
        self._records = records

    async def active_pods(self, placement: Placement) -> list[Object]:
        """The gateway's pods that run and are ready.

        Raises:
            RetryLaterError: there is none.
        """
        labels = f"app=vpc-nat-gw-{placement.gateway}"
        pods, _ = await self._api.list(PODS, namespace=placement.namespace, labels=labels)
        active = [pod for pod in pods if is_active(pod)]
        if not active:
            raise RetryLaterError(f"gateway {placement.gateway} has no active pod")
        return active

    async def eip_add(self, placement: Placement, pods: Sequence[Object]) -> None:
        """Put an EIP's addresses on each of these pods.

        Raises:
            RetryLaterError: it failed on one; the later ones were not tried.
        """
        delays = self._switches.delays
        environment = {}
        if delays.eip_add_before:
            environment["DELAY_BEFORE_ADD"] = str(delays.eip_add_before)
        if delays.eip_add_after:
            environment["DELAY_AFTER_ADD"] = str(delays.eip_add_after)
        if self._switches.leaks.fails(placement.eip):
            environment["PROBE_FAILS"] = "1"
        arguments = [f"{ip}/{network.prefixlen}" for ip, network in placement.addresses]
        for pod in pods:
            await self._call("eip_add", placement, pod, arguments, environment)

    async def eip_del(self, placement: Placement, pods: Sequence[Object]) -> None:
        """Take an EIP's addresses off each of these pods, or, with that leak, fail to.

        Raises:
            RetryLaterError: it failed on one; the later ones were not tried.
        """
        environment = {"UNANCHORED": "1"} if self._switches.release == "v1.12" else {}
        if self._switches.leaks.wrong_argument:
            arguments = [str(network) for _, network in placement.addresses]
        else:
            arguments = [f"{ip}/{network.prefixlen}" for ip, network in placement.addresses]
        for pod in pods:
            await self._call("eip_del", placement, pod, arguments, environment)

    async def _call(
        self,
        action: str,
        placement: Placement,
        pod: Object,
        arguments: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        if placement.interface != "net1":
            environment = {**environment, "EXTERNAL_INTERFACE": placement.interface}
        settings = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
        argv = [*settings, "bash", SCRIPT, action.replace("_", "-"), *arguments]
        about = {**placement.about, "pod": pod["metadata"]["name"], "pod_uid": pod["metadata"]["uid"]}
        self._records.add(f"{action}_started", detail=" ".join(argv), **about)
        try:
            async with asyncio.timeout(self._switches.delays.exec_timeout):
                result = await self._run(pod, argv)
        except (TimeoutError, ApiError, aiohttp.ClientError) as error:
            result = ExecResult(-1, str(error) or "timed out")
        if result.exit_code != 0:
            self._records.add(f"{action}_failed", detail=f"{result.exit_code}: {result.output.strip()}", **about)
            raise RetryLaterError(f"{' '.join(argv)} ended with {result.exit_code}")
        self._records.add(f"{action}_done", **about)


def pods_namespace(eip: Object, gateway: Object | None) -> str:
    """Where a gateway's pods live: the EIP says it, else the gateway, else it is the controller's namespace."""
    own = (gateway or {"spec": {}})["spec"].get("namespace")
    return str(eip["spec"].get("namespace") or own or NAMESPACE)


def interface_of(gateway: Object | None, subnet: str) -> str:
    """The interface of a gateway's pods on an external subnet: `net1` is the first one's."""
    subnets = (gateway or {"spec": {}})["spec"].get("externalSubnets") or []
    return f"net{subnets.index(subnet) + 1}" if subnet in subnets else "net1"


def wanted_addresses(eip: Object) -> list[IPAddress]:
    """The addresses an EIP's spec names."""
    return [ip_address(text) for text in (eip["spec"].get("v4ip"), eip["spec"].get("v6ip")) if text]
