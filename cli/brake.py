"""`eip-reclaimer brake`: what holds back releases when one list says that far too many EIPs are gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from cli.groups import Group
from cli.options import Json, RedisUrl, clock, open_queue, settings_of
from cli.tables import plain, table

if TYPE_CHECKING:
    from shared.brake import Brake
    from shared.queue import WorkQueue

SHOWN = 20
"""EIPs that are named on a screen."""

app = typer.Typer(cls=Group, help="What holds back releases when one list says that far too many EIPs are gone.")


@app.command("show")
def show(redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Say whether the brake is engaged, since when and why, and what it holds back.

    Exit status: 0 when it is not engaged, 1 when it is, 2 when it could not be looked up.
    """
    from dataclasses import asdict

    work_queue, brake = _brake(redis_url)
    state, held = brake.state(), brake.held()
    confirmed = brake.confirmed(held)
    if as_json:
        told = {**asdict(state), "uids": sorted(held), "confirmed": sorted(confirmed)} if state else None
        typer.echo(json.dumps(told))
    elif state is None:
        typer.echo("the brake is not engaged")
    else:
        typer.echo(f"engaged since {clock(state.since)}: {plain(state.reason)}")
        _tell_held(work_queue, held)
        if held <= confirmed:
            typer.echo("all of it was confirmed: a producer goes on with its next list")
        else:
            typer.echo(
                "Look at the API server first: are these EIPs gone from it? If so: eip-reclaimer brake release. "
                "If not, the brake disengages by itself once lists show them again."
            )
    raise typer.Exit(1 if state else 0)


@app.command("release")
def release(redis_url: RedisUrl = None) -> None:
    """Confirm that what the brake holds back now is to be released.

    Exit status: 0 when it was confirmed, or nothing is held back, 2 when nothing could be done.
    """
    _, brake = _brake(redis_url)
    state = brake.confirm()
    if state is None:
        typer.echo("the brake is not engaged, nothing to release")
    else:
        typer.echo(
            f"confirmed: the release of {state.held} that were held back ({plain(state.reason)}). "
            "A producer goes on with its next list, within EIP_RECLAIMER_BRAKE_RECHECK."
        )


def _tell_held(work_queue: WorkQueue, held: set[str]) -> None:
    """Name what is held back, as far as it is known."""
    from shared.inventory import Inventory

    known = Inventory(work_queue, "", "").all()
    rows = [
        (eip.name, eip.gateway, ", ".join(eip.addresses)) for uid in sorted(held) if (eip := known.get(uid)) is not None
    ]
    typer.echo(f"held back: {len(held)}")
    if rows:
        table(("EIP", "GATEWAY", "ADDRESSES"), rows[:SHOWN])
    if len(rows) > SHOWN:
        typer.echo(f"and {len(rows) - SHOWN} more: --json")


def _brake(redis_url: str | None) -> tuple[WorkQueue, Brake]:
    from shared.brake import Brake

    settings = settings_of(redis_url=redis_url)
    work_queue = open_queue(settings)
    return work_queue, Brake(work_queue, settings)
