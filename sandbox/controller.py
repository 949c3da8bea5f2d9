"""Kube-OVN's controller, as far as EIPs go: the same steps in the same order, each of its leaks on or off.

Creation: an address from IPAM (or the one asked for) → `eip-add` in every active pod → only then the updates of the
object → the finalizer, last. Additions wait for each other. Deletion: `eip-del` → the finalizer goes, and the object
with it → only then the address returns to IPAM.

It runs beside the sandbox's API in one event loop, or alone against any API server:

    python -m sandbox.controller --kubeconfig FILE --leak wrong-argument --hidden-moment 3
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import aiohttp

from sandbox import leaks, objects
from sandbox.allocation import Allocation
from sandbox.eip_writer import EipGoneError, EipWriter, has_finalizer, is_complete, is_terminating
from sandbox.ipam import AddressUnavailableError, Reuse
from sandbox.kubernetes_api import ApiError, Event, KubernetesApi
from sandbox.objects import EIPS, GATEWAYS, IPS, PODS, Object
from sandbox.placement import (
    ApiExecutor,
    Executor,
    GatewayScript,
    Placement,
    RetryLaterError,
    wanted_addresses,
)
from sandbox.record import Records
from sandbox.work_queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

Key = tuple[Literal["eip", "pod", "orphan"], str]
"""What waits in a queue: an EIP by name, a pod that needs its EIPs as `<namespace>/<name>`, an address by EIP UID."""

_PASSING = (
    *(RetryLaterError, AddressUnavailableError, ApiError, aiohttp.ClientError, OSError),
    # What an object raises that lacks what every EIP has, or names an address that is none.
    *(KeyError, TypeError, ValueError, AttributeError),
)


class Controller:
    """One controller. `switches` and `records` belong to whoever looks on, and may be used at any time.

    What it knows it has in memory: `start` after `stop` or `kill` is a restart, with IPAM read from the objects.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        switches: leaks.Switches | None = None,
        run: Executor | None = None,
        reuse: Reuse = "lowest",
        records: Records | None = None,
    ) -> None:
        self.api = api
        self.switches = switches or leaks.Switches()
        self.records = records if records is not None else Records()
        self.died = asyncio.Event()
        self._allocation = Allocation(api, reuse, self.records)
        self._script = GatewayScript(api, run or ApiExecutor(api), self.switches, self.records)
        self._writer = EipWriter(api, self.switches, self.records)
        self._tasks: list[asyncio.Task[None]] = []
        self._forget()

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return bool(self._tasks)

    async def start(self) -> None:
        """Read what is there, then watch and work."""
        if self.running:
            return
        self._forget()
        self.died.clear()
        await self._allocation.read()
        self.records.add("started")
        work: list[Coroutine[None, None, None]] = [
            self._watch(EIPS, self._eip_event),
            self._watch(IPS, self._allocation.ip_event),
            self._watch(PODS, self._pod_event, labels=f"{objects.GATEWAY_POD_LABEL}=true"),
            self._work(self._additions),
            self._work(self._deletions),
        ]
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    async def stop(self, patience: float = 10) -> None:
        """Finish what is in hand, within `patience` seconds, and end."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), patience)
        await self._end("stopped")

    async def kill(self) -> None:
        """Die here and now. A command it started in a pod runs on there."""
        await self._end("killed")
        self.died.set()

    async def _end(self, step: str) -> None:
        if not self.running:
            return
        tasks, self._tasks = self._tasks, []
        self.records.add(step)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for queue in (self._additions, self._deletions):
            queue.close()

    def _forget(self) -> None:
        self._additions: WorkQueue[Key] = WorkQueue()
        self._deletions: WorkQueue[Key] = WorkQueue()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._in_hand: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._gone: dict[str, str] = {}
        self._ignored: set[str] = set()
        self._complete: set[str] = set()
        self._incomplete: dict[str, Placement] = {}
        self._stopping = False

    # What it sees.

    async def _watch(self, resource: objects.Resource, act: Callable[[Event], None], *, labels: str = "") -> None:
        async for event in self.api.follow(resource, labels=labels or None):
            act(event)

    def _eip_event(self, event: Event) -> None:
        eip = event.object
        name, uid = eip["metadata"]["name"], eip["metadata"]["uid"]
        if event.type == "DELETED":
            self._eip_gone(eip)
        elif is_terminating(eip):
            if event.initial and self.switches.leaks.down:
                self._ignored.add(uid)
                self.records.add("ignored_terminating", eip=name, uid=uid)
            elif uid not in self._ignored and has_finalizer(eip):
                self._deletions.add(("eip", name))
        elif is_complete(eip) or uid in self._in_hand | self._complete:
            pass
        elif self._additions.add(("eip", name)):
            self.records.add("queued", eip=name, uid=uid)

    def _eip_gone(self, eip: Object) -> None:
        name, uid = eip["metadata"]["name"], eip["metadata"]["uid"]
        if uid in self._ignored:
            addresses = tuple(str(ip) for ip in wanted_addresses(eip))
            self.records.add("address_left", eip=name, uid=uid, addresses=addresses, detail="deleted while down")
        if uid in self._in_hand:
            self._gone[uid] = name
            # As the original: what is being created loses its address in IPAM at once, with `eip-add` under way.
            if self.switches.leaks.deletion_before_ready == "v1.12" and uid in self._incomplete:
                self._allocation.release(uid, eip=name)
        else:
            self._settle(name, uid)

    def _settle(self, name: str, uid: str) -> None:
        """Nothing is under way for an EIP that is gone: see to what it leaves behind."""
        self._ignored.discard(uid)
        self._complete.discard(uid)
        placement = self._incomplete.get(uid)
        if placement is None:
            self._allocation.release(uid, eip=name)
        elif self.switches.leaks.fails(name) or self.switches.leaks.deletion_before_ready:
            self._leave(placement, "deleted before it was ready")
        else:
            self._deletions.add(("orphan", uid))

    def _pod_event(self, event: Event) -> None:
        pod = event.object
        initialised = (pod["metadata"].get("annotations") or {}).get(objects.INITIALISED_ANNOTATION) == "true"
        if event.type != "DELETED" and objects.is_active(pod) and not initialised:
            self._additions.add(("pod", f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"))

    # What it does.

    async def _work(self, queue: WorkQueue[Key]) -> None:
        work: dict[str, Callable[[str], Awaitable[None]]] = {
            "eip": self._create if queue is self._additions else self._delete,
            "pod": self._initialise,
            "orphan": self._clean,
        }
        while True:
            key = await queue.take()
            if self._stopping:
                return
            kind, name = key
            try:
                await work[kind](name)
            except _PASSING as error:
                self.records.add("failed", eip=name if kind == "eip" else "", detail=f"{kind} {name}: {error}")
                queue.add_later(key, self.switches.delays.retry)

    async def _create(self, name: str) -> None:
        async with self._locks[name]:
            eip = await self.api.get(EIPS, name)
            if eip is None or is_terminating(eip) or is_complete(eip):
                return
            with self._holding(eip["metadata"]["uid"]):
                placement = await self._place(eip)
                try:
                    await self._put_on(placement)
                    await asyncio.sleep(self.switches.delays.hidden_moment)
                    await self._writer.write(eip, placement)
                    self._incomplete.pop(placement.uid, None)
                    self._complete.add(placement.uid)
                except EipGoneError:
                    await self._undo(placement)

    async def _put_on(self, placement: Placement) -> None:
        await asyncio.sleep(self.switches.delays.before_eip_add)
        await self._script.eip_add(placement, await self._script.active_pods(placement))
        if self.switches.leaks.death_mid_creation:
            self.switches.leaks.death_mid_creation = False
            self._dying = asyncio.create_task(self.kill())
            await asyncio.Event().wait()

    async def _undo(self, placement: Placement) -> None:
        """The object went while its address was put on."""
        self.records.add("found_gone", **placement.about)
        leak = self.switches.leaks.deletion_before_ready
        if leak == "v1.16":
            uid = await self._writer.create_anew(placement)
            if uid is not None:
                self._allocation.hand_over(placement, uid)
                self._incomplete.pop(placement.uid, None)
                return
        if leak is not None:
            self._leave(placement, "deleted while its creation ran")
            return
        try:
            await self._take_off(placement)
        except RetryLaterError:
            self._deletions.add(("orphan", placement.uid))
        else:
            self._incomplete.pop(placement.uid, None)
            self._allocation.release(placement.uid, eip=placement.eip)

    async def _clean(self, uid: str) -> None:
        """Take off what was put on for an EIP that is gone."""
        if placement := self._incomplete.get(uid):
            await self._take_off(placement)
            self._incomplete.pop(uid, None)
            self._allocation.release(uid, eip=placement.eip)

    async def _delete(self, name: str) -> None:
        async with self._locks[name]:
            eip = await self.api.get(EIPS, name)
            if eip is None or not is_terminating(eip) or not has_finalizer(eip):
                return
            uid = eip["metadata"]["uid"]
            with self._holding(uid):
                self.records.add("deletion_seen", eip=name, uid=uid)
                placement = await self._place(eip)
                await asyncio.sleep(self.switches.delays.before_eip_del)
                await self._take_off(placement)
                if self.switches.leaks.wrong_argument:
                    self.records.add("address_left", detail="wrong argument", **placement.about)
                await asyncio.sleep(self.switches.delays.before_finalizer_removal)
                await self._writer.remove_finalizer(eip)
                await asyncio.sleep(self.switches.delays.before_release)
                self._incomplete.pop(uid, None)
                self._allocation.release(uid, eip=name)

    async def _take_off(self, placement: Placement) -> None:
        """Run `eip-del` in the gateway's pods; without a gateway there is nothing to take off."""
        if await self.api.get(GATEWAYS, placement.gateway) is not None:
            await self._script.eip_del(placement, await self._script.active_pods(placement))

    async def _initialise(self, name: str) -> None:
        """Put the live EIPs of a gateway on a pod that has none yet."""
        namespace, _, pod_name = name.partition("/")
        pod = await self.api.get(PODS, pod_name, namespace=namespace)
        if pod is None or not objects.is_active(pod):
            return
        gateway = pod["metadata"]["labels"]["app"].removeprefix("vpc-nat-gw-")
        eips, _ = await self.api.list(EIPS, labels=f"ovn.kubernetes.io/vpc-nat-gw-name={gateway}")
        for each in eips:
            async with self._locks[each["metadata"]["name"]]:
                eip = await self.api.get(EIPS, each["metadata"]["name"])
                if eip is not None and wanted_addresses(eip) and not is_terminating(eip):
                    await self._script.eip_add(await self._place(eip), [pod])
        body = {"metadata": {"annotations": {objects.INITIALISED_ANNOTATION: "true"}}}
        await self.api.patch(PODS, pod_name, body, namespace=namespace)
        self.records.add("pod_initialised", gateway=gateway, pod=pod_name, pod_uid=pod["metadata"]["uid"])

    # What it remembers.

    async def _place(self, eip: Object) -> Placement:
        """The EIP's place; it is the same each time while the EIP is not complete."""
        uid = eip["metadata"]["uid"]
        if uid in self._incomplete:
            return self._incomplete[uid]
        placement = await self._allocation.place(eip)
        if not is_complete(eip):
            self._incomplete[uid] = placement
        return placement

    def _leave(self, placement: Placement, why: str) -> None:
        """Leave an address on its gateway, and let IPAM hand it out again."""
        self.records.add("address_left", detail=why, **placement.about)
        self._incomplete.pop(placement.uid, None)
        self._allocation.release(placement.uid, eip=placement.eip)

    @contextlib.contextmanager
    def _holding(self, uid: str) -> Iterator[None]:
        """Keep an EIP in hand: that its object goes meanwhile is dealt with here, or else right after."""
        self._in_hand.add(uid)
        self._idle.clear()
        try:
            yield
        finally:
            self._in_hand.discard(uid)
            if name := self._gone.pop(uid, None):
                self._settle(name, uid)
            if not self._in_hand:
                self._idle.set()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.records.add("failed", detail=f"the controller itself: {error!r}")
            asyncio.get_running_loop().call_exception_handler({"message": "controller failed", "exception": error})


if __name__ == "__main__":
    from sandbox.controller_command import main

    sys.exit(main())
