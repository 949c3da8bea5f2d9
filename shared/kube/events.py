"""Kubernetes Events: what became of a release, told where operators look first (`kubectl describe`, `kubectl events`).

They are a courtesy, so they never hold up or fail the work: it leaves them in a short queue, and a thread sends them.
What is too much is not sent, and what cannot be sent is logged once and counted. The same thing told again within a
while raises the count of the Event that is there, as the API's own recorder does.

Gateways, EIPs and Namespaces are cluster-scoped; the API takes Events about such objects in namespace `default` only.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from shared.errors import ApiUnavailableError, TransientError
from shared.kube.api import EIPS, GATEWAYS, KUBE_OVN
from shared.log import get_logger
from shared.metrics import KUBERNETES_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.kube.api import KubeApi, Object
    from shared.models import Work

log = get_logger(__name__)

EVENTS = "/api/v1/namespaces/default/events"
BURST = 25
REFILL_SECONDS = 10.0
"""So many requests at once, then one more each so many seconds; an Event is one request, or two about a new object."""
SAME_SECONDS = 600.0
"""What is told again within that time is the same Event."""
REMEMBERED = 500
"""Events and UIDs kept for that."""
MOST_WAITING = 200
LONGEST_MESSAGE = 1000
"""The API takes 1024 bytes."""
FLUSH_SECONDS = 2.0
IDLE_SECONDS = 5.0
"""How long the thread that sends waits for the next before it ends."""

Reason = Literal["Reclaimed", "ReclaimFailed", "Restored", "LeakFound", "BrakeEngaged", "BrakeReleased"]


@dataclass(frozen=True, slots=True)
class Regarded:
    """The object an Event is about."""

    kind: str
    name: str
    uid: str | None
    api_version: str = KUBE_OVN.removeprefix("/apis/")
    path: str | None = None
    """Where its UID can be asked for, when that is not known."""


def gateway_object(name: str) -> Regarded:
    """A `VpcNatGateway`."""
    return Regarded("VpcNatGateway", name, None, path=f"{GATEWAYS}/{name}")


def eip_object(name: str, uid: str) -> Regarded:
    """An `IptablesEIP`, which may be gone."""
    return Regarded("IptablesEIP", name, uid, path=f"{EIPS}/{name}")


def cluster_object(uid: str) -> Regarded:
    """The namespace that stands for the whole cluster."""
    return Regarded("Namespace", "kube-system", uid, api_version="v1")


@dataclass(frozen=True, slots=True)
class _Told:
    reason: Reason
    message: str
    regarded: Regarded
    warning: bool
    at: float


@dataclass(slots=True)
class _Sent:
    """An Event that the API has."""

    name: str
    count: int
    at: float
    """When it was told last, seconds since the epoch."""


class TokenBucket:
    """Lets a burst through, then a trickle."""

    def __init__(self, burst: int, refill_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._refill_seconds)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EventRecorder:
    """Sends the Events of one process."""

    def __init__(self, api: KubeApi, component: str, instance: str, *, enabled: bool = True) -> None:
        """`component` and `instance` say who tells, as `reportingComponent` and `reportingInstance`."""
        self._api = api
        self._component = component
        self._instance = instance[:128]
        self._enabled = enabled
        self._waiting: Queue[_Told] = Queue(MOST_WAITING)
        self._bucket = TokenBucket(BURST, REFILL_SECONDS)
        self._sent: OrderedDict[tuple[str, ...], _Sent] = OrderedDict()
        self._uids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._complained: set[int] = set()
        self._sending = False
        self._starting = threading.Lock()

    def tell(self, reason: Reason, message: str, regarded: Regarded, *, warning: bool) -> None:
        """Let an Event be sent; comes back at once, whatever becomes of it."""
        if not self._enabled:
            return
        with self._starting:
            try:
                self._waiting.put_nowait(_Told(reason, message, regarded, warning, time.time()))
            except Full:
                KUBERNETES_EVENTS.labels("dropped").inc()
                return
            if not self._sending:
                threading.Thread(target=self._send_all, name="kubernetes-events", daemon=True).start()
                self._sending = True

    def tell_of(self, work: Work, reason: Reason, message: str, *, warning: bool) -> None:
        """Tell it of a piece of work: of its gateway, and of its EIP where it had one."""
        self.tell(reason, message, gateway_object(work.gateway), warning=warning)
        if work.eip is not None and work.uid is not None:
            self.tell(reason, message, eip_object(work.eip, work.uid), warning=warning)

    def flush(self) -> None:
        """Let what waits be sent, as far as that takes no more than a moment; for a process that ends."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _send_all(self) -> None:
        while True:
            try:
                told = self._waiting.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._starting:
                    if self._waiting.empty():
                        self._sending = False
                        return
                continue
            try:
                KUBERNETES_EVENTS.labels(self._send(told)).inc()
            except Exception as error:
                KUBERNETES_EVENTS.labels("failed").inc()
                self._complain(error)
            finally:
                self._waiting.task_done()

    def _send(self, told: _Told) -> str:
        """Send one; what became of it."""
        key = (told.reason, told.regarded.kind, told.regarded.name, told.regarded.uid or "")
        sent = self._sent.get(key)
        if sent is not None and told.at - sent.at < SAME_SECONDS:
            # Counted in any case: the next update that passes tells of all.
            sent.count += 1
            sent.at = told.at
            if not self._bucket.take():
                return "throttled"
            if self._update(told, sent):
                self._complained.clear()
                return "updated"
        elif not self._bucket.take():
            return "throttled"
        regarded = replace(told.regarded, uid=told.regarded.uid or self._uid_of(told.regarded))
        name = self._create(replace(told, regarded=regarded))
        self._keep(self._sent, key, _Sent(name, 1, told.at))
        self._complained.clear()
        return "created"

    def _update(self, told: _Told, sent: _Sent) -> bool:
        """Raise the count of the Event that is there; False when it is there no longer."""
        change = {"count": sent.count, "lastTimestamp": _timestamp(told.at), "message": _shortened(told.message)}
        try:
            self._api.patch(f"{EVENTS}/{sent.name}", change)
        except ApiUnavailableError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _create(self, told: _Told) -> str:
        """Make a new Event; its name."""
        # No other process makes the same name, nor this one again after a restart.
        name = f"{told.regarded.name[:200].rstrip('.-')}.{uuid4().hex}"
        self._api.create(EVENTS, self._body(told, name))
        return name

    def _body(self, told: _Told, name: str) -> Object:
        regarded: dict[str, Any] = {
            "apiVersion": told.regarded.api_version,
            "kind": told.regarded.kind,
            "name": told.regarded.name,
        }
        if told.regarded.uid:
            regarded["uid"] = told.regarded.uid
        at = _timestamp(told.at)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": regarded,
            "type": "Warning" if told.warning else "Normal",
            "reason": told.reason,
            "message": _shortened(told.message),
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }

    def _uid_of(self, regarded: Regarded) -> str | None:
        """The object's UID, by which `kubectl describe` finds its Events; None for one that is gone."""
        key = (regarded.kind, regarded.name)
        if key not in self._uids and regarded.path is not None:
            found = self._api.get(regarded.path)
            if found is not None:
                self._keep(self._uids, key, str(found["metadata"]["uid"]))
        return self._uids.get(key)

    @staticmethod
    def _keep(kept: OrderedDict[Any, Any], key: object, value: object) -> None:
        kept[key] = value
        kept.move_to_end(key)
        while len(kept) > REMEMBERED:
            kept.popitem(last=False)

    def _complain(self, error: Exception) -> None:
        """Log it, once until something could be sent again."""
        status = error.status if isinstance(error, ApiUnavailableError) else -1
        if status in self._complained:
            return
        self._complained.add(status)
        then = "set EIP_RECLAIMER_EVENTS=false where nobody wants them"
        if status == 403:
            then = f"grant create and patch of events in the namespace default, or {then}"
        log.warning(
            "kubernetes events cannot be sent, the work goes on",
            reason=str(error),
            then=then,
            exc_info=not isinstance(error, TransientError),
        )


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= LONGEST_MESSAGE:
        return message
    return encoded[:LONGEST_MESSAGE].decode(errors="ignore") + "…"
