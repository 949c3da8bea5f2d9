"""How commands print: columns on a terminal, lines with tabs elsewhere.

Nothing is cut off or broken up in either, so that an id can be found and copied.

What comes from Redis may have been written by anybody who can write there: no character of it reaches the terminal
as a command to it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def plain(text: object) -> str:
    """Text in which everything that is not printable is written as an escape, on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def ago(seconds: float) -> str:
    """A duration for people: `12 s`, `3 min`, `2 h`, `5 d`; none where two clocks say it is less than none."""
    seconds = max(0.0, seconds)
    return next((f"{seconds / size:.0f} {unit}" for size, unit in _UNITS if seconds >= 1.5 * size), f"{seconds:.0f} s")


def gist(reason: str) -> str:
    """The first sentence of a reason on a terminal, where lists have to be overseen; all of it elsewhere."""
    return reason.partition(". ")[0] if sys.stdout.isatty() else reason


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their heads."""
    lines = [list(heads), *([plain("-" if cell is None else cell) for cell in row] for row in rows)]
    if not sys.stdout.isatty():
        for line in lines:
            typer.echo("\t".join(line))
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        typer.secho("  ".join(padded).rstrip(), bold=number == 0)
