"""The version is told in several places, of which pyproject.toml is the one that counts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOLD = {
    "Dockerfile": r"^ARG VERSION=(\S+)$",
    "docker-compose.yml": r"eip-reclaimer:(\d[^}]*)\}",
    "Makefile": r"^IMAGE \?= eip-reclaimer:(\S+)$",
    "docs/containers.md": r"eip-reclaimer:(\d+\.\d+\.\d+)",
}


@pytest.mark.parametrize("file", TOLD)
def test_each_place_tells_the_same_version(file: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = re.findall(TOLD[file], (ROOT / file).read_text(), re.MULTILINE)
    assert set(found) == {version}
