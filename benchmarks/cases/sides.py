"""The sides that follow the API: ours and its peers, each asked to get rid of the addresses of EIPs that have gone.

Each run begins with EIPs that are ready and on a gateway's kernel, and with a side that follows the API and has nothing
to do. It ends when the last address is gone, which the kernel is asked about in the end.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.field import LENGTH, Field

PEERS = Path(peers.__file__).parent

Deletions = Callable[[Sequence[str]], list[float]]
"""Lets EIPs go, all at once; for each how many seconds later its address was gone."""


Milestones = list[dict[str, float]]


@contextmanager
def ours(field: Field, driver: str, milestones: Milestones | None = None) -> Iterator[Deletions]:
    """A producer and a worker; what each release's way was made of is added to `milestones`."""
    with field.product(driver=driver):

        def delete(eips: Sequence[str]) -> list[float]:
            before = field.outcomes()
            began = field.vanish(eips)
            field.wait_for_outcomes(before + len(eips))
            if milestones is not None:
                milestones.extend(field.milestones(field.work_of(eip), began) for eip in eips)
            return [field.gone_at(field.work_of(eip)) - began for eip in eips]

        yield delete


@contextmanager
def follower(field: Field, module: str) -> Iterator[Deletions]:
    """A peer that follows the API and tells of each address."""
    with field.peer(module, str(LENGTH)) as peer:

        def delete(eips: Sequence[str]) -> list[float]:
            began = field.vanish(eips)
            wanted = set(eips)
            field.watch_until(lambda: wanted <= {line["gone"] for line in peer.lines("gone")}, "the peer")
            told = {line["gone"]: line for line in peer.lines("gone")}
            assert all(told[eip]["exit_code"] == 0 for eip in eips)
            return [told[eip]["at"] - began for eip in eips]

        yield delete


@contextmanager
def script(field: Field, gateway: int, addresses: dict[str, str]) -> Iterator[Deletions]:
    """Somebody who types, or a cron job: it has the list at once, and follows nothing."""

    def delete(eips: Sequence[str]) -> list[float]:
        field.vanish(eips)
        kubectl = f"{sys.executable} {PEERS / 'kubectl_exec.py'}"
        command = [
            str(PEERS / "release.sh"),
            kubectl,
            field.cluster.server.url,
            field.cluster.pod(f"gw-{gateway}").name,
        ]
        lines = "".join(f"{addresses[eip]}/{LENGTH}\n" for eip in eips)
        began = time.perf_counter()
        subprocess.run(command, input=lines, text=True, check=True)
        return [time.perf_counter() - began] * len(eips)

    yield delete


def cleaned(field: Field, gateway: int, run: Callable[[], list[float]]) -> list[float]:
    """Run, and see that nothing is left on the gateway's kernel."""
    seconds = run()
    left = field.on_kernel(gateway)
    assert left == 0, f"{left} addresses are left"
    return seconds
