"""One release at a time on a system that has nothing else to do: from the API's event to the address seen gone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from benchmarks.cases.sides import Deletions, Milestones, cleaned, follower, ours, script
from benchmarks.field import EXEC_SECONDS, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved, percentile

NETLINK, EXEC, FIRST = "ours, netlink", "ours, exec", "ours, exec, first on its gateway"
KUBE_OVN, KOPF, KUBECTL = "Kube-OVN's own path", "kopf handler with exec", "kubectl exec script"


WARM_UP = 20
"""Releases that are not counted, on each side: a process that has just started takes a third longer for them."""


def warm_up(delete: Deletions, eips: Sequence[str], way: Milestones) -> None:
    """Let connections be made, and code be run as often as Python takes to specialise it."""
    for eip in eips:
        delete([eip])
    del way[-len(eips) :]


def measure(field: Field, quick: bool) -> Measured:
    """Each side, one EIP after another."""
    turns, count = (2, 15) if quick else (5, 30)
    field.exec_latency(EXEC_SECONDS)
    all_of: dict[str, list[float]] = {}
    way: dict[str, Milestones] = {NETLINK: [], EXEC: [], FIRST: []}

    def one_by_one(
        side: str, opened: Callable[[dict[str, str]], AbstractContextManager[Deletions]], number: int
    ) -> float:
        planted = field.plant(0, WARM_UP + number)
        eips = list(planted)
        with opened(planted) as delete:
            warm_up(delete, eips[:WARM_UP], way.get(side, []))
            seconds = cleaned(field, 0, lambda: [delete([eip])[0] for eip in eips[WARM_UP:]])
        all_of.setdefault(side, []).extend(seconds)
        return statistics.median(seconds)

    def each_on_its_own() -> float:
        """No command of an earlier release is there to be used again, and nothing is known of the gateway."""
        gateways = range(1, 1 + WARM_UP + count)
        eips = [eip for number in gateways for eip in field.plant(number, 1)]
        with ours(field, "exec", way[FIRST]) as delete:
            warm_up(delete, eips[:WARM_UP], way[FIRST])
            seconds = [delete([eip])[0] for eip in eips[WARM_UP:]]
        assert all(field.on_kernel(number) == 0 for number in gateways)
        all_of.setdefault(FIRST, []).extend(seconds)
        return statistics.median(seconds)

    sides = {
        NETLINK: lambda: one_by_one(NETLINK, lambda _: ours(field, "netlink", way[NETLINK]), count),
        EXEC: lambda: one_by_one(EXEC, lambda _: ours(field, "exec", way[EXEC]), count),
        FIRST: each_on_its_own,
        KUBE_OVN: lambda: one_by_one(KUBE_OVN, lambda _: follower(field, "kube_ovn"), count),
        KOPF: lambda: one_by_one(KOPF, lambda _: follower(field, "kopf_operator"), count),
        KUBECTL: lambda: one_by_one(KUBECTL, lambda planted: script(field, 0, planted), max(5, count // 3)),
    }
    medians = interleaved(sides, turns)
    netlink = all_of[NETLINK]
    per_turn = [netlink[start : start + count] for start in range(0, len(netlink), count)]
    return Measured(
        sides=all_of,
        ratios=[
            Ratio(
                "netlink: event → seen gone, p50",
                [1000 * each for each in medians[NETLINK]],
                target=10,
                limit=25,
                better="lower",
                unit="ms",
            ),
            Ratio(
                "netlink: event → seen gone, p99",
                [1000 * percentile(values, 99) for values in per_turn],
                target=50,
                limit=150,
                better="lower",
                unit="ms",
            ),
            Ratio("Kube-OVN's path / ours, netlink", divided(medians[KUBE_OVN], medians[NETLINK]), target=10, limit=5),
            Ratio("Kube-OVN's path / ours, exec", divided(medians[KUBE_OVN], medians[EXEC]), target=1, limit=0.7),
            Ratio(f"Kube-OVN's path / {FIRST}", divided(medians[KUBE_OVN], medians[FIRST]), target=1, limit=0.5),
            Ratio("kopf handler / ours, exec", divided(medians[KOPF], medians[EXEC])),
            Ratio("kubectl script / ours, exec", divided(medians[KUBECTL], medians[EXEC])),
        ],
        facts={
            "exec latency, s": EXEC_SECONDS,
            "p99 over all turns, ms": round(1000 * percentile(netlink, 99), 2),
            "where the time goes, median in ms until": {
                side: {step: round(statistics.median(each[step] for each in found), 2) for step in found[0]}
                for side, found in way.items()
            },
        },
    )


SINGLE = Case("single", "How soon is one address gone, with nothing else to do?", measure)
