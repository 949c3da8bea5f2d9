"""How long a killed worker's jobs wait: `python -m tests.recovery --kills 20 --report DIR`.

With the product's settings as they are by default. Two promises are measured, each in the ways it can be put to the
test: that a job whose worker is killed comes to an outcome within a minute, wherever in its life the worker died; and
that a retry starts within ten seconds of the time it is due, also when the worker that had scheduled it is dead, and
the one that looked for due ones last. DIR/recovery.json holds every single value. The exit status is 1 when a promise
is broken.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.measuring import MeasuredStage, machine, prepare, write_json
from tests.recovery.kills import BATCH, BETWEEN_KILLS, PATIENCE, SURVIVORS, Killer
from tests.recovery.waits import Waits, judged

OUTCOME_SECONDS = 60.0
"""From the kill until another worker has recorded the job's outcome."""
RETRY_SECONDS = 10.0
"""From the time a retry is due until a worker has started it."""
ON_ITS_NODE = {"driver": "netlink", "node_name": "sandbox-node"}
"""A worker as a DaemonSet runs it: it takes jobs from two queues."""


@dataclass(frozen=True)
class Case:
    """One way to die, and how long it may cost."""

    name: str
    limit: float
    measure: Callable[[Killer, int], Waits]


CASES = (
    Case("killed between look and act", OUTCOME_SECONDS, lambda killer, kills: killer.in_the_middle("looked", kills)),
    Case(
        "killed having taken a job, before starting it",
        OUTCOME_SECONDS,
        lambda killer, kills: killer.in_the_middle("taken", kills),
    ),
    Case(
        "killed having started a job, before looking",
        OUTCOME_SECONDS,
        lambda killer, kills: killer.in_the_middle("opened", kills),
    ),
    Case(
        "on its node, killed between look and act",
        OUTCOME_SECONDS,
        lambda killer, kills: killer.in_the_middle("looked", kills, **ON_ITS_NODE),
    ),
    Case(
        "on its node, killed having taken a job, before starting it",
        OUTCOME_SECONDS,
        lambda killer, kills: killer.in_the_middle("taken", kills, **ON_ITS_NODE),
    ),
    Case("retry due, who scheduled it and looked last killed", RETRY_SECONDS, Killer.before_a_retry),
    Case("retry due, all workers killed and one started", RETRY_SECONDS, Killer.all_before_a_retry),
)


def main() -> int:
    """Read what is asked for, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.recovery", description=__doc__)
    parser.add_argument("--kills", type=int, default=os.environ.get("KILLS", "20"), help="how many of each kind")
    parser.add_argument("--seed", type=int, default=1, help="what chance is made of")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--report", type=Path, default=Path("chaos-report"), help="where the report is written")
    arguments = parser.parse_args()
    prepare()
    found: dict[str, Any] = {}
    with MeasuredStage() as stage:
        stage.cluster.add_subnet()
        gateways = [f"gw-{number}" for number in range(arguments.kills)]
        for gateway in gateways:
            stage.cluster.add_gateway(gateway)
        facts: dict[str, Any] = {"machine": machine(stage.work_queue.redis)}
        killer = Killer(stage, gateways, arguments.seed)
        for case in CASES:
            if arguments.only in case.name:
                found[case.name] = judged(case.limit, case.measure(killer, arguments.kills))
                sys.stdout.write(row(case.name, found[case.name]))
                sys.stdout.flush()
    facts["settings"] = {
        "product": "defaults",
        "kills": arguments.kills,
        "seed": arguments.seed,
        "workers that run on": SURVIVORS,
        "kills one after another": BATCH,
        "seconds between kills": f"0 … {BETWEEN_KILLS:g}",
        "seconds until a job is taken as lost": PATIENCE,
    }
    facts["kept"] = all(case["kept"] for case in found.values())
    write_json(arguments.report / "recovery.json", {**facts, "cases": found})
    sys.stdout.write(f"report: {arguments.report / 'recovery.json'}\n")
    return 0 if facts["kept"] else 1


def row(name: str, case: dict[str, Any]) -> str:
    """A case in one line of the table, and what Redis showed in others."""
    longest = "-" if case["longest"] is None else f"{case['longest']:.2f}"
    line = (
        f"{'kept  ' if case['kept'] else 'BROKEN'} {name:60} {case['count']:3} times"
        f"   median {case['median']:6.2f} s   p95 {case['p95']:6.2f} s   longest {longest:>6} s"
        f"   allowed {case['limit']:g} s{'   lost: ' + str(case['lost']) if case['lost'] else ''}\n"
    )
    return line + "".join(f"{'':10}{count:3} times: {place}\n" for place, count in case["found"].items())


if __name__ == "__main__":
    sys.exit(main())
