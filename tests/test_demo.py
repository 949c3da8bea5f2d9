"""The demo tells the truth, and cannot be made to say otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.server]


def play(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "demo", *options],
        env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demo_shows_every_case_and_leaves_nothing_behind(tmp_path: Path) -> None:
    played = play(tmp_path, "--json")
    assert played.returncode == 0, played.stdout + played.stderr
    report = json.loads(played.stdout)
    assert report["holds"]
    assert len(report["scenes"]) == 4
    case = report["scenes"][0]
    before, attempt, after = case["looks"].values()
    assert before == attempt == [f"10.1.69.{host}" for host in (202, 203, 205, 206, 208)]
    assert after == [address for address in before if address != "10.1.69.205"]
    assert case["flow"]["blocks"] > 100
    assert case["flow"]["sent_again"] == 0
    (life,) = case["trace"].values()
    assert life["outcome"] == "reclaimed"
    assert list(tmp_path.iterdir()) == []


def test_a_false_claim_on_the_screen_is_marked_and_ends_the_demo_with_an_error(tmp_path: Path) -> None:
    # Workers that take the external interface for the VPC side leave every address where it is.
    played = play(tmp_path, EIP_RECLAIMER_VPC_INTERFACE="net1")
    assert played.returncode == 1, played.stdout + played.stderr
    assert "✗ FALSE: 10.1.69.205 is gone" in played.stdout
    assert list(tmp_path.iterdir()) == []
