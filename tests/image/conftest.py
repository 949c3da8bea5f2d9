"""The image, a network, and on it what the product needs: a Valkey server with a password, and a sandbox that leaks."""

from __future__ import annotations

import json
import os
import re
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.image.engine import ROOT, Container, docker, has_compose, is_here
from tests.waiting import eventually

COMPOSE_FILE = ROOT / "docker-compose.yml"
PASSWORD = "3f1c9a7e5b"
EIPS = {"eip1": "10.1.69.202", "eip2": "10.1.69.203", "eip3": "10.1.69.205"}
SANDBOX_OPTIONS = (
    *("--read-only", "--user", "0:65532", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN"),
    *("--security-opt", "no-new-privileges", "--security-opt", "systempaths=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--entrypoint", "python"),
)


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """An engine; without one, tests here are skipped."""
    if not is_here():
        pytest.skip("no Docker engine answers: make image-test starts one")


@pytest.fixture(scope="session")
def compose(engine: None) -> None:
    """Compose v2."""
    if not has_compose():
        pytest.skip("docker has no plugin `compose`")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The image, built from what is here; `EIP_RECLAIMER_IMAGE` names one that is to be tried instead."""
    given = os.environ.get("EIP_RECLAIMER_IMAGE")
    if given:
        return given
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    name = f"eip-reclaimer:{version}"
    docker("build", "--network", "host", "--tag", name, ".", seconds=1800)
    return name


@pytest.fixture(scope="session")
def valkey_image() -> str:
    """The server's, as docker-compose.yml names it."""
    found = re.search(r"image: (valkey/\S+)", COMPOSE_FILE.read_text())
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Place:
    """Where a part of the product is run: what it needs is on the network."""

    image: str
    network: str
    state: str
    valkey: Container
    sandbox: Container

    def start(self, *arguments: str, options: tuple[str, ...] = (), **settings: str) -> Container:
        """A part, or a command of it, with these options of `docker run` and settings."""
        ours = {
            "redis_url": f"redis://:{PASSWORD}@valkey:6379/0",
            "kubeconfig": "/run/sandbox/kubeconfig",
            "http": "0.0.0.0:9464",
            **settings,
        }
        env = {f"EIP_RECLAIMER_{name.upper()}": value for name, value in ours.items()}
        where = ("--network", self.network, "--volume", f"{self.state}:/run/sandbox:ro")
        return Container(self.image, *arguments, options=(*where, *options), env=env)

    def delete(self, eip: str) -> None:
        """As a user does."""
        self.sandbox.exec("python", "-m", "sandbox.eips", "--state", "/run/sandbox", "delete", eip)

    def carried(self) -> list[str]:
        """The EIPs' addresses that gateways carry now."""
        lines = self.sandbox.exec("python", "-m", "sandbox.eips", "--state", "/run/sandbox", "show").stdout.splitlines()
        return [line.split()[2] for line in lines[1:] if not line.endswith("gateway's own")]

    def keys(self, pattern: str) -> list[str]:
        """What is in Redis."""
        return self.valkey.exec("valkey-cli", "keys", pattern).stdout.split()


@pytest.fixture
def place(image: str, valkey_image: str) -> Iterator[Place]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", name)
    docker("volume", "create", name)
    try:
        yield from _filled(image, valkey_image, name)
    finally:
        docker("network", "rm", name, check=False)
        docker("volume", "rm", name, check=False)


def _filled(image: str, valkey_image: str, name: str) -> Iterator[Place]:
    server = ("sh", "-c", "echo requirepass $REDISCLI_AUTH | exec valkey-server -")
    sandbox = (
        "--state",
        "/run/sandbox",
        "--host",
        "0.0.0.0",
        "--name",
        "sandbox",
        "--leak",
        "wrong-argument",
        "--no-default-eip",
    )
    eips = [word for eip, address in EIPS.items() for word in ("--eip", f"{eip}=gw1,{address}")]
    network = ("--network", name, "--network-alias")
    volume = ("--volume", f"{name}:/run/sandbox")
    with (
        Container(valkey_image, *server, options=(*network, "valkey"), env={"REDISCLI_AUTH": PASSWORD}) as valkey,
        Container(
            image,
            "-m",
            "sandbox",
            *sandbox,
            "--gateway",
            "gw1",
            *eips,
            options=(*network, "sandbox", *volume, *SANDBOX_OPTIONS),
        ) as cluster,
    ):
        cluster.says("ready:")
        eventually(lambda: "PONG" in valkey.exec("valkey-cli", "ping", check=False).stdout, "the server to answer")
        yield Place(image, name, name, valkey, cluster)


def configuration(image: str) -> dict[str, Any]:
    """What an image says of itself."""
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    return dict(found["Config"])
