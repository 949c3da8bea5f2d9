"""Gateways that are network namespaces, entered through both drivers."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client import ApiClient, Configuration

from sandbox.api import operations
from sandbox.api.resources import PODS
from sandbox.api.server import ApiServerThread
from sandbox.netns import NetworkNamespace
from workers.gateways.exec import ExecDriver
from workers.gateways.interface import GatewayPod
from workers.gateways.namespaces import DirectoryLocator
from workers.gateways.netlink import NetlinkDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workers.gateways.interface import Driver

DRIVERS = ("netlink", "exec")


@dataclass
class Pods:
    """Pods of a sandbox API whose containers are namespaces; the runner behind its pods/exec."""

    directory: Path
    namespaces: dict[str, NetworkNamespace] = field(default_factory=dict)
    command: dict[str, list[str]] = field(default_factory=dict)
    """By pod UID what is run instead of the command that was asked for, which becomes its arguments."""
    started: list[int] = field(default_factory=list)
    """The process ids of all commands, oldest first."""
    api: ApiServerThread | None = None

    def add(self, name: str, namespace: NetworkNamespace) -> GatewayPod:
        """Let a namespace be a running pod's."""
        assert self.api is not None
        self.api.call(self._create(name))
        pod = self.pod(name)
        self.namespaces[pod.uid] = namespace
        (self.directory / pod.uid).symlink_to(namespace.path)
        return pod

    def pod(self, name: str) -> GatewayPod:
        assert self.api is not None
        entry = operations.existing(self.api.server.store, PODS, ("kube-system", name))
        return GatewayPod(name, "kube-system", entry.content["metadata"]["uid"], "node-1")

    async def _create(self, name: str) -> None:
        assert self.api is not None
        spec = {"nodeName": "node-1", "containers": [{"name": "vpc-nat-gw", "image": "gateway"}]}
        store, metadata = self.api.server.store, {"name": name, "namespace": "kube-system"}
        operations.create(store, PODS, "kube-system", {"metadata": metadata, "spec": spec})
        running = {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}
        operations.replace(store, PODS, ("kube-system", name), running, status=True, dry_run=False)

    async def start(self, pod: dict[str, Any], container: str, argv: list[str]) -> asyncio.subprocess.Process:
        """See `sandbox.api.execution.ExecRunner.start`."""
        uid = pod["metadata"]["uid"]
        command = [*self.command.get(uid, []), *argv]
        if command[0] == "missing":
            raise FileNotFoundError(argv[0])
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.namespaces[uid].command(command), stdin=pipe, stdout=pipe, stderr=pipe
        )
        self.started.append(process.pid)
        return process


@pytest.fixture(scope="session")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    pods = Pods(tmp_path_factory.mktemp("namespaces"))
    with ApiServerThread(exec_runner=pods) as api:
        pods.api = api
        yield pods


def api_client(api: ApiServerThread) -> ApiClient:
    return ApiClient(Configuration(host=api.url))


def driver_named(name: str, pods: Pods) -> Driver:
    if name == "netlink":
        return NetlinkDriver(DirectoryLocator(pods.directory))
    assert pods.api is not None
    return ExecDriver(api_client(pods.api))


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, pods: Pods) -> Iterator[Driver]:
    driver = driver_named(request.param, pods)
    yield driver
    driver.close()


@pytest.fixture
def netns() -> Iterator[NetworkNamespace]:
    """A namespace with eth0, net1 and net2 up, each one end of a veth pair whose other end is up beside it."""
    with NetworkNamespace() as namespace:
        build_interfaces(namespace)
        yield namespace


def build_interfaces(namespace: NetworkNamespace) -> None:
    lines = []
    for name in ("eth0", "net1", "net2"):
        lines += [
            f"link add {name} type veth peer name peer-{name}",
            f"link set {name} addrgenmode none up",
            f"link set peer-{name} addrgenmode none up",
        ]
    namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


@pytest.fixture
def pod(pods: Pods, netns: NetworkNamespace) -> GatewayPod:
    return pods.add(f"vpc-nat-gw-{os.urandom(4).hex()}-0", netns)
