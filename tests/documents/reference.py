"""Writes `docs/configuration.md` from the settings class: `python -m tests.documents.reference docs/configuration.md`.

What a person reads of a setting is in one place, its line in `shared/settings.py`: name, type, bounds, default, and the
docstring below it. Its flag is the command's, its key in the chart follows from the name.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import annotated_types
import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from cli.main import app
from cli.settings import PREFIX, written
from shared.settings import Network, Settings

CLI = Path(__file__).parents[2] / "cli"

HEAD = """\
# Configuration

Every setting is an environment variable. Where a command has a flag for one, the flag counts. Every default is safe on
a real cluster. Durations are seconds. This page is made from the settings class by `make reference`; a test sees that
it is current.

    $ export EIP_RECLAIMER_REDIS_URL=redis://eip-reclaimer:hunter2@redis:6379/0 EIP_RECLAIMER_DRIVER=netlink
    $ eip-reclaimer settings --changed --driver exec
    VARIABLE                 VALUE                                   FROM
    EIP_RECLAIMER_REDIS_URL  redis://eip-reclaimer:***@redis:6379/0  environment
    EIP_RECLAIMER_DRIVER     exec                                    flag

`eip-reclaimer settings` shows what is in force where it is run, where each value comes from (`default`, `environment`,
`flag`), and which variables are set that are no settings. It connects to nothing, and hides passwords; `--json` is for
scripts. Run it where the process runs, in a pod with `kubectl exec`. A value that is none is refused at the start,
with the variable's name and what it has to be:

    $ EIP_RECLAIMER_DRIVER=ssh eip-reclaimer settings
    eip-reclaimer: settings are not valid: EIP_RECLAIMER_DRIVER: Input should be 'exec' or 'netlink'

In the Helm chart a setting is a key of `settings`, named as in the column *chart*. Where that is empty, other values of
the chart decide, such as those for Redis and for each driver: [kubernetes.md](kubernetes.md).
"""

BY_OTHER_VALUES = {
    *("redis_url", "redis_sentinels", "redis_sentinel_master", "redis_sentinel_username", "redis_sentinel_password"),
    *("kubeconfig", "kube_context", "driver", "node_name", "netns_dir", "http"),
    *("dashboard_host", "dashboard_port", "dashboard_password", "dashboard_trusted_proxy"),
}
"""Settings that the chart derives from what it deploys, or has no use for."""

TITLES = {
    "redis_url": "Redis",
    "kubeconfig": "The Kubernetes API",
    "gateway_namespace": "Gateways, and what is never touched",
    "driver": "Drivers",
    "brake_minimum": "The brake",
    "look_again_after": "Looks and audits",
    "gateways_at_once": "Workers, locks, retries, history",
    "dashboard_host": "The dashboard",
    "http": "Metrics, health, Events",
    "log_level": "Logs",
}
"""By the first setting of a group, the group's title; a blank line in the class begins a group."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as a person reads of it."""

    name: str
    meaning: str
    values: str
    """Type and bounds, in words."""
    default: str | None
    flags: tuple[str, ...]
    begins_group: bool

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def chart_key(self) -> str | None:
        """Its key in the chart's `settings`; None where other values decide."""
        if self.name in BY_OTHER_VALUES:
            return None
        first, *others = self.name.split("_")
        return first + "".join(word.capitalize() for word in others)


def settings() -> list[Setting]:
    """All settings, in the order of the class."""
    source = inspect.getsource(Settings)
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    lines = source.splitlines()
    found = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        match following:
            case ast.Expr(value=ast.Constant(value=str() as meaning)):
                pass
            case _:
                raise ValueError(f"{name} has no docstring: nobody would know what it is for")
        field = Settings.model_fields[name]
        found.append(
            Setting(
                name=name,
                meaning=" ".join(meaning.split()),
                values=_values(name, field),
                default=_default(name, field),
                flags=_flags(name),
                begins_group=not lines[statement.lineno - 2].strip(),
            )
        )
    return found


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for setting in settings():
        if setting.begins_group:
            lines += [
                f"\n## {TITLES[setting.name]}\n",
                "| variable | chart | values | default | meaning |",
                "| --- | --- | --- | --- | --- |",
            ]
        variable = "<br>".join(f"`{each}`" for each in (setting.variable, *setting.flags))
        default = f"`{setting.default}`" if setting.default else "none"
        chart = f"`{setting.chart_key}`" if setting.chart_key else ""
        cells = (variable, chart, setting.values, default, setting.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(name: str, field: FieldInfo) -> str | None:
    if name == "redis_url":
        url: SecretStr = field.default
        return url.get_secret_value()
    return written(name, field.default)


def _values(name: str, field: FieldInfo) -> str:
    kind = _kind(name, _without_none(field.annotation))
    bounds = " and ".join(_bounds(field.metadata)) or _each_bound(field.annotation)
    return f"{kind}, {bounds}" if bounds else kind


def _without_none(annotation: Any) -> Any:
    if isinstance(annotation, UnionType):
        (only,) = (each for each in get_args(annotation) if each is not type(None))
        return only
    return annotation


def _kind(name: str, annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        *others, last = (f"`{value}`" for value in get_args(annotation))
        return f"{', '.join(others)} or {last}"
    if get_origin(annotation) is tuple:
        first, *_ = get_args(annotation)
        if get_args(annotation) == (str, int):
            return "HOST:PORT"
        each = {Network: "addresses or prefixes", tuple[str, int]: "HOST:PORT"}.get(first, "seconds")
        return f"{each}, separated by commas"
    if annotation is SecretStr:
        return "URL, secret" if name.endswith("_url") else "text, secret"
    if annotation is bool:
        return "`true` or `false`"
    if annotation is int:
        return "whole seconds" if name.endswith("_timeout") else "whole number"
    if annotation is float:
        return {"percent": "percent", "days": "days"}.get(name.rpartition("_")[2], "seconds")
    if inspect.isclass(annotation) and issubclass(annotation, PurePath):
        return "path"
    if annotation is str:
        return "text"
    raise TypeError(f"{name} is of the type {annotation}, for which there are no words yet")


def _bounds(metadata: list[Any]) -> Iterator[str]:
    at_least, at_most = None, None
    for each in metadata:
        match each:
            case annotated_types.Gt(gt=bound):
                yield f"more than {bound}"
            case annotated_types.Ge(ge=bound):
                at_least = bound
            case annotated_types.Le(le=bound):
                at_most = bound
            case _ if getattr(each, "pattern", None):
                yield "of letters, digits, `_`, `.` and `-`"
    if at_least is not None and at_most is not None:
        yield f"{at_least} to {at_most}"
    elif at_least is not None:
        yield f"at least {at_least}"
    elif at_most is not None:
        yield f"at most {at_most}"


def _each_bound(annotation: Any) -> str:
    """The bounds of a tuple's items."""
    first = (get_args(annotation) or (None,))[0]
    metadata = [deeper for each in getattr(first, "__metadata__", ()) for deeper in getattr(each, "metadata", [each])]
    bounds = " and ".join(_bounds(metadata))
    return f"each {bounds}" if bounds else ""


def _flags(name: str) -> tuple[str, ...]:
    """The flags that override a setting: the options whose values commands hand to `settings_of`."""
    commands: Any = typer.main.get_command(app)
    handed = {
        keyword.value.id
        for file in sorted(CLI.glob("*.py"))
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "settings_of"
        for keyword in call.keywords
        if keyword.arg == name and isinstance(keyword.value, ast.Name)
    }
    options = (each for command in commands.commands.values() for each in command.params if each.name in handed)
    return tuple(dict.fromkeys(flag for option in options for flag in option.opts if flag.startswith("--")))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
