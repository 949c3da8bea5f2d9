"""The audit of many gateways at once, from wherever it is asked for: it looks, and changes nothing.

What gateways carry is read first, many at a time, and who owns what is listed after that, page by page. Where they
differ it is looked again after a pause, until each difference was seen twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from shared.errors import PermanentError, TransientError, UnknownNameError
from shared.kube.api import EIPS, KubeApi
from shared.kube.objects import NatGateway, Subnet
from shared.models import IPAddress
from shared.queue import WorkQueue
from shared.reports import Finding, GatewayReport, with_doubles
from shared.settings import Settings
from workers.audits.comparison import Comparison, Expected, Suspicion, compare, findings, stuck
from workers.audits.revived import revived
from workers.gateways.interface import Driver, Snapshot
from workers.owners import Owners, Ownership
from workers.places import Places, Pod

AT_ONCE = 8
"""Gateways that are read at the same time."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(slots=True)
class Site:
    """One gateway in a survey."""

    gateway: NatGateway
    subnets: list[Subnet] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    own: set[IPAddress] = field(default_factory=set)
    """Addresses that are the pods' own."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    hindrance: str | None = None
    """Why it cannot be looked at."""
    suspicion: Suspicion = field(default_factory=Suspicion)
    comparison: Comparison | None = None
    owners: Owners = field(default_factory=Owners)


class Survey:
    """Looks at gateways, with the rights of whoever asks: to read in the API, and what the driver needs."""

    def __init__(
        self, api: KubeApi, driver: Driver, settings: Settings, work_queue: WorkQueue | None, progress: Progress
    ) -> None:
        """`work_queue` is for what is known of the past, and to keep the reports; None to do without."""
        self._api = api
        self._work_queue = work_queue
        self._driver = driver
        self._settings = settings
        self._places = Places(api, settings)
        self._inside = ("lo", settings.vpc_interface)
        self._progress = progress
        self.listed: frozenset[str] = frozenset()
        """UIDs of the EIPs in the last list."""
        # Netlink is quick enough for one.
        self._at_once = AT_ONCE if driver.name == "exec" else 1

    def run(self, gateways: Collection[str], subnets: Collection[str], by: str) -> list[GatewayReport]:
        """Audit gateways; a report of each, by its name.

        Args:
            gateways: their names; none for every gateway.
            subnets: external subnets whose addresses are told; none for all.
            by: who audits, for the report.

        Raises:
            TransientError: the API does not answer, or refuses.
            UnknownNameError: there is no gateway, or none with an external subnet, of that name.
        """
        sites = self._locate(gateways)
        _expect_known("external subnet", subnets, {subnet.name for site in sites for subnet in site.subnets})
        todo = [site for site in sites if site.hindrance is None]
        give_up = time.monotonic() + self._settings.hold_limit
        while todo:
            self._look(todo)
            todo = [site for site in todo if self._is_open(site)]
            if not todo or time.monotonic() > give_up:
                break
            time.sleep(self._settings.audit_pause)
        came_back: dict[str, list[Finding]] = {}
        for finding in self._came_back(sites):
            came_back.setdefault(finding.gateway, []).append(finding)
        reports = [self._report(site, by, came_back.get(site.gateway.name, [])) for site in sites]
        if self._work_queue is None:
            return [_of_subnets(report, subnets) for report in with_doubles(reports)]
        # Also those of other gateways tell what is doubled.
        kept = self._work_queue.reports
        kept.keep(reports) if gateways else kept.keep_only(reports)
        return [_of_subnets(report, subnets) for report in kept.all() if not gateways or report.gateway in gateways]

    def _locate(self, names: Collection[str]) -> list[Site]:
        known = {gateway.name: gateway for gateway in self._places.gateways()}
        _expect_known("VpcNatGateway", names, known)
        sites = [Site(gateway) for name, gateway in sorted(known.items()) if not names or name in names]
        ownership = self._ownership()
        for site in sites:
            site.owners = ownership.of(site.gateway.name)
        items = self._places.pod_objects({namespace for site in sites for namespace in self._namespaces(site)})

        def locate(site: Site) -> None:
            named = {eip.subnet for eip in site.owners.eips.values()}
            site.subnets = self._places.external_subnets(site.gateway, named)
            site.pods = self._places.active_among(site.gateway, items, self._namespaces(site))
            site.own = self._places.own_addresses(site.pods, site.subnets)
            elsewhere = [pod.place for pod in site.pods if not self._reaches(pod)]
            if elsewhere:
                site.hindrance = (
                    f"pod {elsewhere[0].name} is on node {elsewhere[0].node}, which the netlink driver does not reach "
                    "from here: use --driver exec"
                )

        self._at_each(sites, locate, "finding gateways")
        return sites

    def _namespaces(self, site: Site) -> list[str]:
        named = {eip.namespace for eip in site.owners.eips.values() if eip.namespace}
        return self._places.namespaces(site.gateway, named)

    def _look(self, sites: list[Site]) -> None:
        self._at_each(sites, self._read, "looking at gateways")
        # Strictly after the gateways were read: what came meanwhile has an owner.
        ownership, now = self._ownership(), time.time()
        for site in sites:
            if site.hindrance is not None:
                continue
            site.owners = ownership.of(site.gateway.name)
            expected = Expected(site.owners, site.own, site.subnets)
            site.comparison = compare(site.snapshots, expected, inside=self._inside, settings=self._settings)
            site.suspicion.look(site.comparison, now)

    def _read(self, site: Site) -> None:
        for pod in site.pods:
            with self._driver.open(pod.place) as gateway:
                site.snapshots[pod.place.name] = gateway.read()

    def _at_each(self, sites: list[Site], act: Callable[[Site], None], what: str) -> None:
        """Do it at each, many at a time; one where it cannot be done is left out from then on."""

        def attempt(site: Site) -> None:
            try:
                act(site)
            except (TransientError, PermanentError) as error:
                site.hindrance = str(error)

        self._progress(what, 0, len(sites))
        with ThreadPoolExecutor(self._at_once) if self._at_once > 1 else nullcontext() as pool:
            for done, _ in enumerate((pool.map if pool else map)(attempt, sites), 1):
                self._progress(what, done, len(sites))

    def _ownership(self) -> Ownership:
        ownership = Ownership(self._api.each_object(EIPS))
        self.listed = frozenset(eip.uid for eip in ownership.eips())
        return ownership

    def _is_open(self, site: Site) -> bool:
        """Whether another look may tell more."""
        if site.hindrance is not None:
            return False
        return bool(site.owners.waiting) or site.suspicion.needs_another_look(self._settings.audit_pause)

    def _reaches(self, pod: Pod) -> bool:
        return self._driver.name != "netlink" or self._settings.node_name in (None, pod.place.node)

    def _came_back(self, sites: list[Site]) -> list[Finding]:
        """What is known of EIPs that came back, asked for at once."""
        if self._work_queue is None:
            return []
        return revived(self._work_queue.records, [eip for site in sites for eip in site.owners.eips.values()])

    def _report(self, site: Site, by: str, came_back: list[Finding]) -> GatewayReport:
        name, eips = site.gateway.name, site.owners.eips.values()
        report = GatewayReport(gateway=name, at=site.suspicion.at or time.time(), by=by, hindrance=site.hindrance)
        if site.comparison is None:
            return replace(report, findings=(*stuck(name, eips, report.at, self._settings), *came_back))
        found = findings(name, site.comparison, site.suspicion, site.owners, self._settings) + came_back
        return replace(
            report,
            namespace=site.pods[0].place.namespace,
            pods=tuple(sorted(site.snapshots)),
            carried=site.comparison.carried,
            findings=tuple(found),
        )


def _expect_known(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = ", ".join(repr(name) for name in sorted(set(names) - set(known)))
    if unknown:
        raise UnknownNameError(f"there is no {what} {unknown}; there are {', '.join(sorted(known)) or 'none'}")


def _of_subnets(report: GatewayReport, subnets: Collection[str]) -> GatewayReport:
    """What a report tells of these external subnets, and of EIPs without address."""
    if not subnets:
        return report
    return replace(
        report,
        carried=tuple(each for each in report.carried if each.subnet in subnets),
        findings=tuple(each for each in report.findings if each.subnet is None or each.subnet in subnets),
    )
