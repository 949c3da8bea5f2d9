"""`eip-reclaimer failed`: the jobs that wait for a person, and what a person does about them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.completion import failed_jobs
from cli.groups import Group
from cli.options import Json, RedisUrl, clock, open_queue, operator, seconds_of, settings_of
from cli.progress import follow
from cli.tables import ago, gist, plain, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.failed import FailedJob, FailedJobs, Selection

app = typer.Typer(
    cls=Group, help="The jobs that failed and wait for a person: list them, try them again, or drop them."
)

Gateway = Annotated[str | None, typer.Option("--gateway", help="only those of this gateway", show_default=False)]
Reason = Annotated[
    str | None,
    typer.Option("--reason", help="only those with this text in the reason, or of this class of error"),
]
OlderThan = Annotated[
    Any,
    typer.Option(
        "--older-than", help="only those that failed before: 90s, 15m, 2h, 3d", parser=seconds_of, metavar="AGE"
    ),
]
NewerThan = Annotated[
    Any,
    typer.Option(
        "--newer-than", help="only those that failed since: 90s, 15m, 2h, 3d", parser=seconds_of, metavar="AGE"
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="ids of jobs", show_default=False, autocompletion=failed_jobs),
]
DEFAULT_RATE = 20.0
"""Replays per second: each is a few requests to the API, which may be what had failed."""


@app.command("list")
def list_(
    gateway: Gateway = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """List failed jobs, the one that failed last at the end. Exit status: 0, or 2 when it could not be looked up."""
    from dataclasses import asdict

    jobs = _open(redis_url).all(_selection(gateway, reason, older_than, newer_than))
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in jobs]))
        return
    now = time.time()
    heads = ("ID", "GATEWAY", "FAILED", "TRIES", "WHAT", "REASON")
    rows = [
        (job.id, job.gateway, f"{ago(now - job.failed_at)} ago", job.attempts, job.description, gist(job.reason))
        for job in jobs
    ]
    if rows:
        table(heads, rows)
    else:
        typer.echo(
            "no failed jobs" if _all_selected(gateway, reason, older_than, newer_than) else "no such failed jobs"
        )


@app.command("show")
def show(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", autocompletion=failed_jobs)],
    traceback: Annotated[bool, typer.Option("--traceback", help="and where in the program it came up")] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of failed jobs. Exit status: 0, 1 when one is not failed, 2 when it could not be read."""
    from dataclasses import asdict

    from shared.failed import NoFailedJobError

    failed = _open(redis_url)
    shown: dict[str, Any] = {}
    missing = False
    for job_id in job_ids:
        try:
            job = failed.of(job_id)
        except NoFailedJobError as error:
            typer.echo(plain(error), err=True)
            missing = True
            continue
        shown[job_id] = {**asdict(job), "explanation": failed.explanation(job_id)}
        if not as_json:
            # An error that nobody foresaw says little without.
            with_traceback = traceback or job.reason.startswith("unexpected ")
            _describe(job, shown[job_id]["explanation"] if with_traceback else "")
    if as_json:
        typer.echo(json.dumps(shown))
    raise typer.Exit(1 if missing else 0)


@app.command("replay")
def replay(
    job_ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="all that the filters select")] = False,
    gateway: Gateway = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="at most so many per second")] = DEFAULT_RATE,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Queue failed jobs again, which is safe at any time: each decides anew from what is true then.

    Exit status: 0 when all were queued, 1 when one was not (and why is told), 2 when nothing could be done.
    """
    selection = _meant(job_ids, everything, gateway, reason, older_than, newer_than)
    failed = _open(redis_url)
    ids = job_ids or [job.id for job in failed.all(selection)]
    who = operator()
    _do("replayed", ids, lambda job_id: failed.replay(job_id, who), as_json, rate)


@app.command("drop")
def drop(
    job_ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="all that the filters select")] = False,
    gateway: Gateway = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Forget failed jobs for good: nobody tries them again. What is known of them stays in `eip-reclaimer trace`.

    Exit status: 0 when all were dropped, 1 when one was not or you said no, 2 when nothing could be done.
    """
    selection = _meant(job_ids, everything, gateway, reason, older_than, newer_than)
    failed = _open(redis_url)
    jobs = [] if job_ids else failed.all(selection)
    if jobs and not yes:
        _confirm(jobs)
    who = operator()
    _do("dropped", job_ids or [job.id for job in jobs], lambda job_id: failed.drop(job_id, who), as_json)


def _open(redis_url: str | None) -> FailedJobs:
    from shared.failed import FailedJobs

    return FailedJobs(open_queue(settings_of(redis_url=redis_url)))


def _selection(gateway: str | None, reason: str | None, older: float | None, newer: float | None) -> Selection:
    from shared.failed import Selection

    return Selection(gateway=gateway, reason=reason, older_than=older, newer_than=newer)


def _all_selected(*filters: object) -> bool:
    return all(each is None for each in filters)


def _meant(
    job_ids: list[str] | None,
    everything: bool,
    gateway: str | None,
    reason: str | None,
    older: float | None,
    newer: float | None,
) -> Selection:
    """The selection, once it is clear which jobs are meant.

    Raises:
        typer.BadParameter: it is not.
    """
    filtered = not _all_selected(gateway, reason, older, newer)
    if job_ids and (everything or filtered):
        raise typer.BadParameter("name jobs by their ids, or select them with --all and filters, not both")
    if not job_ids and not everything:
        raise typer.BadParameter("add --all to do it to all that are selected" if filtered else "name jobs, or --all")
    return _selection(gateway, reason, older, newer)


def _confirm(jobs: list[FailedJob]) -> None:
    """Let a person say yes.

    Raises:
        typer.BadParameter: there is nobody to ask.
    """
    from shared.failed import grouped

    if not sys.stdin.isatty():
        raise typer.BadParameter(f"this would drop {len(jobs)} jobs, and there is no terminal to ask at: add --yes")
    for group in grouped(jobs):
        typer.echo(plain(f"{group.count} jobs: {group.reason}"), err=True)
    typer.confirm(
        f"Nobody will try these {len(jobs)} jobs again; what they were to take away may stay. Drop them?",
        abort=True,
        err=True,
    )


def _do(what: str, ids: list[str], act: Callable[[str], None], as_json: bool, rate: float | None = None) -> None:
    """Do it to each, at most so many per second, and tell of each that it could not be done to, and why."""
    from redis.exceptions import ResponseError

    from shared.errors import ReclaimerError

    ids = list(dict.fromkeys(ids))
    done: list[str] = []
    refused: dict[str, str] = {}
    began = time.monotonic()
    try:
        with follow(what, len(ids), quiet=as_json) as progress:
            for number, job_id in enumerate(ids):
                if rate is not None:
                    time.sleep(max(0.0, began + number / rate - time.monotonic()))
                try:
                    act(job_id)
                except (ReclaimerError, ResponseError) as error:
                    refused[job_id] = str(error)
                    progress(plain(f"not {what}: {error}"), wrong=True)
                else:
                    done.append(job_id)
                    progress(plain(f"{what} {job_id}"), wrong=False)
    finally:
        # Also when it was interrupted: how far it came is what one has to know then.
        if as_json:
            typer.echo(json.dumps({what: done, f"not_{what}": refused}))
        else:
            typer.echo(f"{what} {len(done)} of {len(ids)}")
    raise typer.Exit(1 if refused else 0)


def _describe(job: FailedJob, explanation: str) -> None:
    typer.secho(plain(f"{job.id}  {job.description}"), bold=True)
    tries = f", {job.attempts} tries" if job.attempts is not None else ""
    typer.echo(f"  failed   {clock(job.failed_at)} ({ago(time.time() - job.failed_at)} ago{tries})")
    typer.echo(plain(f"  where    gateway {job.gateway or 'unknown'}, queue {job.queue}"))
    typer.echo(plain(f"  reason   {job.reason}"))
    if job.cause:
        typer.echo(plain(f"  error    {job.cause}"))
    for line in explanation.splitlines()[1:]:
        if line.strip():
            typer.echo(plain(f"           {line}"))
    if job.readable:
        typer.echo(plain(f"  again    eip-reclaimer failed replay {job.id}"))
    typer.echo(plain(f"  drop     eip-reclaimer failed drop {job.id}"))
    typer.echo(plain(f"  life     eip-reclaimer trace {job.id}"))
