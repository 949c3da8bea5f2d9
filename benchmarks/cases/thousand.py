"""A tenant goes: a thousand releases on one gateway, told by the API in one go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.cases.sides import Deletions, cleaned, follower, ours, script
from benchmarks.cases.single import EXEC, KOPF, KUBE_OVN, KUBECTL, NETLINK
from benchmarks.field import EXEC_SECONDS, Field
from benchmarks.harness import Case, Measured, Ratio, divided, interleaved

COUNT = 1000


def measure(field: Field, quick: bool) -> Measured:
    """Each side; those that go address by address do fewer, and what is told of them is scaled."""
    turns, count, few = (2, COUNT, 60) if quick else (3, COUNT, 200)
    field.exec_latency(EXEC_SECONDS)

    def all_at_once(opened: Callable[[dict[str, str]], AbstractContextManager[Deletions]], number: int) -> float:
        first, planted = field.plant(0, 1), field.plant(0, number)
        with opened({**first, **planted}) as delete:
            delete(list(first))  # connections are made once
            return max(cleaned(field, 0, lambda: delete(list(planted)))) * count / number

    sides = {
        EXEC: lambda: all_at_once(lambda _: ours(field, "exec"), count),
        NETLINK: lambda: all_at_once(lambda _: ours(field, "netlink"), count),
        KUBE_OVN: lambda: all_at_once(lambda _: follower(field, "kube_ovn"), few),
        KOPF: lambda: all_at_once(lambda _: follower(field, "kopf_operator"), few),
        KUBECTL: lambda: all_at_once(lambda planted: script(field, 0, planted), few // 4),
    }
    values = interleaved(sides, turns)
    return Measured(
        sides=values,
        ratios=[
            Ratio("Kube-OVN's path / ours, exec", divided(values[KUBE_OVN], values[EXEC]), target=20, limit=10),
            Ratio("Kube-OVN's path / ours, netlink", divided(values[KUBE_OVN], values[NETLINK])),
            Ratio("kopf handler / ours, exec", divided(values[KOPF], values[EXEC])),
            Ratio("kubectl script / ours, exec", divided(values[KUBECTL], values[EXEC])),
        ],
        facts={
            "exec latency, s": EXEC_SECONDS,
            "releases": count,
            "releases that the others did, scaled": {KUBE_OVN: few, KOPF: few, KUBECTL: few // 4},
        },
    )


THOUSAND = Case("thousand", "How long do 1,000 releases on one gateway take that come at once?", measure)
