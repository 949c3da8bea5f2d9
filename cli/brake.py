"""`eip-reclaimer brake`: what holds back releases when one list says that far too many EIPs are gone."""

from __future__ import annotations

import json
from typing import Any

import typer

from cli.options import Json, RedisUrl, clock, open_queue, settings_of

app = typer.Typer(help="What holds back releases when one list says that far too many EIPs are gone.")


@app.command("show")
def show(redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Say whether the brake is engaged, since when and why; exit status 1 when it is."""
    from dataclasses import asdict

    state = _brake(redis_url).state()
    if as_json:
        typer.echo(json.dumps(asdict(state) if state else None))
    elif state is None:
        typer.echo("the brake is not engaged")
    else:
        typer.echo(f"engaged since {clock(state.since)}: {state.reason}")
        typer.echo("If these EIPs are truly gone: eip-reclaimer brake release. Otherwise look at the API server first.")
    raise typer.Exit(1 if state else 0)


@app.command("release")
def release(redis_url: RedisUrl = None) -> None:
    """Confirm that what the brake holds back now is to be released."""
    state = _brake(redis_url).confirm()
    if state is None:
        typer.echo("the brake is not engaged, nothing to release")
    else:
        typer.echo(
            f"confirmed: {state.reason}. A producer goes on with its next list, within EIP_RECLAIMER_BRAKE_RECHECK."
        )


def _brake(redis_url: str | None) -> Any:
    from shared.brake import Brake

    settings = settings_of(redis_url=redis_url)
    return Brake(open_queue(settings), settings)
