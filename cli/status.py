"""`eip-reclaimer status`: how things are, and what needs a person."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json, RedisUrl, clock, open_queue, settings_of
from cli.tables import ago, gist, plain, table

if TYPE_CHECKING:
    from shared.status import Status
    from shared.status_reader import StatusReader

MOST_ROWS = 20
"""Of gateways and running jobs; `--json` has them all."""


def status(
    watch: Annotated[
        float | None, typer.Option("--watch", min=0.2, help="print it again every so many seconds", metavar="SECONDS")
    ] = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Tell how things are: queues, gateways, locks, retries, failures, producers, workers, brake, audits.

    Exit status: 0 when all is well, 1 when something needs a person, 2 when it could not be looked up.
    """
    from shared.status_reader import StatusReader

    settings = settings_of(redis_url=redis_url)
    reader = StatusReader(open_queue(settings), settings)
    now = _print(reader, as_json)
    while watch is not None:
        time.sleep(watch)
        if sys.stdout.isatty() and not as_json:
            from rich.console import Console

            Console().clear()
        now = _print(reader, as_json)
    raise typer.Exit(1 if now.needs else 0)


def _print(reader: StatusReader, as_json: bool) -> Status:
    from dataclasses import asdict

    now = reader.read()
    if as_json:
        more = {"failed": now.failed, "pending": now.pending, "oldest_pending": now.oldest_pending}
        typer.echo(json.dumps({"well": not now.needs, **asdict(now), **more}))
    else:
        _summary(now)
        _jobs(now)
        _processes(now)
        _audits(now)
    return now


def _summary(now: Status) -> None:
    typer.secho("all is well" if not now.needs else "needs you", bold=True, fg="red" if now.needs else "green")
    for need in now.needs:
        typer.echo(plain(f"  ! {need.what}"))
        typer.echo(plain(f"      {need.do}"))
    waits = f", the oldest seen {ago(now.at - now.oldest_pending)} ago" if now.oldest_pending else ""
    typer.echo(f"pending {now.pending} pieces of work{waits}; failed {now.failed} jobs")
    if now.advanced_at is None:
        typer.echo(f"{now.known_eips} EIPs known; no producer has listed the API yet")
    else:
        since = ago(now.at - now.advanced_at)
        typer.echo(f"{now.known_eips} EIPs known; committed up to {now.resource_version}, reached {since} ago")
    typer.echo(f"the brake is engaged since {clock(now.brake.since)}" if now.brake else "the brake is not engaged")


def _jobs(now: Status) -> None:
    _section("queues")
    table(
        ("QUEUE", "QUEUED", "RUNNING", "LATER", "NEXT DUE", "FAILED"),
        [
            (queue.name, queue.queued, queue.running, queue.scheduled, _due(now.at, queue.next_due), queue.failed)
            for queue in now.queues
        ],
    )
    if now.running:
        _section("running", len(now.running))
        table(
            ("JOB", "WHAT", "WORKER", "FOR"),
            [
                (job.id, job.description, job.worker, ago(now.at - job.since) if job.since else None)
                for job in now.running[:MOST_ROWS]
            ],
        )
    if now.gateways:
        _section("gateways with pending work", len(now.gateways))
        table(
            ("GATEWAY", "PENDING", "OLDEST", "LOCKED BY", "STILL FOR"),
            [
                (
                    gateway.name,
                    gateway.pending,
                    ago(now.at - gateway.oldest) if gateway.oldest else None,
                    gateway.holder,
                    f"{gateway.held_for:.0f} s" if gateway.held_for else None,
                )
                for gateway in now.gateways[:MOST_ROWS]
            ],
        )
    if now.failures:
        _section("failed")
        table(
            ("JOBS", "LAST", "ERROR", "GATEWAYS", "REASON OF THE LAST"),
            [
                (group.count, f"{ago(now.at - group.newest)} ago", group.cause, len(group.gateways), gist(group.reason))
                for group in now.failures
            ],
        )


def _processes(now: Status) -> None:
    # One that was replaced is remembered for a day; it is of interest while nobody has taken its place.
    producers = [producer for producer in now.producers if producer.alive] or now.producers[:1]
    if producers:
        _section("producers")
        table(
            ("PRODUCER", "LAST COMMIT", "POSITION", "BEHIND", "API SPOKE"),
            [
                (
                    producer.name,
                    f"{ago(now.at - producer.committed_at)} ago" + ("" if producer.alive else ", dead"),
                    producer.resource_version,
                    _behind(now, producer.resource_version),
                    f"{ago(now.at - producer.heard_at)} ago" if producer.heard_at else None,
                )
                for producer in producers
            ],
        )
    if now.workers:
        _section("workers")
        table(
            ("WORKER", "QUEUES", "STATE", "JOB", "HEARTBEAT"),
            [
                (
                    worker.name,
                    ",".join(worker.queues),
                    worker.state if worker.alive else "dead",
                    worker.job,
                    f"{ago(now.at - worker.heartbeat)} ago" if worker.heartbeat else None,
                )
                for worker in now.workers
            ],
        )


def _audits(now: Status) -> None:
    if not now.audits:
        return
    worth = [audit for audit in now.audits if audit.findings or audit.hindrance]
    _section(f"audits: {len(now.audits)} gateways, the oldest {ago(now.at - now.audits[0].at)} ago")
    if worth:
        table(
            ("GATEWAY", "AUDITED", "FOUND", "HINDRANCE"),
            [
                (
                    audit.gateway,
                    f"{ago(now.at - audit.at)} ago",
                    ", ".join(f"{kind} {count}" for kind, count in audit.findings.items()) or None,
                    audit.hindrance,
                )
                for audit in worth
            ],
        )


def _section(title: str, rows: int = 0) -> None:
    more = f" (the first {MOST_ROWS} of {rows})" if rows > MOST_ROWS else ""
    typer.secho(f"\n{title}{more}", bold=True)


def _due(now: float, at: float | None) -> str | None:
    if at is None:
        return None
    return f"in {at - now:.0f} s" if at > now else "now"


def _behind(now: Status, position: int | None) -> int | None:
    """How far a producer is behind what is committed, in resourceVersions; None where it has no position."""
    if position is None or now.resource_version is None:
        return None
    return max(0, now.resource_version - position)
