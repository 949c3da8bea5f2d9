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


def clock(seconds: float) -> str:
    """A moment (seconds since the epoch) for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
