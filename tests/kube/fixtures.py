"""Fixtures of API servers: `sandbox_api`, `real_api`, and `kube_api`, which is each of them in turn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.api.server import ApiServerThread
from sandbox.api.watching import Cut
from tests.kube.envtest import ADMIN, RealApiServer
from tests.kube.surface import KubeApi

if TYPE_CHECKING:
    from collections.abc import Iterator

SANDBOX_TOKEN = "sandbox-token"


class SandboxBackend:
    """The emulator with the faults that a real server has by nature."""

    def __init__(self, api: ApiServerThread) -> None:
        self._api = api

    @property
    def url(self) -> str:
        return self._api.url

    def compact(self) -> None:
        self._api.call(self._api.server.compact())
        self._api.call(self._api.server.cut_watches(Cut.END))


@pytest.fixture(scope="session")
def real_api() -> Iterator[RealApiServer]:
    """A real kube-apiserver, shared by all tests of the session: leave nothing behind."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if not assets:
        pytest.skip("needs a real kube-apiserver: set KUBEBUILDER_ASSETS to the folder of etcd and kube-apiserver")
    if not (Path(assets) / "kube-apiserver").exists():
        pytest.skip(f"there is no kube-apiserver in KUBEBUILDER_ASSETS={assets}")
    with RealApiServer(Path(assets)) as server:
        yield server


@pytest.fixture
def sandbox_api() -> Iterator[ApiServerThread]:
    """A fresh emulator without a token, running."""
    with ApiServerThread() as api:
        yield api


@pytest.fixture(params=["sandbox", pytest.param("real", marks=pytest.mark.envtest)])
def kube_api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KubeApi]:
    """An API server without kubeovn.io objects: the emulator, then a real one."""
    config = tmp_path / "kubeconfig"
    if request.param == "sandbox":
        with ApiServerThread(token=SANDBOX_TOKEN) as sandbox:
            sandbox.kubeconfig(config)
            api = KubeApi("sandbox", SandboxBackend(sandbox), config, SANDBOX_TOKEN)
            yield api
            api.close()
        return
    real: RealApiServer = request.getfixturevalue("real_api")
    real.clean()
    real.kubeconfig(config)
    api = KubeApi("real", real, config, ADMIN, real.certificate)
    yield api
    api.close()
