"""One round on one gateway: look, decide, act, look again; for all work that is pending there, at once.

The order of steps is what keeps live EIPs safe, so it is spelled out here and nowhere else:

1. every active pod of the gateway is opened and read; where a driver enters pods by their UID, so that it meets no
   other, those that ran a moment ago, and in the end it is asked whether the same run now: otherwise all begins anew;
2. what is about to be taken away is recorded as an intent, in the transaction that asks for the inventory's owners;
3. strictly after that the API is asked for owners: one that both miss will find the intent (`workers.intents`); an
   inventory that may be older than it was is no word that there is none (`shared.vouching`); for a release that is
   likely to find its address, both were done a moment ahead of the look, in this order (`workers.ahead`);
4. addresses that nobody owns are deleted, right after the lock was seen to be held;
5. every pod is read again, and must show the targets gone and everything else as it was;
6. owners are looked up again, and an address that got one in between is put back at once; so is one that may be that
   of an EIP which came in between and has no address yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.client import Pipeline
from redis.exceptions import RedisError

from shared.errors import GatewayUnreachableError, ProtectedAddressError, TransientError, VerificationError
from shared.kube.objects import NatGateway, Subnet
from shared.log import get_logger
from shared.metrics import DELETED, RESTORED
from shared.models import Audit, Confirmation, IPAddress, Outcome, Release, Work
from shared.queue import WorkQueue
from shared.settings import Settings
from workers import precedence
from workers.answers import Answer, Result
from workers.audits.comparison import Expected
from workers.audits.gateway import GatewayAudits
from workers.cluster import Cluster
from workers.earlier import NOTHING, Earlier, EarlierTries
from workers.failures import ElsewhereError, NotNowError
from workers.gateways.interface import Address, Driver
from workers.gateways.plan import missing_after, plan_deletion, plan_restoration
from workers.guards import why_protected
from workers.hold import Hold
from workers.intents import Intents
from workers.looks import Looks
from workers.owners import Owners
from workers.places import Pod
from workers.precedence import among
from workers.site import Site

if TYPE_CHECKING:
    from workers.ahead import Ahead

log = get_logger(__name__)

UNVOUCHED = "no producer has caught up with the API, so an owner may be unknown"
LONGEST_UNVOUCHED_PAUSE = 30.0
"""Seconds. A producer that lives has mostly caught up within some; the longer none has, the seldomer it is asked."""
LOOK_FIRST_SECONDS = 60.0
"""For so long nothing is asked ahead after two looks, one after the other, that took too long for it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a round's first piece of work before the gateway was looked at."""

    ahead: Ahead | None = None
    """What was asked ahead for it."""
    earlier: Earlier = NOTHING
    """What its earlier tries left."""


class Round:
    """Carries rounds out, of different gateways at the same time; keeps next to nothing between them."""

    def __init__(
        self, work_queue: WorkQueue, cluster: Cluster, driver: Driver, settings: Settings, worker: str = ""
    ) -> None:
        """`worker` is who acts, for the trace."""
        self._work_queue = work_queue
        self._worker = worker
        self._cluster = cluster
        self._driver = driver
        self._settings = settings
        self._hold = Hold(work_queue.redis, work_queue.keys, settings.hold_limit)
        self._intents = Intents(work_queue.redis, work_queue.keys, settings.intent_lifetime)
        self._tries = EarlierTries(work_queue)
        self._looks = Looks(work_queue.records, settings)
        self._inside = ("lo", settings.vpc_interface)
        self._unvouched: tuple[float, float] | None = None
        """Since when the inventory cannot be relied on, and when that was seen last; on the monotonic clock."""
        self._audits = GatewayAudits(work_queue, self._looks, settings, self._inside)
        self._leaks = False
        """Whether the last release that was looked for was there: Kube-OVN mostly leaks each address, or none."""
        self._look_first_until = float("-inf")
        """Looks take too long for owners to be asked for ahead of them; on the monotonic clock."""
        self._was_late = False
        """Whether the last look took too long for that; once may be chance."""

    @property
    def looks_at_once(self) -> bool:
        """Whether a look takes no time: it is the kernel that is asked, here."""
        return self._driver.enters_by_uid

    @property
    def asks_ahead(self) -> bool:
        """Whether it is worth asking ahead of a look, which takes no time then, and likely finds its address."""
        return self.looks_at_once and self._leaks and time.monotonic() > self._look_first_until

    def request(self, ahead: Ahead) -> None:
        """Ask the API too, ahead of the look, where that will be here."""
        if any(self._reaches(pod) for pod in self._cluster.last_pods(ahead.gateway)):
            # What cannot be asked now is asked when it is needed, where it is told what is wrong.
            with suppress(TransientError):
                ahead.request(self._cluster)

    def rest(self, unused_for: float = 0.0) -> None:
        """Let go of what is open for later, and has not been used for so many seconds."""
        self._driver.close(unused_for)

    def work_off(
        self,
        gateway_name: str,
        works: Sequence[Work],
        fence: Callable[[], None],
        pods_done: Collection[str],
        known: Known,
    ) -> dict[str, Answer]:
        """Work on a gateway; by work id how each piece ended, those that are to be left alone missing.

        Args:
            gateway_name: the gateway.
            works: what is pending for it; the first is the worker's own job.
            fence: raises when the gateway's lock is no longer held.
            pods_done: UIDs of pods where the first piece of work was done already, on other nodes.
            known: of the first piece of work.

        Raises:
            TransientError: nothing could be decided for any of them.
        """
        namespaces = {work.namespace for work in works if work.namespace}
        ran = self._cluster.ran(gateway_name, namespaces) if self._driver.enters_by_uid else None
        answers = None
        if ran is not None:
            # One that has ended since is not to be found any more.
            with suppress(GatewayUnreachableError):
                answers = self._work_in(*ran, works, fence, pods_done, known)
            # By now it may be otherwise.
            if known.ahead is not None:
                known.ahead.drop()
            known = Known()
        running = self._cluster.running(gateway_name, namespaces)
        if answers is not None and running == ran:
            return answers
        if running is None:
            self._work_queue.reports.forget([gateway_name])
            why = {"why": "the API has no gateway object of this name"}
            return {work.id: Result(Outcome.GATEWAY_GONE, why) for work in works}
        return self._work_in(*running, works, fence, pods_done, known)

    def _work_in(
        self,
        gateway: NatGateway,
        pods: Sequence[Pod],
        works: Sequence[Work],
        fence: Callable[[], None],
        pods_done: Collection[str],
        known: Known,
    ) -> dict[str, Answer]:
        here = [pod for pod in pods if self._reaches(pod)]
        remaining = [pod for pod in pods if pod not in here]
        if not here:
            elsewhere = self._elsewhere(remaining, here, pods_done)
            return {works[0].id: elsewhere or self._looks.concluded(works[0], Outcome.ALREADY_ABSENT)}
        with ExitStack() as stack:
            opened = [(pod, stack.enter_context(self._driver.open(pod.place))) for pod in here]
            # Asked for while commands start in the pods.
            named = [work.subnet for work in works if not isinstance(work, Audit)]
            subnets = self._cluster.external_subnets(gateway, named)
            own = self._cluster.own_addresses(pods, subnets)
            sites = [Site(pod, entered, self._inside) for pod, entered in opened]
            answers = self._settle(gateway.name, works, sites, subnets, own, fence, known)
        if not remaining:
            return answers
        # Only the travelling job itself knows on which nodes it has been.
        its = answers.get(works[0].id)
        if isinstance(its, Result):
            its = self._elsewhere(remaining, here, pods_done) or its
        return {works[0].id: its} if its is not None else {}

    def _settle(
        self,
        gateway: str,
        works: Sequence[Work],
        sites: Sequence[Site],
        subnets: Collection[Subnet],
        own: Collection[IPAddress],
        fence: Callable[[], None],
        known: Known,
    ) -> dict[str, Answer]:
        answers, releases, absent = self._look_for(works, sites, subnets, own)
        if releases or absent:
            self._leaks = bool(releases)
        if known.ahead is not None and (absent or not releases):
            # It is about a release that is there; else the intents that it recorded tell of more than was meant.
            known.ahead.drop()
        earlier = known.earlier
        # Of the others that are pending nothing is known yet.
        if not earlier.asked.issuperset(work.id for work in absent):
            earlier = self._tries.ask(absent)
        answers |= {
            work.id: self._looks.concluded(
                work, Outcome.ALREADY_ABSENT, earlier=work.id in earlier.deleted, seen=self._seen(sites, work.addresses)
            )
            for work in among(absent)
            if work.id not in earlier.meant
        }
        others: list[Work] = [work for work in works if not isinstance(work, Release)]
        # A worker that meant to delete these did not live to look for owners again.
        others += [work for work in absent if work.id in earlier.meant]
        if not releases and not others:
            return answers
        asked = {ip for work in (*releases, *others) if not isinstance(work, Audit) for ip in work.addresses}
        owners = self._owners_asked_ahead(gateway, sites, asked, own, subnets, known.ahead)
        if owners is None:
            wanted = [(release, set(release.addresses)) for release in releases]
            owners = self._cluster.owners(
                gateway, asked, lambda pipe: self._record_intents(pipe, gateway, wanted, sites)
            )
            if known.ahead is not None:
                known.ahead.drop()
        if owners.vouched:
            self._unvouched = None
        # The older an answer is, the likelier an owner has come since.
        with precedence.at_once():
            answers |= self._release(gateway, releases, sites, owners, fence)
            for work in others:
                if isinstance(work, Audit):
                    snapshots = {site.pod.place.name: site.now for site in sites}
                    answers[work.id] = self._audits.answer(work, snapshots, Expected(owners, own, subnets))
                else:
                    begun = work.id in earlier.begun
                    answers[work.id] = self._confirm(gateway, work, sites, subnets, owners, fence, begun=begun)
        return answers

    def _look_for(
        self, works: Sequence[Work], sites: Sequence[Site], subnets: Collection[Subnet], own: Collection[IPAddress]
    ) -> tuple[dict[str, Answer], list[Release], list[Release]]:
        """Answers to releases that can be answered already; others whose addresses are there; those that found none."""
        answers: dict[str, Answer] = {}
        releases: list[Release] = []
        absent: list[Release] = []
        for work in among(works):
            if isinstance(work, Release):
                protected = self._protected(work, own, subnets)
                if protected is not None:
                    answers[work.id] = protected
                elif not any(site.holds(work.addresses) for site in sites):
                    absent.append(work)
                elif early := self._looks.early(work):
                    answers[work.id] = early
                else:
                    releases.append(work)
        return answers, releases, absent

    def _owners_asked_ahead(
        self,
        gateway: str,
        sites: Sequence[Site],
        asked: Collection[IPAddress],
        own: Collection[IPAddress],
        subnets: Collection[Subnet],
        ahead: Ahead | None,
    ) -> Owners | None:
        """Who owns these addresses, as was asked ahead; None where that does not do."""
        if ahead is None or ahead.known.keys() != set(map(str, asked)):
            return None
        found = [address for site in sites for address in site.holds(asked)]
        # The intents that it recorded do not tell where the addresses are.
        if not all(_is_derivable(site, address, own, subnets) for site in sites for address in found):
            return None
        owners = self._cluster.owners_asked_ahead(gateway, ahead)
        if ahead.is_late and self._was_late:
            self._look_first_until = time.monotonic() + LOOK_FIRST_SECONDS
        self._was_late = ahead.is_late
        return owners

    def _release(
        self,
        gateway: str,
        releases: Sequence[Release],
        sites: Sequence[Site],
        owners: Owners,
        fence: Callable[[], None],
    ) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        going: list[tuple[Release, set[IPAddress]]] = []
        for release in releases:
            free = {ip for ip in release.addresses if owners.of(ip) is None}
            if not any(site.holds(free) for site in sites):
                named = _named(owners, release.addresses)
                seen = self._seen(sites, release.addresses)
                answers[release.id] = Result(Outcome.REASSIGNED, {"owners": named, "seen": seen})
            else:
                going.append((release, free))
        if not going:
            return answers
        not_now = self._not_now(gateway, owners)
        if not_now is not None:
            return answers | {release.id: not_now for release, _ in going}
        targets = {ip for _, free in going for ip in free}
        deleted = {id(site): site.holds(targets) for site in sites}
        with self._meant(gateway, going, sites):
            for site in sites:
                self._delete(site, targets, fence, going)
            again = self._cluster.owners(gateway, targets, partial(self._go_on, gateway, going, sites, owners))
            regained = {ip for ip in targets if again.of(ip) is not None}
            doubt = self._doubt(owners, again)
            for site in sites:
                returned = [a for a in deleted[id(site)] if doubt is not None or a.ip in regained]
                if self._put_back(site, returned, fence):
                    whose = {release.id: [a for a in returned if a.ip in free] for release, free in going}
                    self._tell("put back", site, whose)
        for release, free in going:
            places = [{"pod": site.pod.place.name, "address": str(a)} for site in sites for a in site.holds(free)]
            if free & regained:
                named = _named(again, free & regained)
                seen = self._seen(sites, free)
                answers[release.id] = Result(Outcome.RESTORED, {"put_back": places, "owners": named, "seen": seen})
            elif doubt is not None:
                self._work_queue.records.note(release.id, deleted="")
                answers[release.id] = doubt
            else:
                seen = self._seen(sites, release.addresses)
                answers[release.id] = self._looks.concluded(release, Outcome.RECLAIMED, deleted=places, seen=seen)
        return answers

    @contextmanager
    def _meant(
        self, gateway: str, going: Sequence[tuple[Release, set[IPAddress]]], sites: Sequence[Site]
    ) -> Iterator[None]:
        """See that it is known what was meant, whatever breaks a deletion off: an older Redis has forgotten intents."""
        try:
            yield
        except Exception:
            with suppress(RedisError), self._work_queue.redis.pipeline() as pipe:
                self._record_intents(pipe, gateway, going, sites)
                pipe.execute()
            raise

    def _go_on(
        self,
        gateway: str,
        going: Sequence[tuple[Release, set[IPAddress]]],
        sites: Sequence[Site],
        owners: Owners,
        pipe: Pipeline,
    ) -> None:
        """Let it be known that the releases wait no longer, and where their addresses were, if it is not yet."""
        self._hold.over(pipe, gateway)
        if owners.asked_ahead:
            self._record_intents(pipe, gateway, going, sites)

    def _record_intents(
        self, pipe: Pipeline, gateway: str, going: Sequence[tuple[Release, set[IPAddress]]], sites: Sequence[Site]
    ) -> None:
        found = {release.id: [a for site in sites for a in site.holds(free)] for release, free in among(going)}
        self._intents.record(pipe, gateway, found)

    def _not_now(self, gateway: str, owners: Owners) -> NotNowError | None:
        """Why nothing of the gateway may be taken away yet, although no owner is known; None when it may."""
        if not owners.vouched:
            return self._wait_for_producer()
        waits = self._hold.asks_to_wait(gateway, owners.waiting)
        return None if waits is None else NotNowError(waits, self._settings.busy_pause)

    def _wait_for_producer(self, done: str = "") -> NotNowError:
        """Wait for a producer, half as long again as this worker has waited for one; `done` is what was done before."""
        now = time.monotonic()
        since, last = self._unvouched or (now, now)
        if now - last > 2 * LONGEST_UNVOUCHED_PAUSE:
            # Between the two nobody here looked whether it could.
            since = now
        self._unvouched = (since, now)
        pause = min(max((now - since) / 2, self._settings.busy_pause), LONGEST_UNVOUCHED_PAUSE)
        return NotNowError(f"{done}{UNVOUCHED}", pause)

    def _doubt(self, before: Owners, again: Owners) -> NotNowError | None:
        """Why what was deleted may have an owner after all, although none is known, and goes back; None for none."""
        if not again.vouched:
            return self._wait_for_producer("put back: ")
        waited = {eip.uid for eip in before.waiting}
        newcomers = [eip.name for eip in again.waiting if eip.uid not in waited]
        if not newcomers:
            return None
        why = f"put back: EIP {', '.join(newcomers)} came during the deletion and has no address yet"
        return NotNowError(why, self._settings.busy_pause)

    def _delete(
        self,
        site: Site,
        targets: set[IPAddress],
        fence: Callable[[], None],
        going: Sequence[tuple[Release, set[IPAddress]]],
    ) -> None:
        steps = plan_deletion(site.before, targets, self._inside)
        if not steps:
            return
        site.carry_out(steps, fence)
        if not site.has(targets):
            DELETED.inc(len(site.holds(targets)))
            # Should anything after this line fail, the next try finds nothing and still tells the truth.
            whose = {release.id: site.holds(free) for release, free in going}
            self._tell("deleted", site, whose, deleted=site.pod.place.name)
        differences = missing_after(site.before, site.now, targets, self._inside)
        if differences:
            raise VerificationError(
                f"pod {site.pod.place.name} is not as it should be after the deletion: {'; '.join(differences)}. "
                "If Kube-OVN changed it at the same moment, the next try settles it; otherwise look at the pod."
            )

    def _put_back(self, site: Site, addresses: Sequence[Address], fence: Callable[[], None]) -> bool:
        """See that the addresses are there; whether any had to be put back."""
        steps = plan_restoration(site.now, addresses)
        if not steps:
            return False
        site.carry_out(steps, fence)
        missing = plan_restoration(site.now, addresses)
        if missing:
            raise VerificationError(f"pod {site.pod.place.name} did not take back {missing}; it is tried again")
        RESTORED.inc(len(addresses))
        return True

    def _confirm(
        self,
        gateway: str,
        work: Confirmation | Release,
        sites: Sequence[Site],
        subnets: Collection[Subnet],
        owners: Owners,
        fence: Callable[[], None],
        *,
        begun: bool,
    ) -> Answer:
        owned = [ip for ip in work.addresses if owners.of(ip) is not None]
        # Where Kube-OVN is not done yet it may be that it never will be: the address may live on another gateway.
        placed = [ip for ip in owned if self._cluster.is_placed(owners, ip)]
        put_back = []
        for site in sites:
            addresses = [self._former_place(gateway, site, ip, subnets) for ip in placed if not site.has([ip])]
            if self._put_back(site, addresses, fence):
                self._tell("put back", site, {work.id: addresses})
                put_back += [{"pod": site.pod.place.name, "address": str(address)} for address in addresses]
        if len(owned) < len(work.addresses) and not owners.vouched:
            return self._wait_for_producer()
        seen = self._seen(sites, work.addresses)
        if owned:
            details = {"owners": _named(owners, owned), "seen": seen}
            restored = {"put_back": put_back} if put_back else {}
            return Result(Outcome.RESTORED if put_back else Outcome.REASSIGNED, {**restored, **details})
        if not isinstance(work, Release):
            return self._looks.concluded(work, Outcome.ALREADY_ABSENT, seen=seen)
        if begun:
            why = "a deletion had begun that nobody lived to report"
            return self._looks.concluded(work, Outcome.RECLAIMED, why=why, seen=seen)
        why = "a worker may have taken it away that did not live to report it"
        return self._looks.concluded(work, Outcome.ALREADY_ABSENT, why=why, seen=seen)

    def _tell(self, event: str, site: Site, whose: dict[str, list[Address]], **fields: str) -> None:
        """Tell of a change as soon as it was made: nobody may live to tell it with an outcome."""
        told: dict[str, dict[str, Any]] = {
            work_id: {"pod": site.pod.place.name, "addresses": [str(a) for a in addresses], "worker": self._worker}
            for work_id, addresses in whose.items()
            if addresses
        }
        self._work_queue.records.tell(event, told, **fields)

    def _seen(self, sites: Sequence[Site], addresses: Collection[IPAddress]) -> list[str]:
        """What each pod showed at the last look."""
        return [site.shows(addresses) for site in sites]

    def _former_place(self, gateway: str, site: Site, ip: IPAddress, subnets: Iterable[Subnet]) -> Address:
        """Where an owned address has to be: where a worker found it, else beside the others of its subnet."""
        intent = self._intents.of(gateway, ip)
        if intent is not None and intent.interface:
            return Address(intent.interface, ip, intent.prefix_length)
        place = next(site.places_beside(ip, subnets), None)
        if place is not None:
            return place[0]
        raise TransientError(
            f"{ip} is missing on pod {site.pod.place.name}, and nothing there tells on which interface it belongs. "
            "Kube-OVN puts it back when the EIP is annotated or its controller restarts."
        )

    def _protected(
        self, work: Release, own: Collection[IPAddress], subnets: Collection[Subnet]
    ) -> ProtectedAddressError | None:
        for address in work.addresses:
            why = why_protected(address, own=own, subnets=subnets, settings=self._settings)
            if why is not None:
                return ProtectedAddressError(
                    f"{address} on gateway {work.gateway} is not taken away: {why}. "
                    "No EIP can have had it, whatever its object asked for; drop this job."
                )
        return None

    def _reaches(self, pod: Pod) -> bool:
        return self._driver.name != "netlink" or self._settings.node_name in (None, pod.place.node)

    @staticmethod
    def _elsewhere(remaining: Sequence[Pod], here: Sequence[Pod], pods_done: Collection[str]) -> ElsewhereError | None:
        """Where the work goes next; None when it has been everywhere."""
        todo = [pod for pod in remaining if pod.place.uid not in pods_done]
        if not todo:
            return None
        return ElsewhereError(todo[0].place.node, [*pods_done, *(pod.place.uid for pod in here)])


def _is_derivable(site: Site, address: Address, own: Collection[IPAddress], subnets: Collection[Subnet]) -> bool:
    """Whether it will be known where an address was, without having been noted: beside one that stays, for sure."""
    beside = list(site.places_beside(address.ip, subnets))
    stays = any(neighbour in own for _, neighbour in beside)
    here = (address.interface, address.prefix_length)
    return stays and all((place.interface, place.prefix_length) == here for place, _ in beside)


def _named(owners: Owners, addresses: Iterable[IPAddress]) -> dict[str, str]:
    return {str(ip): owner for ip in addresses if (owner := owners.of(ip)) is not None}
