"""What the product can say when something is wrong, collected from its code: each message with `…` for what varies."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "producer", "workers", "cli", "dashboard")
VARIES = "…"
BASE = "ReclaimerError"
SAYS = ("_failure", "Need", "BadParameter", "Verdict")
"""Calls beside those of error classes whose text a person reads as what is wrong."""


@cache
def errors() -> dict[str, str]:
    """By message, where it is made: of errors that are raised on purpose, and of what else says that something is wrong."""
    classes = _error_classes()
    found: dict[str, str] = {}
    for file, tree in _modules():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func).rpartition(".")[2]
            if name not in classes and name not in SAYS:
                continue
            spoken = [*call.args, *(each.value for each in call.keywords if each.arg == "reason")]
            for text in filter(None, map(_text, spoken)):
                if " " in text:
                    found[text] = f"{file.relative_to(ROOT)}:{call.lineno}"
    return found


@cache
def everything() -> set[str]:
    """Every text in the product's code."""
    return {
        text
        for _, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and (text := _text(node))
    }


@cache
def _modules() -> list[tuple[Path, ast.Module]]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return [(file, ast.parse(file.read_text())) for file in files]


def _error_classes() -> set[str]:
    """Of errors that are raised on purpose, wherever they are defined."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for _, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {BASE}
    while more := {name for name, its in bases.items() if its & found} - found:
        found |= more
    return found


def _text(node: ast.expr) -> str | None:
    """A text as it is written, with `…` for what is filled in."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or VARIES for part in parts)
        case _:
            return None
