"""Lists in place of events: what a list may be believed, what the brake holds back of it, what no list can tell.

A list says what there is and, by what is missing from it, what is gone; but an API in trouble may list too little. So
a list that would release too much, or lacks an EIP that the API has, is taken for what it shows, and what is missing
from it is held back (`shared.brake`) until a later list shows it, its own event comes, or an operator confirms.

What came and went between the last event and the list is in neither. Its address may be on a gateway all the same, so
every gateway is audited after such a gap, once there is no doubt about the lists.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Literal

from producer.audits import Audits
from producer.events import change_of, uid_of
from shared.difference import Gone, Seen, difference, gone_from_list
from shared.errors import TransientError
from shared.kube.api import EIPS
from shared.kube.events import cluster_object
from shared.log import get_logger
from shared.metrics import LISTS

if TYPE_CHECKING:
    from producer.memory import Memory
    from shared.brake import Brake
    from shared.difference import Change
    from shared.inventory import Inventory
    from shared.kube.api import KubeApi
    from shared.kube.events import EventRecorder
    from shared.models import EIP
    from shared.settings import Settings

log = get_logger(__name__)

OLDER_HISTORY = "older-history"
"""What an operator confirms when the API's own history went back."""
CROSS_CHECKS = 10
"""EIPs that are missing from a list and asked for by name before the list is believed."""


class BrakeEngagedError(TransientError):
    """The API's own history went back: what it tells now cannot be followed."""


class Lists:
    """Lists EIPs for a producer, and commits what follows."""

    def __init__(
        self,
        api: KubeApi,
        inventory: Inventory,
        memory: Memory,
        brake: Brake,
        settings: Settings,
        events: EventRecorder | None = None,
    ) -> None:
        self._api = api
        self._events = events
        self._inventory = inventory
        self._memory = memory
        self._brake = brake
        self._recheck = settings.brake_recheck
        self._audits = Audits(api, inventory, settings.audit_interval, apply=settings.audit_apply)
        self._checked = float("-inf")
        """When that was done last, on the monotonic clock."""

    def take(self) -> int:
        """Take a list for the events that are gone; the resourceVersion to go on from.

        Raises:
            BrakeEngagedError: nothing was committed.
            WrongClusterError: nothing was committed.
        """
        held = self._brake.held()
        known, changes, version = self._list()
        doubted, is_wrong = self._doubted(known, changes)
        # Not at the very beginning: what leaked before is for an operator to look at first.
        gap = bool(self._memory.eips) or self._inventory.checkpoint() is not None
        believed = [change for change in changes if change.uid not in doubted]
        doubtful = is_wrong or _holds_back_addresses(changes, doubted)
        self._memory.commit(believed, version, gap=gap, doubtful=doubtful)
        self._settle(held - doubted)
        log.info("listed", known=len(self._memory.eips), held_back=len(doubted), resource_version=version)
        self._checked = time.monotonic() if doubted else float("-inf")
        return version

    def check_now_and_then(self) -> None:
        """List again for what the brake holds back, or let gateways be audited, where it is time to.

        An API that does not answer is asked again next time: the watch beside it may well go on.

        Raises:
            BrakeEngagedError: the API's history went back.
            WrongClusterError: nothing was committed.
        """
        if time.monotonic() - self._checked < self._recheck:
            return
        try:
            self._check()
            self._inventory.hindrance = None
        except BrakeEngagedError:
            raise
        except TransientError as error:
            log.error("cannot list now, trying again", reason=str(error))
            self._inventory.hindrance = str(error)
        finally:
            # Events are not seen to meanwhile: where it takes long, they have as long afterwards.
            self._checked = time.monotonic()

    def _check(self) -> None:
        # Before the list: what another producer holds back after it may not be settled by it.
        held = self._brake.held()
        if not held:
            self._memory.remember([*self._audits.publish_if_due()])
            return
        known, changes, _ = self._list()
        # An EIP that came while lists were not believed is in no event. Of all else the events tell.
        told = [change for change in changes if change.uid in held or change.uid not in known]
        doubted, _ = self._doubted(known, told)
        believed = [change for change in told if change.uid not in doubted]
        # What else came is in events, whatever the list lacks.
        self._memory.commit(believed, None, doubtful=_holds_back_addresses(told, doubted))
        # Where all that was held back has gone by its own events, that does not mend a list.
        if doubted or self._living([known[change.uid] for change in changes if isinstance(change, Gone)]) is None:
            self._settle(held - doubted)

    def _list(self) -> tuple[dict[str, EIP], list[Change], int]:
        """The EIPs known before a list, what changed since as it has it, and its resourceVersion."""
        changes: list[Change] = []
        listed: set[str] = set()
        version = 0
        # Before the list: other producers go on meanwhile.
        checkpoint = self._inventory.checkpoint()
        for items, at in self._api.pages(EIPS):
            version = at
            changes += [change for item in items if (change := change_of(item, gone=False)) is not None]
            # An object that cannot be read is still there.
            listed |= {uid_of(item) for item in items}
        self._inventory.heard_at = time.time()
        LISTS.inc()
        self._inventory.expect_cluster(self._api.cluster_uid())
        if checkpoint is not None and version < checkpoint:
            self._refuse_older_history(version, checkpoint)
        known = self._memory.known()
        return known, changes + gone_from_list(known.values(), listed, version), version

    def _settle(self, uids: set[str]) -> None:
        # Not before the commit: whoever takes over from a producer that dies here has to hold them back too.
        if self._brake.settle(uids):
            log.warning("brake disengaged")
            self._tell("BrakeReleased", "what was missing is there after all, or was released", warning=False)

    def _doubted(self, known: dict[str, EIP], changes: list[Change]) -> tuple[set[str], bool]:
        """UIDs of what these changes would release and may not, and whether their list is wrong beyond doubt.

        The brake holds them back from now on.
        """
        # What is known here alone may have been released by another producer already.
        released = self._inventory.released([change.uid for change in changes])
        would = difference(known, released, changes, cluster=self._inventory.cluster, now=time.time())
        uids = {str(work.uid) for work in would.works}
        uids -= self._brake.confirmed(uids)
        living = self._living([eip for uid, eip in would.forgotten.items() if uid in uids])
        if self._brake.too_many(len(uids), len(known)):
            reason = f"one list would release {len(uids)} of {len(known)} known EIPs"
        elif living is not None:
            # Few enough to be true, but in a small cluster they may still be all there are.
            reason = f"the API's list lacks EIP {living}, but the API has it"
        else:
            return set(), False
        then = "it is listed again until the API recovers; if the EIPs are truly gone: eip-reclaimer brake release"
        self._engage_brake(reason, uids, len(known), then)
        return uids, living is not None

    def _living(self, missing: list[EIP]) -> str | None:
        """One of these EIPs, which a list lacks, that the API has; None where it has none of some."""
        some = random.sample(missing, min(len(missing), CROSS_CHECKS))
        return next((eip.name for eip in some if uid_of(self._api.get(f"{EIPS}/{eip.name}")) == eip.uid), None)

    def _refuse_older_history(self, version: int, checkpoint: int) -> None:
        """An API whose history went back (etcd restored from a backup) says nothing about what is gone."""
        reason = f"the API's list is of version {version}, but version {checkpoint} was seen before"
        if self._brake.confirmed({OLDER_HISTORY}):
            self._inventory.forget_history()
            self._memory.forget_eips()
            self._settle({OLDER_HISTORY})
            log.warning("history forgotten, as an operator confirmed", reason=reason)
            return
        then = "if etcd was restored from a backup: eip-reclaimer brake release, then audit the gateways"
        self._engage_brake(reason, {OLDER_HISTORY}, len(self._memory.eips), then)
        raise BrakeEngagedError(reason)

    def _engage_brake(self, reason: str, held: set[str], known: int, then: str) -> None:
        newly = self._brake.engage(reason, held, known)
        log.error("brake engaged", reason=reason, held_back=len(held), then=then)
        if newly:
            self._tell("BrakeEngaged", f"{reason}; {then}", warning=True)

    def _tell(self, reason: Literal["BrakeEngaged", "BrakeReleased"], message: str, *, warning: bool) -> None:
        if self._events is not None:
            self._events.tell(reason, message, cluster_object(self._inventory.cluster), warning=warning)


def _holds_back_addresses(changes: list[Change], doubted: set[str]) -> bool:
    """Whether an EIP that is there may have an address which nobody knows of before it is believed."""
    return any(isinstance(change, Seen) and change.uid in doubted for change in changes)
