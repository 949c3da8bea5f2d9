"""Letting gateways be audited: all of them after a gap of events, and as often as an operator wants.

What came and went while nobody saw events is in no list, and an address that no object ever named is in no event: only
looking at the gateways finds them. After a gap what is found is released, as its events would have had it; by
default the periodic audits only report. Several producers may want the same; the transaction lets one of them.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import WatchError

from shared.errors import MalformedObjectError
from shared.kube.api import GATEWAYS
from shared.kube.objects import read_gateway
from shared.log import get_logger, named
from shared.models import Audit
from shared.queue import count_published, describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis
    from redis.client import Pipeline

    from shared.inventory import Inventory
    from shared.kube.api import KubeApi

log = get_logger(__name__)


class Audits:
    """Publishes them when they are due."""

    def __init__(self, api: KubeApi, inventory: Inventory, interval: float, *, apply: bool) -> None:
        """`interval` is in seconds, 0 for those after a gap only; `apply` says whether periodic ones release."""
        self._api = api
        self._work_queue = inventory.work_queue
        self._redis = inventory.work_queue.redis
        self._keys = inventory.work_queue.keys
        self._cluster = inventory.cluster
        self._producer = inventory.producer
        self._interval = interval
        self._apply = apply

    @property
    def due(self) -> Literal["gap", "periodic"] | None:
        """Why every gateway is to be audited now; None when that is not due."""
        return self._due(self._redis)

    def publish_if_due(self) -> list[Audit]:
        """See that every gateway is audited, if that is due; what was published.

        Raises:
            ApiUnavailableError: the gateways cannot be listed; the audits stay due.
        """
        if self.due is None:
            return []
        items, _ = self._api.list_objects(GATEWAYS)
        gateways = []
        for item in items:
            try:
                gateways.append(read_gateway(item).name)
            except MalformedObjectError as error:
                log.error("gateway cannot be read, not audited", reason=str(error))
        audits = self.publish(gateways)
        if audits:
            log.info("auditing gateways", gateways=len(audits), why=audits[0].reason)
        return audits

    def publish(self, gateways: Iterable[str]) -> list[Audit]:
        """Publish an audit of each of these, unless another producer was quicker; what was published."""
        now = time.time()
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._keys.gap, self._keys.audited)  # type: ignore[no-untyped-call]
            reason = self._due(pipe)
            if reason is None:
                return []
            audits = [
                Audit(
                    id=f"audit-{reason}-{int(now)}-{sha256(gateway.encode()).hexdigest()[:12]}",
                    cluster=self._cluster,
                    gateway=gateway,
                    eip=None,
                    uid=None,
                    seen_at=now,
                    reason=reason,
                    apply=self._apply or reason == "gap",
                )
                for gateway in gateways
                # A gateway that cannot be audited for long does not need one audit after another.
                if reason == "gap" or not self._is_being_audited(pipe, gateway)
            ]
            pipe.multi()
            pipe.delete(self._keys.gap)
            if self._interval:
                pipe.set(self._keys.audited, repr(now), px=int(self._interval * 1000))
            for audit in audits:
                self._work_queue.publish(pipe, audit, "published", producer=self._producer)
            try:
                pipe.execute()
            except WatchError:
                return []
        count_published(audits)
        for audit in audits:
            log.info("published", what=describe(audit), **named(audit))
        return audits

    def _due(self, redis: Redis | Pipeline) -> Literal["gap", "periodic"] | None:
        if redis.exists(self._keys.gap):
            return "gap"
        return "periodic" if self._interval and not redis.exists(self._keys.audited) else None

    def _is_being_audited(self, redis: Pipeline, gateway: str) -> bool:
        pending: Any = redis.hkeys(self._keys.pending(gateway))
        return any(work_id.startswith((b"audit-gap-", b"audit-periodic-")) for work_id in pending)
