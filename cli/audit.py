"""`eip-reclaimer audit`: what gateways carry against what the API says, and releases for what nobody owns."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, Kubeconfig, RedisUrl, open_queue, settings_of
from cli.progress import phases
from cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shared.queue import WorkQueue
    from shared.reports import GatewayReport
    from workers.audits.survey import Progress

FOUND, INCOMPLETE = 1, 3
"""Exit statuses; 2 is for what went wrong."""
WRONG = ("leaked", "doubled", "missing", "stuck", "revived")
"""What counts for the exit status."""
NOT_MENDED = (None, "failed")
"""Every outcome leaves no leak: also that of an address which has an owner by now."""
POLL_SECONDS = 0.5


def audit(
    gateway: Annotated[list[str] | None, typer.Option(help="only this gateway; may be repeated")] = None,
    subnet: Annotated[list[str] | None, typer.Option(help="only addresses of this external subnet")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="release what is leaked or doubled")] = False,
    wait: Annotated[float, typer.Option(min=0, help="with --apply: seconds to wait until workers have done it")] = 300,
    everything: Annotated[bool, typer.Option("--all", help="show protected addresses too")] = False,
    without_redis: Annotated[
        bool, typer.Option("--without-redis", help="only look: no Redis server is needed, revived EIPs are not told")
    ] = False,
    driver: Annotated[str | None, typer.Option(help="exec or netlink", show_default=False)] = None,
    redis_url: RedisUrl = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Compare what every gateway really carries with what the API says. Nothing is changed without --apply.

    Told are addresses that are leaked (on a gateway, and no EIP of it owns them, seen so twice), doubled (the same,
    and another gateway carries them too), missing, undecided (an EIP of the gateway has no address yet), protected,
    and EIPs that are stuck or revived.

    Exit status: 0 nothing is wrong, or all of it was mended; 1 something is; 2 the audit could not be made; 3 a gateway
    could not be looked at, or something on it not be decided.
    """
    from rq import SimpleWorker

    from shared.errors import InvalidPayloadError
    from shared.inventory import check_cluster
    from shared.kube.api import KubeApi
    from workers.audits.mending import expect_believable, publish_leaks
    from workers.audits.survey import Survey
    from workers.service import open_driver

    if apply and without_redis:
        raise InvalidPayloadError("--apply publishes jobs, so it needs Redis: leave --without-redis out")
    settings = settings_of(redis_url=redis_url, kubeconfig=kubeconfig, driver=driver)
    api = KubeApi(settings)
    cluster = api.cluster_uid()
    work_queue = None if without_redis else open_queue(settings)
    if work_queue is not None:
        check_cluster(work_queue.redis, work_queue, cluster)
    with phases() as progress:
        survey = Survey(api, open_driver(settings, api), settings, work_queue, progress)
        reports = survey.run(gateway or (), subnet or (), "eip-reclaimer audit")
    released: dict[str, dict[str, Any]] = {}
    if apply:
        assert work_queue is not None
        expect_believable(work_queue, settings, survey.listed)
        leaks = publish_leaks(work_queue, reports, cluster, "eip-reclaimer audit --apply")
        with phases() as progress:
            outcomes = _wait(work_queue, leaks, wait, progress)
        released = {
            work_id: {"gateway": leak.gateway, "address": leak.address, "outcome": outcomes.get(work_id)}
            for work_id, leak in leaks.items()
        }
    status = _status(reports, released)
    if as_json:
        typer.echo(json.dumps({"reports": [asdict(report) for report in reports], "released": released}))
    else:
        _tell(reports, released, everything=everything)
        if work_queue is not None and any(each["outcome"] is None for each in released.values()):
            workers = len(SimpleWorker.all_keys(work_queue.redis))
            typer.echo(f"They are done when a worker comes to them; {workers or 'no'} workers run here")
    raise typer.Exit(status)


def _wait(work_queue: WorkQueue, work_ids: Collection[str], seconds: float, progress: Progress) -> dict[str, str]:
    """What became of releases, at the latest after so long; those still under way left out."""
    from workers.audits.mending import what_became

    deadline = time.monotonic() + seconds
    while True:
        ended = what_became(work_queue, work_ids)
        progress("releasing", len(ended), len(work_ids))
        if len(ended) == len(work_ids) or time.monotonic() > deadline:
            return ended
        time.sleep(POLL_SECONDS)


def _status(reports: Sequence[GatewayReport], released: dict[str, dict[str, Any]]) -> int:
    mended = {(each["gateway"], each["address"]) for each in released.values() if each["outcome"] not in NOT_MENDED}
    wrong = [
        finding
        for report in reports
        for finding in report.findings
        if finding.kind in WRONG and not (finding.mendable and (finding.gateway, finding.address) in mended)
    ]
    if wrong:
        return FOUND
    open_ones = [finding for report in reports for finding in report.findings if finding.kind == "undecided"]
    return INCOMPLETE if open_ones or any(report.hindrance for report in reports) else 0


def _tell(reports: Sequence[GatewayReport], released: dict[str, dict[str, Any]], *, everything: bool) -> None:
    outcomes = {(each["gateway"], each["address"]): each["outcome"] or "not done yet" for each in released.values()}
    rows: list[tuple[str | None, ...]] = [
        ("not audited", report.gateway, None, None, report.hindrance) for report in reports if report.hindrance
    ]
    counts: Counter[str] = Counter()
    for report in reports:
        for each in report.findings:
            counts[each.kind.value] += 1
            if each.kind != "protected" or everything:
                outcome = outcomes.get((report.gateway, each.address)) if each.mendable else None
                why = f"{each.why} => {outcome}" if outcome else each.why
                rows.append((each.kind.value, report.gateway, each.address, each.eip, why))
    if rows:
        table(("FOUND", "GATEWAY", "ADDRESS", "EIP", "WHY"), rows)
    audited = [report for report in reports if not report.hindrance]
    addresses = sum(len(report.carried) for report in audited)
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    found = found or ("nothing found" if audited else "nothing could be looked at")
    if counts["protected"] and not everything:
        found += " (--all shows what is protected)"
    typer.echo(f"{len(audited)} of {len(reports)} gateways audited, {addresses} addresses: {found}")
    if any(each.mendable for report in reports for each in report.findings) and not released:
        typer.echo("to release what is leaked or doubled: the same command with --apply")
    unfinished = [work_id for work_id, each in released.items() if each["outcome"] in NOT_MENDED]
    if unfinished:
        typer.echo(f"{len(unfinished)} not mended yet, the first: eip-reclaimer trace {unfinished[0]}")
