"""The command `eip-reclaimer`. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shared.queue import WorkQueue
    from shared.settings import Settings

app = typer.Typer(
    help="Takes the addresses of deleted Kube-OVN EIPs off their gateways: exactly those, and proves it. "
    "Every option is also a variable EIP_RECLAIMER_*.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
brake_app = typer.Typer(help="What holds back releases when one list says that far too many EIPs are gone.")
app.add_typer(brake_app, name="brake", no_args_is_help=True)

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


@app.command()
def producer(redis_url: RedisUrl = None, kubeconfig: Kubeconfig = None) -> None:
    """Watch EIPs and turn every one that goes into a job. Several may run at once."""
    from producer.service import run

    run(_settings(redis_url=redis_url, kubeconfig=kubeconfig))


@app.command()
def worker(
    redis_url: RedisUrl = None,
    kubeconfig: Kubeconfig = None,
    driver: Annotated[str | None, typer.Option(help="exec or netlink", show_default=False)] = None,
    burst: Annotated[bool, typer.Option("--burst", help="end when the queue is empty")] = False,
) -> None:
    """Take jobs and reclaim the addresses. Run as many as there is work for."""
    from workers.service import run

    run(_settings(redis_url=redis_url, kubeconfig=kubeconfig, driver=driver), burst=burst)


@app.command()
def trace(
    term: Annotated[str, typer.Argument(help="an EIP's name or UID, an address, or a job id")],
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Tell the life of one release: seen, published, taken by whom, found, done, seen after."""
    work_queue = _open(_settings(redis_url=redis_url))
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
            typer.echo(f"  {_clock(event['at'])}  {event['event']:<16} {details}")
        typer.echo(f"  => {life['outcome'] or 'not finished'}")


@app.command()
def demo(as_json: Json = False) -> None:
    """Play the main job on this machine, with gateways in network namespaces; no cluster is needed."""
    command = [sys.executable, "-m", "sandbox.privileges", "--", sys.executable, "-m", "sandbox.demo"]
    os.execv(command[0], command + ["--json"] * as_json)  # noqa: S606 - no shell is the point


@brake_app.command("show")
def brake_show(redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Say whether the brake is engaged, since when and why; exit status 1 when it is."""
    from dataclasses import asdict

    settings = _settings(redis_url=redis_url)
    state = _brake(settings).state()
    if as_json:
        typer.echo(json.dumps(asdict(state) if state else None))
    elif state is None:
        typer.echo("the brake is not engaged")
    else:
        typer.echo(f"engaged since {_clock(state.since)}: {state.reason}")
        typer.echo("If these EIPs are truly gone: eip-reclaimer brake release. Otherwise look at the API server first.")
    raise typer.Exit(1 if state else 0)


@brake_app.command("release")
def brake_release(redis_url: RedisUrl = None) -> None:
    """Confirm that what the brake holds back now is to be released."""
    state = _brake(_settings(redis_url=redis_url)).confirm()
    if state is None:
        typer.echo("the brake is not engaged, nothing to release")
    else:
        typer.echo(
            f"confirmed: {state.reason}. A producer goes on with its next list, within EIP_RECLAIMER_BRAKE_RECHECK."
        )


def main() -> None:
    """Run the command; what went wrong on purpose is one line and exit status 2."""
    from shared.errors import ReclaimerError

    try:
        app()
    except ReclaimerError as error:
        typer.secho(f"eip-reclaimer: {error}", fg="red", err=True)
        sys.exit(2)


def _settings(**flags: Any) -> Settings:
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


def _open(settings: Settings) -> WorkQueue:
    from shared.connection import connect
    from shared.queue import WorkQueue

    return WorkQueue(connect(settings), settings)


def _brake(settings: Settings) -> Any:
    from shared.brake import Brake

    return Brake(_open(settings), settings)


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


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
