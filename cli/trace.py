"""`eip-reclaimer trace`: the life of one release on one screen, also long after the EIP is gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, RedisUrl, clock, open_queue, settings_of

if TYPE_CHECKING:
    from shared.queue import WorkQueue


def trace(
    term: Annotated[str, typer.Argument(help="an EIP's name or UID, an address, or a job id")],
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Tell the life of one release: seen, published, taken by whom, found, done, seen after."""
    work_queue = open_queue(settings_of(redis_url=redis_url))
    found = work_queue.records.find(term)
    if not found:
        typer.echo(f"nothing is known of {term!r}: give an EIP's name or UID, an address, or a job id", err=True)
        raise typer.Exit(1)
    lives = {work_id: _life(work_queue, work_id) for work_id in found}
    if as_json:
        typer.echo(json.dumps(lives))
        return
    for work_id, life in lives.items():
        typer.secho(f"{work_id}  {life['description']}", bold=True)
        for event in life["events"]:
            details = ", ".join(f"{key}: {_text(value)}" for key, value in event.items() if key not in ("at", "event"))
            typer.echo(f"  {clock(event['at'])}  {event['event']:<16} {details}")
        typer.echo(f"  => {life['outcome'] or 'not finished'}")


def _life(work_queue: WorkQueue, work_id: str) -> dict[str, Any]:
    from shared.queue import describe

    work = work_queue.records.work(work_id)
    return {
        "description": describe(work) if work else "",
        "events": work_queue.records.events(work_id),
        "outcome": work_queue.records.fields(work_id).get("outcome"),
    }


def _text(value: Any) -> str:
    """A detail of an event, for people."""
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(each)}" for key, each in value.items())
    return "; ".join(map(_text, value)) if isinstance(value, list) else str(value)
