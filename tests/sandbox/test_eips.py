"""A sandbox used from other processes: EIPs come and go by commands, and who is not let in."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from sandbox.processes import ROOT, Process
from tests.sandbox.test_processes import map_of

pytestmark = pytest.mark.kernel

EVERYWHERE = "0.0.0.0"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state"
    arguments = ["--state", str(state), "--host", EVERYWHERE, "--name", "localhost", "--leak", "wrong-argument"]
    eips = ["--gateway", "gw1", "--eip", "eip1=gw1,10.1.69.202", "--eip", "eip2=gw1,10.1.69.205"]
    with Process("sandbox", tmp_path / "log", "sandbox", *arguments, *eips):
        map_of(state)
        yield state


@pytest.fixture
def run(state: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sandbox.eips", "--state", str(state), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    return run_command


def test_what_was_deleted_is_shown_as_nobodys_until_it_is_taken_off(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    heads = "GATEWAY  INTERFACE  ADDRESS      WHOSE"
    own = "gw1      net1       10.1.69.253  the gateway's own"
    first = "gw1      net1       10.1.69.202  eip1"
    assert run("show").stdout.splitlines() == [heads, own, first, "gw1      net1       10.1.69.205  eip2"]
    assert run("delete", "eip2").stdout == "eip2 is gone: 10.1.69.205 on gw1\n"
    assert run("show").stdout.splitlines() == [heads, own, first, "gw1      net1       10.1.69.205  nobody's"]
    assert run("create", "eip3", "gw1", "10.1.69.205").stdout == "eip3 is ready: 10.1.69.205 on gw1\n"
    assert run("show").stdout.splitlines()[-1] == "gw1      net1       10.1.69.205  eip3"


def test_what_cannot_be_done_is_said_in_a_line(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for arguments in (("delete", "eip9"), ("create", "eip1", "gw1")):
        done = run(*arguments)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done


def test_beyond_the_loopback_the_api_lets_nobody_in_without_the_kubeconfigs_token(
    run: Callable[..., subprocess.CompletedProcess[str]], state: Path, tmp_path: Path
) -> None:
    kubeconfig = state / "kubeconfig"
    assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o640
    lines = kubeconfig.read_text().splitlines()
    (url,) = (line.split()[-1] for line in lines if "server:" in line)
    assert url.startswith("http://localhost:")
    # Whoever gives no token is anonymous, as at a real API server; a wrong one is not accepted.
    with pytest.raises(HTTPError, match="403"):
        urlopen(f"{url}/api/v1/namespaces/kube-system")
    kubeconfig.write_text("\n".join(line if "token:" not in line else "    token: guessed" for line in lines))
    refused = run("delete", "eip1")
    assert refused.returncode == 1
    assert "401" in refused.stderr
