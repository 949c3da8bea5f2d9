"""Each message that is quoted is in the code, and each that a person can do something about is explained."""

from __future__ import annotations

import re

import pytest

from tests.documents.markdown import ROOT, Document
from tests.documents.messages import errors, everything

PAGE = Document(ROOT / "docs" / "troubleshooting.md")

PASSES_BY_ITSELF = {
    "Redis does not know the last commit of this producer: it came back older": "published again, and told in the log",
    "the API no longer has the events of … since then": "a list is taken in place of the events",
    "the API no longer has that version of …": "the list is begun anew",
    "the watch of … broke off: …. It is resumed.": "resumed",
    "the watch of … sent a line that is no event: …": "resumed",
    "the API's answer about … broke off: …": "asked again",
    "the API's answer about … is not JSON: …": "asked again",
    "the API's answer about … is not an object": "asked again",
    "the lock of gateway … ran out before what was done there was recorded; the gateway is looked at again": "as it says",
    "what pod … holds cannot be read: …. It is tried again later.": "as it says",
    "pod … has no interface … any more: its network is being taken down": "tried again on the next pod",
    "pod … has an impossible UID …: the job's payload is wrong": "the API gives no such UID",
    "…: …. Drop it: eip-reclaimer failed drop …": "says with which command",
    "Subnet …: …": "the first part of what is told of a subnet that cannot be read; the rest is Python's",
    "…: …": "the same of an EIP's addresses",
    "eip-reclaimer producer": "a command that the status says to give",
    "eip-reclaimer worker": "the same",
    "eip-reclaimer audit": "the same",
    "eip-reclaimer brake show": "the same",
    "eip-reclaimer failed list": "the same",
    "look at the API server": "the same",
    "look at the producers' logs and the API": "the same",
    "start one there with the netlink driver": "the same",
}
"""Messages that need no person, or tell all there is to do, with why."""


def quoted() -> list[str]:
    """What the first columns quote that have a message in them."""
    tables = re.findall(r"^\| message \| what to do \|\n\| --- \| --- \|\n((?:\|.*\n)+)", PAGE.text, re.MULTILINE)
    assert len(tables) > 5
    rows = [line for table in tables for line in table.splitlines()]
    found = [re.match(r"\| (`+)(?! )(.+?) ?\1 \| ", row) for row in rows]
    assert None not in found, rows[found.index(None)]
    return [each[2].strip() for each in found if each]


@pytest.mark.parametrize("message", quoted())
def test_a_message_that_is_quoted_is_one_that_the_product_says(message: str) -> None:
    assert any(message in text for text in everything())


def test_no_message_is_explained_twice() -> None:
    assert len(set(quoted())) == len(quoted())


@pytest.mark.parametrize("message", sorted(set(errors()) - set(PASSES_BY_ITSELF)))
def test_a_message_that_a_person_can_do_something_about_is_explained(message: str) -> None:
    assert any(each in message for each in quoted()), f"{errors()[message]}: add it to {PAGE.name}"


def test_what_passes_by_itself_is_still_said() -> None:
    assert set(PASSES_BY_ITSELF) <= set(errors())
