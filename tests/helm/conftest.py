"""The real API server with what the chart's optional objects need of it, and the chart installed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.cluster import DryRun, Installation, applied
from tests.kube.envtest import RealApiServer
from tests.waiting import eventually

CRDS = Path(__file__).parent / "crds"
Install = Callable[..., Installation]


@pytest.fixture(scope="session")
def operators(real_api: RealApiServer) -> Iterator[RealApiServer]:
    """The server where the Prometheus operator's and KEDA's kinds are known."""
    definitions = [each for file in sorted(CRDS.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]
    paths = applied(real_api, definitions)
    served = [
        f"/apis/{each['spec']['group']}/{each['spec']['versions'][0]['name']}/{each['spec']['names']['plural']}"
        for each in definitions
    ]
    eventually(lambda: all(real_api.status("GET", path) == 200 for path in served), "the operators' kinds to be served")
    yield real_api
    for path in paths:
        real_api.ask("DELETE", path)


@pytest.fixture(scope="session")
def dry_run(operators: RealApiServer) -> DryRun:
    return DryRun(operators)


@pytest.fixture
def install(real_api: RealApiServer, tmp_path: Path) -> Iterator[Install]:
    """Installs the chart with some values; it is removed with the test."""
    real_api.clean()
    made: list[Installation] = []

    def installed(values: dict[str, Any] | None = None) -> Installation:
        installation = Installation(real_api, tmp_path)
        made.append(installation)
        installation.install(values=values)
        return installation

    yield installed
    for installation in made:
        installation.uninstall()
    real_api.clean()
