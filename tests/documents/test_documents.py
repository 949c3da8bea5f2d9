"""What the documents link to is there, and what they tell to type is understood."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

import sandbox.__main__
from cli.main import app
from shared.metrics import CATALOGUE, PREFIX
from tests.documents.markdown import ROOT, Document, documents

EACH = pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
MADE = ("chaos-report/", "bench-report/", "build/", "dist/")
"""Folders that commands make."""
TOP = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHER_PROGRAMS = ("venv", "pip")
"""Modules that are run with `python -m` and are not ours."""


def test_the_documents_are_found() -> None:
    names = {document.name for document in documents()}
    assert {"README.md", "README.zh-CN.md", "CHANGELOG.md", "docs/README.md", "docs/how-it-works.md"} <= names
    assert len(names) > 15


@EACH
def test_every_link_leads_somewhere(document: Document) -> None:
    broken = [target for target in document.links if not resolves(document, target)]
    assert broken == []


def resolves(document: Document, target: str) -> bool:
    """Whether a link within the project leads to something; others are not followed."""
    if re.match(r"[a-z]+:", target):
        return target.startswith(("https://", "mailto:"))
    place, _, anchor = target.partition("#")
    file = (document.path.parent / unquote(place)).resolve() if place else document.path
    if not file.exists() or not file.is_relative_to(ROOT):
        return False
    return not anchor or (file.suffix == ".md" and unquote(anchor) in Document(file).anchors)


def test_every_page_of_the_docs_is_in_their_index() -> None:
    index = Document(ROOT / "docs" / "README.md")
    linked = {(index.path.parent / target.partition("#")[0]).resolve() for target in index.links}
    assert {document.path for document in documents() if document.path.parent == index.path.parent} - linked == {
        index.path
    }


@EACH
def test_every_command_is_one_that_there_is(document: Document) -> None:
    for line in document.command_lines:
        words = words_of(line)
        match words:
            case ["eip-reclaimer", *arguments]:
                expect_parsed(arguments, line)
            case ["make", *arguments]:
                targets = [word for word in arguments if "=" not in word]
                assert set(targets) <= TARGETS, line
            case [_, "-m", module, *arguments]:
                if module not in OTHER_PROGRAMS:
                    assert find_spec(module) is not None, line
                if module == "sandbox":
                    expect_understood(sandbox.__main__._parser(), arguments, line)


def words_of(line: str) -> list[str]:
    """A command's words, as a shell has them, without what follows it: a comment, a pipe, another command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if re.fullmatch(r"[|&;<>]+", word):
            # The number of a file descriptor belongs to what follows.
            return words[:-1] if word.startswith(">") and words[-1:] == ["2"] else words
        words.append(word)
    return words


def expect_parsed(arguments: list[str], line: str) -> None:
    """Let the command's own parser read it; nothing is run."""
    command: Any = typer.main.get_command(app)
    name = "eip-reclaimer"
    arguments = list(arguments)
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    if hasattr(command, "commands"):
        # A group by itself is spoken of; its own options end the program.
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert set(arguments) <= known, line
        return
    if not arguments:
        # In a sentence it stands for the command with whatever it needs.
        return
    try:
        command.make_context(name, arguments, resilient_parsing="--help" in arguments)
    except Exception as error:
        pytest.fail(f"{line}: {error}")


def expect_understood(parser: argparse.ArgumentParser, arguments: list[str], line: str) -> None:
    try:
        if arguments:
            parser.parse_args(arguments)
    except SystemExit as ended:
        pytest.fail(f"{line}: exit status {ended.code}")


@EACH
def test_every_file_that_is_named_is_there(document: Document) -> None:
    missing = [span for span in document.spans if is_path(span) and not exists(document, span)]
    assert missing == []


def is_path(span: str) -> bool:
    """Whether code in the text is a path in this project."""
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", span) or span.startswith(MADE):
        return False
    return span.partition("/")[0] in TOP and ("/" in span or "." in span)


def exists(document: Document, span: str) -> bool:
    return (ROOT / span).exists() or (document.path.parent / span).exists()


@EACH
def test_every_metric_that_is_named_is_exposed(document: Document) -> None:
    named = set(re.findall(rf"\b{PREFIX}[a-z_]+\b", document.text))
    assert {name for name in named if not {name, re.sub("_(bucket|sum|count)$", "", name)} & set(CATALOGUE)} == set()


@EACH
def test_every_test_that_is_named_is_there(document: Document) -> None:
    sources = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = {span for span in document.spans if re.fullmatch(r"test_\w+", span)}
    assert {name for name in named if f"def {name}(" not in sources and not any(ROOT.rglob(f"{name}.py"))} == set()


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_for_light_and_for_dark_and_says_in_words_what_it_shows(picture: Path) -> None:
    text = picture.read_text()
    assert "prefers-color-scheme: dark" in text
    assert re.search(r"<title[^>]*>.+</title>", text)
    assert re.search(r"<desc[^>]*>.{40,}</desc>", text)
