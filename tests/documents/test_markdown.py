"""What is read from a document, and that what is wrong in one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

import sandbox.__main__
from tests.documents.markdown import ROOT, Document
from tests.documents.test_documents import (
    exists,
    expect_parsed,
    expect_understood,
    is_path,
    resolves,
    words_of,
)

TEXT = """\
# A title

Text with `code`, ``a `quoted` one`` and a [link](other.md#part), ![a picture](picture.png).
A span that `goes
on` in the next line, and `[none](of-these.md)`.

    $ export A=1
    $ B=2 eip-reclaimer status --json
    eip-reclaimer: no command

## A title

- a point
    that goes on, and is no block

```sh
make test TESTS="a b" \\
  ARGS=c
```

## `eip-reclaimer audit`: what it's for
"""


@pytest.fixture
def document(tmp_path: Path) -> Document:
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    return Document(path)


def test_it_is_read_as_it_is_shown(document: Document) -> None:
    assert document.blocks == [
        "$ export A=1\n$ B=2 eip-reclaimer status --json\neip-reclaimer: no command",
        'make test TESTS="a b" \\\n  ARGS=c',
    ]
    assert document.spans == ["code", "a `quoted` one", "goes on", "[none](of-these.md)", "eip-reclaimer audit"]
    assert document.links == ["other.md#part", "picture.png"]
    assert document.anchors == {"a-title", "a-title-1", "eip-reclaimer-audit-what-its-for"}
    assert document.command_lines == [
        "eip-reclaimer status --json",
        'make test TESTS="a b" ARGS=c',
        "eip-reclaimer audit",
    ]


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        ("README.md", True),
        ("README.md#outcomes", True),
        ("README.md#no-such-heading", False),
        ("docs/nowhere.md", False),
        ("../outside.md", False),
        ("http://example.org", False),
        ("https://example.org", True),
    ],
)
def test_a_link_leads_somewhere_or_not(target: str, leads: bool) -> None:
    assert resolves(Document(ROOT / "README.md"), target) is leads


@pytest.mark.parametrize(
    "line",
    [
        "eip-reclaimer no-such-command",
        "eip-reclaimer status --no-such-option",
        "eip-reclaimer failed replay --older-than soon",
        "eip-reclaimer --no-such-option",
        "eip-reclaimer brake show too much",
    ],
)
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        expect_parsed(words_of(line)[1:], line)


def test_options_of_the_sandbox_that_are_none_are_found() -> None:
    with pytest.raises(pytest.fail.Exception):
        expect_understood(sandbox.__main__._parser(), ["--state", "DIR", "--no-such-option"], "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("eip-reclaimer producer 2> producer.log &", ["eip-reclaimer", "producer"]),
        ("eip-reclaimer status  # is all well?", ["eip-reclaimer", "status"]),
        (
            "eip-reclaimer failed replay --reason 'no pod' && make test",
            ["eip-reclaimer", "failed", "replay", "--reason", "no pod"],
        ),
    ],
)
def test_a_line_is_cut_into_words_as_a_shell_does(line: str, words: list[str]) -> None:
    assert words_of(line) == words


def test_a_file_that_is_not_there_is_found() -> None:
    readme = Document(ROOT / "README.md")
    assert is_path("shared/nowhere.py")
    assert not exists(readme, "shared/nowhere.py")
    assert exists(readme, "shared/settings.py")
    assert not is_path("and/or")
    assert not is_path("chaos-report/report.json")
