"""A cluster with some history and some trouble, as Redis would know of it: for pages to show."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from rq.job import JobStatus

from shared.brake import Brake
from shared.models import EIP, Audit, Outcome, Release, Work
from shared.queue import WorkQueue
from shared.reports import Carried, Finding, GatewayReport, Kind
from shared.settings import Settings
from shared.tally import HOUR

CLUSTER = "5b1c7d0e-7f0a-4d7e-9a60-2f1d7a3c0b11"
GATEWAYS = ("v-gw-383c4e1251c1194e", "v-gw-5d0f6a7be2c94410", "v-gw-9a1171c0f3e24b6d", "v-gw-c20be7d5a6f14c09")
SUBNET = "ovn-vpc-external-network"
CAUSES = (
    (
        "gateway {gateway} exists, but no pod of it runs in kube-system (label app=vpc-nat-gw-{gateway}). See why its pod "
        "does not start. Then requeue this job if it has failed."
    ),
    (
        "the API at https://10.96.0.1:443 answered 403 to exec in vpc-nat-gw-{gateway}-0: the ServiceAccount may not create "
        "pods/exec. Give it that right, then requeue this job."
    ),
    (
        "{address} is still on {gateway} after its deletion. Something puts it back: look at Kube-OVN's log, then requeue "
        "this job."
    ),
)


def release(number: int, gateway: str = GATEWAYS[0], **fields: Any) -> Release:
    address = ip_address(f"10.1.{69 + number // 250}.{number % 250 + 1}")
    named: dict[str, Any] = {
        "id": f"release-{number:08x}-6cd2-4f6e-8e0c-91f1c1b5c0aa",
        "eip": f"eip-{number:03}",
        "uid": f"{number:08x}-6cd2-4f6e-8e0c-91f1c1b5c0aa",
        "addresses": (address,),
    }
    around: dict[str, Any] = {
        "cluster": CLUSTER,
        "gateway": gateway,
        "namespace": None,
        "seen_at": time.time(),
        "subnet": None,
        "reason": "deleted",
        "was_ready": True,
    }
    return Release(**{**around, **named, **fields})


def fail(work_queue: WorkQueue, work: Work, reason: str) -> None:
    """As a worker does after the last try."""
    job = work_queue.job(work)
    with work_queue.redis.pipeline() as pipe:
        work_queue.records.open(pipe, work, "published", gateway=work.gateway, producer="producer-7f9c")
        for attempt, pause in ((1, 1.7), (2, 3.1)):
            work_queue.records.trace(pipe, work.id, "failed, retried", reason=reason, attempt=attempt, pause=pause)
        work_queue.records.trace(pipe, work.id, "failed", reason=reason, attempts=3)
        job.started_at = job.ended_at = datetime.now(UTC)
        job.meta = {"last_error": reason, "attempts_made": 3}
        job.save(pipeline=pipe)
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        job._handle_failure(f"{reason}\n\n", pipe)
        pipe.execute()


def finish(work_queue: WorkQueue, work: Work, outcome: Outcome, **details: Any) -> None:
    with work_queue.redis.pipeline() as pipe:
        work_queue.records.open(pipe, work, "published", gateway=work.gateway, producer="producer-7f9c")
        work_queue.records.trace(pipe, work.id, "taken", worker="worker-5c4d-0")
        work_queue.records.close(pipe, work, outcome, worker="worker-5c4d-0", **details)
        pipe.execute()


def eip(number: int, gateway: str, address: str) -> EIP:
    return EIP(
        uid=f"{number:08x}-0b7a-4a31-b0f5-d1e0a7c4be22",
        name=f"eip-{number:03}",
        gateway=gateway,
        addresses=(address,),
        subnet=SUBNET,
        namespace="",
        ready=True,
        placed=True,
        terminating_since=None,
        resource_version=number,
        created=time.time() - 86400,
    )


def remember(work_queue: WorkQueue, *eips: EIP) -> None:
    """Put EIPs into the inventory."""
    mapping: dict[Any, Any] = {each.uid: each.to_json() for each in eips}
    work_queue.redis.hset(work_queue.keys.inventory, mapping=mapping)
    work_queue.redis.set(work_queue.keys.cluster, CLUSTER)


def report(gateway: str, *findings: Finding, carried: tuple[Carried, ...] = (), **fields: Any) -> GatewayReport:
    around: dict[str, Any] = {"at": time.time() - 140, "by": "audit-periodic", "pods": (f"vpc-nat-gw-{gateway}-0",)}
    return GatewayReport(**{**around, "gateway": gateway, "findings": findings, "carried": carried, **fields})


def finding(kind: Kind, gateway: str, address: str | None, why: str, **fields: Any) -> Finding:
    around: dict[str, Any] = {"eip": None, "since": time.time() - 600, "subnet": SUBNET}
    return Finding(**{**around, "kind": kind, "gateway": gateway, "address": address, "why": why, **fields})


def carried(gateway: str, ip: str, owner: str | None) -> Carried:
    return Carried(ip, 24, "net1", (f"vpc-nat-gw-{gateway}-0",), owner, SUBNET)


def fill(work_queue: WorkQueue, settings: Settings, failed: int = 50) -> None:
    """Everything there is to show."""
    chance = random.Random(4718)
    _outcomes(work_queue, chance)
    for number in range(failed):
        gateway = GATEWAYS[number % len(GATEWAYS)]
        work = release(300 + number, gateway)
        reason = CAUSES[number % len(CAUSES)].format(gateway=gateway, address=work.addresses[0])
        fail(work_queue, work, reason)
    first, second, third, fourth = GATEWAYS
    eips = [eip(number, GATEWAYS[number % 4], f"10.1.69.{number}") for number in range(2, 60)]
    remember(work_queue, *eips)
    addresses = {
        name: tuple(carried(name, each.addresses[0], each.name) for each in eips if each.gateway == name)
        for name in GATEWAYS
    }
    leaked = "Kube-OVN's deletion did not take it off. Mend releases it."
    work_queue.reports.keep(
        [
            report(
                first,
                finding(Kind.LEAKED, first, "10.1.69.205", leaked, mendable=True),
                finding(Kind.LEAKED, first, "10.1.69.211", leaked, mendable=True),
                finding(Kind.PROTECTED, first, "10.1.69.254", "it is the gateway of subnet ovn-vpc-external-network"),
                carried=(*addresses[first], *(carried(first, f"10.1.69.{last}", None) for last in (205, 211, 254))),
            ),
            report(
                second,
                finding(
                    *(Kind.DOUBLED, second, "10.1.69.7"),
                    f"EIP eip-007 of {fourth} owns it, and this gateway answers for it too. Mend releases it here.",
                    eip="eip-007",
                    mendable=True,
                ),
                finding(
                    *(Kind.STUCK, second, None),
                    "it has been terminating for 2 hours: its finalizer is Kube-OVN's, look at the controller's log",
                    eip="eip-041",
                    since=time.time() - 7200,
                ),
                carried=(*addresses[second], carried(second, "10.1.69.7", None)),
            ),
            report(third, carried=addresses[third]),
        ]
    )
    running = Audit(
        id="audit-requested-1", cluster=CLUSTER, gateway=third, eip=None, uid=None, seen_at=1.0, reason="requested"
    )
    work_queue.publish_now([running], "published", why="requested in the dashboard")
    work_queue.redis.set(work_queue.keys.lock(third), "worker-5c4d-0/0123abcd", ex=3600)
    lived = release(205, eip="web-frontend", addresses=(ip_address("10.1.69.205"),))
    finish(work_queue, lived, Outcome.RECLAIMED, why="seen gone")
    Brake(work_queue, settings).engage(
        "one list lacks 13 of 58 EIPs, more than the 11 that one list may release",
        [each.uid for each in eips[:13]],
        len(eips),
    )


def _outcomes(work_queue: WorkQueue, chance: random.Random) -> None:
    weights = {Outcome.RECLAIMED: 6, Outcome.ALREADY_ABSENT: 24, Outcome.REASSIGNED: 3, Outcome.AUDITED: 4}
    now = int(time.time() // HOUR)
    with work_queue.redis.pipeline() as pipe:
        for hour in range(now - 7 * 24, now + 1):
            busy = 0.3 + (9 <= hour % 24 <= 18)
            for outcome, weight in weights.items():
                pipe.hincrby(work_queue.keys.outcomes(hour), outcome.value, int(chance.random() * weight * busy))
        for back, outcome in ((3, Outcome.RESTORED), (5, Outcome.GATEWAY_GONE), (12, Outcome.RESTORED)):
            pipe.hincrby(work_queue.keys.outcomes(now - back), outcome.value, 4)
        pipe.execute()


def scribble(work_queue: WorkQueue, gateway: str) -> None:
    """A report that no product wrote."""
    work_queue.redis.hset(work_queue.keys.reports, gateway, json.dumps({"gateway": gateway}))
