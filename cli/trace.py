"""`eip-reclaimer trace`: the life of one release on one screen, also long after the EIP is gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.completion import trace_terms
from cli.options import Json, RedisUrl, clock, open_queue, settings_of
from cli.tables import plain

if TYPE_CHECKING:
    from shared.lives import Life
    from shared.queue import WorkQueue

LIVES = 5
"""How many lives are told unless one asks for more; the last ones are what one looks for at night."""

REPEATED = {"deleted": "deleted", "put back": "put_back"}
"""By act, the detail of an outcome that tells the same."""


def trace(
    term: Annotated[
        str, typer.Argument(help="an EIP's name or UID, an address, or a job id", autocompletion=trace_terms)
    ],
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, help=f"only the last N lives [default: {LIVES}, with --json all]", metavar="N"),
    ] = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Tell the life of one release: seen, published, taken by whom, found, done, seen after; and how it stands now.

    Exit status: 0 when something is known, 1 when nothing is, 2 when it could not be looked up.
    """
    from dataclasses import asdict

    from shared.lives import Lives

    work_queue = open_queue(settings_of(redis_url=redis_url))
    found = work_queue.records.find(_address(term))
    if not found:
        typer.echo(_unknown(work_queue, _address(term)), err=True)
        raise typer.Exit(1)
    told = found[-(last or (len(found) if as_json else LIVES)) :]
    lives = [Lives(work_queue).of(work_id) for work_id in told]
    if as_json:
        typer.echo(json.dumps({life.id: asdict(life) for life in lives}))
        return
    if len(told) < len(found):
        typer.echo(f"{len(found) - len(told)} earlier lives are not shown: --last {len(found)}")
    for life in lives:
        _tell(life)


def _address(term: str) -> str:
    """An address as it is recorded, however it was written: also with a prefix length, as `ip` prints it."""
    from ipaddress import ip_interface

    try:
        return str(ip_interface(term).ip)
    except ValueError:
        return term


def _unknown(work_queue: WorkQueue, term: str) -> str:
    """What to say where no work is about the term: mostly it is about what lives."""
    from shared.inventory import Inventory

    for eip in Inventory(work_queue, "", "").all().values():
        if term in (eip.name, eip.uid, *eip.addresses):
            state = "is terminating" if eip.terminating else "lives"
            where = f"{', '.join(eip.addresses) or 'no address yet'} on {eip.gateway}"
            return f"nothing was released: EIP {plain(eip.name)} ({plain(where)}) {state}"
    return (
        f"no release is known of {plain(term)!r}, as an EIP's name or UID, an address, or a job id. "
        "What gateways carry: eip-reclaimer audit"
    )


def _tell(life: Life) -> None:
    typer.secho(plain(f"{life.id}  {life.description}"), bold=True)
    acts = {event["event"] for event in life.events}
    last_reason = None
    for event in life.events:
        # An outcome repeats what acts told, for whoever reads outcomes only.
        told = {"at", "event", *(detail for act, detail in REPEATED.items() if act in acts)}
        shown = event
        if "reason" in event:
            shown = {**event, "reason": "the same"} if event["reason"] == last_reason else event
            last_reason = event["reason"]
        details = ", ".join(
            f"{name.replace('_', ' ')}: {_text(shown[name])}"
            for name in event
            if name not in told and event[name] not in ([], {})
        )
        typer.echo(plain(f"  {clock(event['at'])}  {event['event']:<16} {details}"))
    typer.echo(plain(f"  => {life.outcome or life.state}: {life.says}"))


def _text(value: Any) -> str:
    """A detail of an event, for people."""
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(each)}" for key, each in value.items())
    return "; ".join(map(_text, value)) if isinstance(value, list) else str(value)
