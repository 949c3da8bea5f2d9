"""EIPs that came back: Kube-OVN v1.16 may create one anew that was deleted while it was being created.

The deletion is undone then, by the same name and address with another UID (kube-ovn-facts, §1). Nothing is leaked, but
who deleted it believes that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.models import EIP, Work
from shared.records import Records
from shared.reports import Finding, Kind

REVIVAL_SECONDS = 60.0
"""What comes back later was asked for by somebody."""
CLOCK_SECONDS = 5.0
"""How much the API's clock and a producer's may differ, and how exact a creationTimestamp is."""


def revived(records: Records, eips: Iterable[EIP]) -> list[Finding]:
    """Those of these EIPs under whose name another one had been deleted shortly before they were created."""
    by_name = {eip.name: eip for eip in eips}
    found = []
    for name, works in records.about(list(by_name)).items():
        eip = by_name[name]
        deletions = [work.seen_at for work in works if _deleted_before(work, eip)]
        if deletions:
            address = ",".join(eip.addresses) or None
            why = "came back within a minute of its deletion: delete it again if it should be gone"
            found.append(Finding(Kind.REVIVED, eip.gateway, address, name, why, eip.created))
    return found


def _deleted_before(work: Work, eip: EIP) -> bool:
    deleted = work.kind in ("release", "audit") and work.reason in ("deleted", "missing")
    another = work.eip == eip.name and work.uid != eip.uid
    return deleted and another and -CLOCK_SECONDS <= eip.created - work.seen_at <= REVIVAL_SECONDS
