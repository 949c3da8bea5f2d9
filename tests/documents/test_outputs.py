"""What the documents show to be printed is printed, where nothing but the command is needed for it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.documents.markdown import ROOT, Document

WIDE = 250


def sessions(document: Document) -> list[str]:
    """The blocks in which only `eip-reclaimer settings` is run: it connects to nothing."""
    found = []
    for block in document.blocks:
        typed = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
        commands = [line for line in typed if not line.startswith("export ")]
        if commands and all("eip-reclaimer settings" in line for line in commands):
            found.append(block)
    return found


PAGE = Document(ROOT / "docs" / "configuration.md")


def test_there_are_such_blocks() -> None:
    assert len(sessions(PAGE)) == 2


@pytest.mark.parametrize("block", sessions(PAGE), ids=["values", "a value that is none"])
def test_a_session_is_played_as_it_is_shown(block: str, tmp_path: Path) -> None:
    around = {name: value for name, value in os.environ.items() if not name.startswith("EIP_RECLAIMER_")}
    around["HOME"] = str(tmp_path)
    played: list[str] = []
    for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        played.append(f"$ {line}")
        words = shlex.split(line)
        if words[0] == "export":
            around |= dict(word.split("=", 1) for word in words[1:])
            continue
        variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        arguments = words[len(variables) + 1 :]
        with Terminal(*arguments, env={**around, **variables}, columns=WIDE) as terminal:
            shown = terminal.read_until_end()
        played += re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n").rstrip("\n").split("\n")
    assert "\n".join(played) == block
