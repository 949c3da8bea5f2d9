"""From what an audit found to releases: they go the way of every release, guards, lock and proof."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from ipaddress import ip_address

from rq.job import Job, JobStatus

from shared.brake import Brake
from shared.errors import DoubtfulListError, InvalidPayloadError
from shared.inventory import Inventory
from shared.models import Release, parse_work
from shared.queue import WorkQueue
from shared.reports import Finding, GatewayReport
from shared.settings import Settings


def release_of(leak: Finding, cluster: str, *, eip: str | None = None, namespace: str | None = None) -> Release:
    """The release of a leaked address.

    Args:
        leak: a finding that can be mended.
        cluster: UID of the cluster it is in.
        eip: the EIP that left it, by name, where that is known.
        namespace: where the gateway's pods live, where that is known.
    """
    assert leak.mendable
    assert leak.address is not None
    return Release(
        id=leak.release_id,
        cluster=cluster,
        gateway=leak.gateway,
        eip=eip,
        uid=None,
        namespace=namespace,
        seen_at=leak.since,
        addresses=(ip_address(leak.address),),
        subnet=leak.subnet,
        reason="leaked",
        was_ready=True,
    )


def expect_believable(work_queue: WorkQueue, settings: Settings, listed: Collection[str]) -> None:
    """See that what producers know bears out a list of EIPs, before anything that it lacks is taken for nobody's.

    Args:
        work_queue: where producers keep what they know.
        settings: for how much a list may lack.
        listed: UIDs of the EIPs in the list.

    Raises:
        DoubtfulListError: it lacks too many, or no producer has listed EIPs yet.
    """
    inventory = Inventory(work_queue, "", "audit")
    if inventory.checkpoint() is None:
        raise DoubtfulListError(
            "nothing was released: no producer has listed the EIPs yet, so nothing bears out what the API says now. "
            "Start one (eip-reclaimer producer), then ask again."
        )
    known = inventory.all()
    lacking = len(known.keys() - set(listed))
    if Brake(work_queue, settings).too_many(lacking, len(known)):
        raise DoubtfulListError(
            f"nothing was released: the API's list lacks {lacking} of {len(known)} EIPs that producers know. Look at "
            "the API server and at `eip-reclaimer brake show`, then ask again."
        )


def publish_leaks(work_queue: WorkQueue, reports: Iterable[GatewayReport], cluster: str, by: str) -> dict[str, Finding]:
    """See that every leak in these reports is being released; by the id of its release, each leak.

    A release that is pending for the address already is not doubled.
    """
    being_released: dict[str, Finding] = {}
    for report in reports:
        leaks = [finding for finding in report.findings if finding.mendable]
        pending = _pending(work_queue, report.gateway) if leaks else {}
        releases = []
        for leak in leaks:
            assert leak.address is not None
            if leak.address in pending:
                being_released[pending[leak.address]] = leak
            else:
                releases.append(release_of(leak, cluster, namespace=report.namespace))
                being_released[releases[-1].id] = leak
        publish(work_queue, releases, by)
    return being_released


def _pending(work_queue: WorkQueue, gateway: str) -> dict[str, str]:
    """By address, the release that is pending for it on a gateway."""
    stored: dict[bytes, bytes] = work_queue.redis.hgetall(work_queue.keys.pending(gateway))  # type: ignore[assignment]
    found: dict[str, str] = {}
    for payload in stored.values():
        with suppress(InvalidPayloadError):
            work = parse_work(payload)
            if work.kind == "release":
                found |= {str(address): work.id for address in work.addresses}
    return found


def publish(work_queue: WorkQueue, releases: Iterable[Release], found_by: str) -> list[Release]:
    """Publish those that were not published before; which these were."""
    new = [release for release in releases if work_queue.records.work(release.id) is None]
    work_queue.publish_now(new, "published", why=f"found by {found_by}")
    return new


def what_became(work_queue: WorkQueue, work_ids: Iterable[str]) -> dict[str, str]:
    """How releases ended, by id: their outcome, or `failed`; those still under way left out."""
    listed = list(work_ids)
    with work_queue.redis.pipeline(transaction=False) as pipe:
        for work_id in listed:
            pipe.hget(work_queue.keys.record(work_id), "outcome")
            pipe.hget(Job.key_for(work_id), "status")
        answers: list[bytes | None] = pipe.execute()
    ended = {}
    for work_id, outcome, status in zip(listed, answers[::2], answers[1::2], strict=True):
        if outcome is not None:
            ended[work_id] = outcome.decode()
        elif status is not None and status.decode() == JobStatus.FAILED:
            ended[work_id] = "failed"
    return ended
