"""Which parts of Kubernetes' client the product uses: the image (Dockerfile) has no others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PRODUCT = ("cli", "dashboard", "producer", "sandbox", "shared", "workers")
LEFT_OUT = ("kubernetes.aio", "kubernetes.client.api.", "kubernetes.client.models.")
PARTS = {"ApiClient", "Configuration"}
"""Those of `kubernetes.client` that are neither a group of the API nor a model."""


def test_no_group_and_no_model_is_asked_for() -> None:
    sources = [path.read_text() for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bclient\.([A-Z]\w+)", text)}
    used |= {
        name.strip()
        for text in sources
        for names in re.findall(r"^\s*from kubernetes\.client import (.+)$", text, re.MULTILINE)
        for name in names.split(",")
    }
    assert used == PARTS
    inner = [
        line
        for text in sources
        for line in re.findall(r"^\s*(?:from|import) kubernetes\.(?!client import).*", text, re.M)
    ]
    assert inner == []


def test_none_of_it_is_loaded() -> None:
    code = "import sys, cli.main, dashboard.server, producer.service, sandbox.cluster, workers.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "kubernetes.client.api_client" in loaded
    assert [name for name in loaded if name.startswith(LEFT_OUT)] == []
