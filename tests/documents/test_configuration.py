"""The page of all settings is current, and every variable that is named anywhere is a setting."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import yaml

from cli.settings import PREFIX
from shared.settings import Settings
from tests.documents import reference
from tests.documents.markdown import ROOT

PAGE = ROOT / "docs" / "configuration.md"
VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}
NO_SETTINGS = {
    "EIP_RECLAIMER_NO_SKIPS": "the tests ask for it",
    "EIP_RECLAIMER_IMAGE": "docker-compose.yml asks for it, and gives it to no container",
    "EIP_RECLAIMER_SNAKE_CASE": "how a comment writes the form of a name",
}
"""What looks like a setting's variable, and why it is none."""
NAMED = re.compile(rf"(?<![A-Z_]){PREFIX}[A-Z0-9]\w*")
PLACES = [
    *("README.md", "README.zh-CN.md", "CHANGELOG.md", "docs", "cli", "shared", "producer", "workers", "dashboard"),
    *("Makefile", "helm", "Dockerfile", "docker-compose.yml", ".ci"),
]


def texts(place: str) -> dict[str, str]:
    """What is written in the files there; nothing where there is no such place."""
    path = ROOT / place
    found = {}
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        # Pictures and fonts are not.
        with suppress(UnicodeDecodeError):
            found[str(file.relative_to(ROOT))] = file.read_text(encoding="utf-8")
    return found


def test_the_page_is_what_make_reference_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page(), "run `make reference`"


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    assert set(re.findall(rf"^\| `({PREFIX}\w+)`", PAGE.read_text(), re.MULTILINE)) == VARIABLES


@pytest.mark.parametrize("place", PLACES)
def test_every_variable_that_is_named_is_a_setting(place: str) -> None:
    named = {(name, file) for file, text in texts(place).items() for name in NAMED.findall(text)}
    assert {each for each in named if each[0] not in VARIABLES | set(NO_SETTINGS)} == set()


def test_there_is_something_to_look_at() -> None:
    assert all(texts(place) for place in ("README.md", "README.zh-CN.md", "docs", "cli", "shared", "Makefile"))


def test_the_keys_of_the_chart_are_those_that_the_page_names() -> None:
    keys = yaml.safe_load((ROOT / "helm" / "eip-reclaimer" / "values.yaml").read_text())["settings"]
    assert {setting.chart_key for setting in reference.settings()} - {None} == set(keys)
    assert set(Settings.model_fields) >= reference.BY_OTHER_VALUES


def test_flags_are_those_that_commands_hand_to_the_settings() -> None:
    flags = {setting.name: setting.flags for setting in reference.settings() if setting.flags}
    assert flags == {
        "redis_url": ("--redis-url",),
        "kubeconfig": ("--kubeconfig",),
        "driver": ("--driver",),
        "dashboard_host": ("--host",),
        "dashboard_port": ("--port",),
    }
