"""What a worker asks the Kubernetes API: where a gateway is, and who owns what on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from redis.client import Pipeline

from shared.kube.api import EIPS, KubeApi, Object
from shared.kube.objects import GATEWAY_LABEL
from shared.models import EIP, IPAddress
from shared.queue import WorkQueue
from shared.settings import Settings
from shared.vouching import ask_if_vouched
from workers.owners import Owners, Ownership
from workers.places import MOST_GATEWAYS, Places

if TYPE_CHECKING:
    from shared.kube.ahead import ListAhead
    from workers.ahead import Ahead

LONGEST_LABEL = 63
LONGEST_SELECTOR = 4000
"""Characters in a request's address; what stands before an API server often takes no more than 8,000."""


def _nothing(_pipe: Pipeline) -> None:
    pass


class Cluster(Places):
    """The API as workers see it, beside what the inventory knows."""

    def __init__(self, api: KubeApi, work_queue: WorkQueue, settings: Settings) -> None:
        super().__init__(api, settings)
        self._work_queue = work_queue

    def owners(
        self, gateway: str, addresses: Iterable[IPAddress], record: Callable[[Pipeline], None] = _nothing
    ) -> Owners:
        """Who owns addresses on a gateway: what the API says now, and what the inventory knows.

        The API is the truth and is asked every time. The inventory is believed beside it: an EIP that it still has is
        either live, or its own release is about to be published.

        Args:
            gateway: the gateway's name.
            addresses: whose owners are wanted, where only the inventory may know of one.
            record: records what has to be there before anybody looks for owners, or else goes along, in a transaction.
        """
        asked = sorted(set(map(str, addresses)))
        with self._work_queue.redis.pipeline(transaction=True) as pipe:
            record(pipe)
            keys = self._work_queue.keys
            ask_if_vouched(pipe, keys, [keys.owners(gateway, address) for address in asked])
            vouched, *uids = pipe.execute()[-1]
        known = {address: uid.decode() if uid else "" for address, uid in zip(asked, uids, strict=True)}
        return _owners(gateway, self._eips_of(gateway), known, vouched=bool(vouched))

    def request_eips(self, gateway: str) -> ListAhead | None:
        """Ask the API what `owners` asks it, and wait for it later; None where more than one list has to be asked for.

        Raises:
            TransientError: it cannot even be asked.
        """
        selector = _selector(self.remembered_names(), gateway)
        return None if selector is None else self._api.request_list(EIPS, labelSelector=selector)

    def owners_asked_ahead(self, gateway: str, ahead: Ahead) -> Owners | None:
        """As `owners`, from what was asked ahead; None where it has to be asked anew."""
        items = ahead.answer()
        if items is None:
            return None
        owners = _owners(gateway, items, ahead.known, vouched=ahead.vouched)
        owners.asked_ahead = True
        return owners

    def is_placed(self, owners: Owners, address: IPAddress) -> bool:
        """Whether Kube-OVN has put an address on the gateway for an owner that is there.

        An owner that the API's list lacks is asked for by name: the list may be wrong, and so may be what is known.
        """
        uid = owners.known.get(str(address))
        if uid is None:
            return str(address) in owners.placed
        stored: bytes | None = self._work_queue.redis.hget(self._work_queue.keys.inventory, uid)  # type: ignore[assignment]
        eip = EIP.from_json(stored) if stored is not None else None
        if eip is None or not eip.placed:
            return False
        found = self._api.get(f"{EIPS}/{eip.name}")
        return found is not None and found["metadata"].get("uid") == uid

    def _eips_of(self, gateway: str) -> list[Object]:
        """At least the gateway's EIPs. The controller labels an EIP only after its address is on the gateway."""
        selector = _selector(self.gateway_names(), gateway)
        if selector is not None:
            return self._api.list_objects(EIPS, labelSelector=selector)[0]
        if len(gateway) > LONGEST_LABEL:
            return self._api.list_objects(EIPS)[0]
        # In this order: one that is labelled in between is in both lists; the other way round it would be in none.
        unlabelled, _ = self._api.list_objects(EIPS, labelSelector=f"!{GATEWAY_LABEL}")
        labelled, _ = self._api.list_objects(EIPS, labelSelector=f"{GATEWAY_LABEL}={gateway}")
        return labelled + unlabelled


def _owners(gateway: str, items: list[Object], known: Mapping[str, str], *, vouched: bool) -> Owners:
    owners = Ownership(items).of(gateway)
    owners.vouched = vouched
    for address, uid in known.items():
        if uid and address not in owners.by_address:
            owners.add_known(address, uid)
    return owners


def _selector(names: frozenset[str] | None, gateway: str) -> str | None:
    """Selects at least the gateway's EIPs, where all gateways' names are known and no more than a request takes."""
    return None if names is None else _all_but_others(names, gateway, LONGEST_SELECTOR)


@lru_cache(maxsize=MOST_GATEWAYS)
def _all_but_others(names: frozenset[str], gateway: str, longest: int) -> str | None:
    """Selects what is labelled with no other gateway's name, or not at all; None where that would be too long.

    A gateway that has come since the names were asked for only makes the answer longer.
    """
    others = sorted(name for name in names - {gateway} if len(name) <= LONGEST_LABEL)
    selector = f"{GATEWAY_LABEL} notin ({','.join(others)})" if others else ""
    return selector if len(quote(selector)) <= longest else None
