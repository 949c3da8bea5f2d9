"""Both READMEs tell the same: the same commands and outputs, in the same order, and the same links."""

from __future__ import annotations

import re

import pytest

from tests.documents.markdown import ROOT, Document

ENGLISH = Document(ROOT / "README.md")
CHINESE = Document(ROOT / "README.zh-CN.md")
HAN = re.compile(r"[\u4e00-\u9fff]")


def code_of(block: str) -> str:
    """A block without what differs between languages: comments, and words of a drawing."""
    lines = [re.sub(r"\s+# .*$", "", line).rstrip() for line in block.splitlines()]
    return "\n".join(lines)


def test_each_leads_to_the_other_at_the_top() -> None:
    for one, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        top = "\n".join(one.text.splitlines()[:5])
        assert f"({other.path.name})" in top


def test_the_code_blocks_are_the_same() -> None:
    assert list(map(code_of, CHINESE.blocks)) == list(map(code_of, ENGLISH.blocks))


def test_the_links_are_the_same() -> None:
    def others(document: Document) -> list[str]:
        mutual = (ENGLISH.path.name, CHINESE.path.name)
        # An anchor is a heading's own words.
        return [link for link in document.links if link not in mutual and not link.startswith("#")]

    assert sorted(others(CHINESE)) == sorted(others(ENGLISH))


def test_the_code_in_the_text_is_the_same() -> None:
    assert sorted(set(CHINESE.spans)) == sorted(set(ENGLISH.spans))


def test_the_headings_are_as_many_and_of_the_same_order() -> None:
    def levels(document: Document) -> list[str]:
        return re.findall(r"^(#+) ", document.prose, re.MULTILINE)

    assert levels(CHINESE) == levels(ENGLISH)


@pytest.mark.parametrize("row", [line for line in CHINESE.prose.splitlines() if line.startswith("| `")])
def test_what_is_said_in_tables_is_said_in_chinese(row: str) -> None:
    assert HAN.search(row)
