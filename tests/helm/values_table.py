"""The table of all values in the chart's README, made from values.yaml: `python -m tests.helm.values_table` writes it."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.helm.chart import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]+):(?: |$)")


def descriptions() -> dict[str, str]:
    """What the comments of values.yaml say about each key: `# --` and the lines that go on with it."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    text: str | None = None
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.fullmatch(r" *# ?(.*)", line)
        if comment:
            if comment[1].startswith("-- "):
                text = comment[1][3:]
            elif text is not None:
                text += f" {comment[1]}"
            continue
        key = _KEY.match(line)
        if key:
            parents = [(depth, name) for depth, name in parents if depth < len(key["indent"])]
            parents.append((len(key["indent"]), key["key"]))
            if text is not None:
                found[".".join(name for _, name in parents)] = text
        text = None
    return found


def defaults() -> dict[str, Any]:
    """Every value by its dotted name, down to what is no mapping, or is described as a whole."""
    described = descriptions()

    def walk(name: str, value: Any) -> dict[str, Any]:
        if name in described or not isinstance(value, dict) or not value:
            return {name: value}
        return {path: each for key, inner in value.items() for path, each in walk(f"{name}.{key}", inner).items()}

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    return {path: each for key, value in values.items() for path, each in walk(key, value).items()}


def table() -> str:
    """The table, as Markdown."""
    described = descriptions()
    rows = [f"| `{name}` | {described[name]} | `{json.dumps(value)}` |" for name, value in defaults().items()]
    return "\n".join(("| value | meaning | default |", "| --- | --- | --- |", *rows)) + "\n"


def readme(text: str) -> str:
    """The README with the table as it should be."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(readme(README.read_text()))
