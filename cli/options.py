"""What commands share: options, the settings they make, and how times are written for people.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shared.queue import WorkQueue
    from shared.settings import Settings

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        help="redis://host:6379/0; one with a password goes into EIP_RECLAIMER_REDIS_URL",
        show_default=False,
    ),
]
Kubeconfig = Annotated[Path | None, typer.Option("--kubeconfig", help="kubeconfig file", show_default=False)]
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds_of(age: str) -> float:
    """The seconds of `90s`, `15m`, `2h`, `3d` or `1w`.

    Raises:
        typer.BadParameter: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", age.strip())
    if not found:
        raise typer.BadParameter(f"{age!r} is no age. Examples: 90s, 15m, 2h, 3d, 1w")
    return float(found[1]) * _AGES[found[2]]


Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def settings_of(**flags: Any) -> Settings:
    """The settings from the environment and these flags; logs follow them from now on.

    Raises:
        InvalidPayloadError: one has no valid value, or a password would be seen by everybody.
    """
    from shared.errors import InvalidPayloadError
    from shared.log import configure
    from shared.settings import load_settings

    if re.search(r"://[^/@]*:[^/]*@", flags.get("redis_url") or ""):
        raise InvalidPayloadError(
            "--redis-url has a password, which everybody on this machine can read in the list of processes. "
            "Nothing was done. Give that URL as the variable EIP_RECLAIMER_REDIS_URL, and change the password."
        )
    settings = load_settings(**flags)
    configure(settings)
    return settings


def open_queue(settings: Settings) -> WorkQueue:
    """The queue at the Redis server of the settings.

    Raises:
        InvalidPayloadError: the URL is none.
        TransientError: the server does not answer, or refuses us.
    """
    from shared.connection import connect
    from shared.queue import WorkQueue

    return WorkQueue(connect(settings), settings)


def operator() -> str:
    """Who gives this command, for the trace."""
    import getpass
    import os
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have no name.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def clock(seconds: float) -> str:
    """A moment (seconds since the epoch) for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
