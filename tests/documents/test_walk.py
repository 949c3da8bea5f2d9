"""The walk without a cluster, as both READMEs tell it, typed into a shell."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.redis_server import free_port
from tests.documents.markdown import ROOT, Document
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server, pytest.mark.kubectl]

DONE = "=== done"
AFTER = {"--leak": "ready: ", "producer": "producer started", "worker": "worker started"}
"""By what is in a line, what a person waits to see before the next one."""


class Shell:
    """Bash, typed into by a person who waits until each command has ended."""

    def __init__(self, directory: Path) -> None:
        programs = directory / "bin"
        programs.mkdir()
        command = programs / "eip-reclaimer"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
        command.chmod(0o755)
        ours = ("EIP_RECLAIMER_", "KUBE")
        around = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.shown = directory / "shown"
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env={**around, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(directory)},
            stdin=subprocess.PIPE,
            stdout=self.shown.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, line: str) -> str:
        """What is shown until the next prompt."""
        assert self._process.stdin is not None
        before = len(self.shown.read_text())
        self._process.stdin.write(f"{line}\necho '{DONE}'\n")
        self._process.stdin.flush()
        self.wait_for(lambda: DONE in self.shown.read_text()[before:], f"{line} to end")
        return self.shown.read_text()[before:].partition(DONE)[0]

    def logs(self) -> dict[str, str]:
        """By name, what there is to read by now: what was shown, and the logs of what runs in the background."""
        return {log.name: log.read_text() for log in (self.shown, *self.shown.parent.glob("*.log"))}

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition gives something true; where it does not, all that there is to read is told."""
        try:
            eventually(condition, what, 60)
        except AssertionError as error:
            told = "\n".join(f"--- {name}\n{text}" for name, text in self.logs().items())
            raise AssertionError(f"{error}\n{told}") from error

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    started = Shell(tmp_path)
    yield started
    started.type("kill $(jobs -p) 2> /dev/null; wait")
    started.close()


def lines_of(readme: Document) -> list[tuple[str, list[str]]]:
    """What is typed, each with what is shown then."""
    first, second = (block for block in readme.blocks if "/tmp/kube-ovn" in block)
    typed = [(line, list[str]()) for line in re.sub(r"\\\n\s*", "", first).split("\n")]
    for line in second.split("\n"):
        if line.startswith("$ "):
            typed.append((line[2:], []))
        else:
            typed[-1][1].append(line)
    return typed


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_it_goes_as_it_is_told(readme: str, shell: Shell, tmp_path: Path) -> None:
    port = free_port()
    answers: list[tuple[str, str, list[str]]] = []
    for line, told in lines_of(Document(ROOT / readme)):
        here = line.replace("6379", str(port)).replace("/tmp/", f"{tmp_path}/")
        answers.append((line, shell.type(here), told))
        for part, seen in AFTER.items():
            if f" {part} " in line:
                # A log is there only once its command has begun.
                shell.wait_for(lambda: any(seen in log for log in shell.logs().values()), seen)  # noqa: B023 - at once
        if "delete eip" in line:
            shell.wait_for(lambda: "=> reclaimed" in shell.type("eip-reclaimer trace eip1"), "the outcome")
    looks = [shown for line, shown, _ in answers if "ip -br addr" in line]
    assert [re.findall(r"10\.1\.69\.20\d", look) for look in looks] == [["10.1.69.205", "10.1.69.206"], ["10.1.69.206"]]
    # What is shown of the rest has times, ids and indices of another day.
    exact = [(shown, told) for line, shown, told in answers if re.search("delete eip|audit", line)]
    assert len(exact) == 2
    assert all(told and told[-1] in shown for shown, told in exact)
    assert any("=> reclaimed: it was there, was deleted, and was seen gone" in shown for _, shown, _ in answers)
    shell.type("wait")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "kube-ovn").exists()
