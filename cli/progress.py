"""How far something has come that is done to many, or in phases."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEW = 10
"""For so many no bar is worth its place."""


class Progress(Protocol):
    """Is told what became of one after the other."""

    def __call__(self, text: str, *, wrong: bool) -> None:
        """One more, in words, and whether something was wrong with it."""


@contextmanager
def follow(what: str, total: int, *, quiet: bool) -> Iterator[Progress]:
    """Show how far it has come: a bar for many on a terminal, with lines for what was wrong; else lines.

    Args:
        what: what is done to each, as in `replayed`.
        total: how many there are.
        quiet: whether only what was wrong is told.
    """
    if quiet or not sys.stdout.isatty() or total < FEW:

        def say(text: str, *, wrong: bool) -> None:
            if wrong or not quiet:
                typer.echo(text, err=wrong)

        yield say
        return
    from rich import progress
    from rich.text import Text

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns) as bar:
        task = bar.add_task(what, total=total)

        def move(text: str, *, wrong: bool) -> None:
            if wrong:
                bar.console.print(Text(text), soft_wrap=True)
            bar.advance(task)

        yield move


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr how far each phase has come: a bar on a terminal, elsewhere a line per tenth.

    What it gives is told the phase, how much of it is done, and of how much.
    """
    if not sys.stderr.isatty():
        tenths: dict[str, int] = {}

        def say(phase: str, done: int, total: int) -> None:
            tenth = done * 10 // total if total else 10
            if tenths.get(phase) != tenth:
                tenths[phase] = tenth
                typer.echo(f"{phase}: {done} of {total}", err=True)

        yield say
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def move(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield move
