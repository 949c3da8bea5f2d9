"""Help of a group of commands: plain text, which is there in half the time, and of each command its first paragraph."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """Its list of commands is wrapped, where the usual one cuts what does not fit a line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write them in the order in which they were added."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join(cleandoc(command.help or "").partition("\n\n")[0].split()))
            for name, command in named
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
