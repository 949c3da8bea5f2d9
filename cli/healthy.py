"""`eip-reclaimer healthy`: what health checks of containers run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import settings_of
from cli.tables import plain

if TYPE_CHECKING:
    from shared.settings import Settings

ANSWER_SECONDS = 5.0
"""How long what is asked may take; shorter than the patience of a health check."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask what listens everywhere


def healthy(
    ready: Annotated[
        bool, typer.Option("--ready", help="ask whether it can do its work, not just whether it moves")
    ] = False,
) -> None:
    """Ask the producer, worker or dashboard that runs here how it is; for the health check of a container.

    Asked is what the settings name: /healthz (/readyz) at EIP_RECLAIMER_HTTP, else the dashboard. Exit status: 0 when
    it is well, or nothing listens there, as beside a command that ends by itself; 1 when it is not well. With
    `--ready`, what does not listen is not ready.
    """
    settings = settings_of()
    for host, port, path in _places(settings, ready=ready):
        answer = _ask(_ANY.get(host, host), port, path)
        if answer is not None:
            status, body = answer
            typer.echo(plain(f"{port}{path} answers {status}{_problems(body)}" if status else f"{port}{path}: {body}"))
            raise typer.Exit(0 if status == 200 else 1)
    typer.echo("nothing listens here that could be asked")
    raise typer.Exit(1 if ready else 0)


def _places(settings: Settings, *, ready: bool) -> list[tuple[str, int, str]]:
    """Host, port and path of what may run here, likeliest first."""
    places = []
    if settings.http is not None and settings.http[1]:
        places.append((*settings.http, "/readyz" if ready else "/healthz"))
    # The login page needs no Redis, the brake's little of it.
    places.append((settings.dashboard_host, settings.dashboard_port, "/brake" if ready else "/login"))
    return places


def _ask(host: str, port: int, path: str) -> tuple[int, str] | None:
    """Status and body; None when nothing listens there, and status 0 with what went wrong when it does not answer."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException) as error:
        return 0, f"no answer: {error or type(error).__name__}"
    finally:
        connection.close()


def _problems(body: str) -> str:
    """What a health endpoint says is wrong."""
    try:
        problems = json.loads(body)["problems"]
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(f"; {problem}" for problem in problems)
