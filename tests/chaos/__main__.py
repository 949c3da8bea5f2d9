"""One run: `python -m tests.chaos`, sized by the environment or by flags. The exit status is 1 for a broken promise."""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from sandbox.privileges import require_rights
from tests.chaos.judge import Verdict
from tests.chaos.product import MUTATIONS
from tests.chaos.script import WEIGHTS
from tests.chaos.torture import Plan, judged, torture


def main() -> int:
    """Read what is asked for, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for name, default, what in (
        ("eips", 300, "EIPs to create"),
        ("gateways", 6, "gateways they are on"),
        ("minutes", 2, "how long faults strike"),
        ("seed", 1, "what the script of faults comes from"),
    ):
        value = os.environ.get(name.upper(), default)
        parser.add_argument(f"--{name}", type=float if name == "minutes" else int, default=value, help=what)
    parser.add_argument("--pause", type=float, default=4.0, help="mean seconds between two faults")
    parser.add_argument("--slow", type=float, default=0.2, help="how many acts of workers begin late, of 1")
    parser.add_argument(
        "--only", nargs="+", choices=WEIGHTS, default=tuple(WEIGHTS), metavar="FAULT", help="let only these strike"
    )
    parser.add_argument("--without", choices=MUTATIONS, default="", help="switch a safeguard of the product off")
    parser.add_argument("--report", type=Path, default=Path("chaos-report"), help="where the report is written")
    parser.add_argument("--keep", action="store_true", help="keep logs and evidence beside the report")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only judge once more what --keep kept of a run")
    arguments = parser.parse_args()
    if arguments.again:
        return _told(*judged(pickle.loads(arguments.again.read_bytes()), arguments.report), arguments.report)
    require_rights()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = Plan(
        seed=arguments.seed,
        eips=arguments.eips,
        gateways=arguments.gateways,
        minutes=arguments.minutes,
        pause=arguments.pause,
        kinds=tuple(arguments.only),
        slow=arguments.slow,
        without=arguments.without,
    )
    return _told(*torture(plan, arguments.report, keep=arguments.keep), arguments.report)


def _told(verdict: Verdict, facts: dict[str, Any], reports: Path) -> int:
    told = {name: value for name, value in facts.items() if name not in ("script", "settings", "violations")}
    for name, value in told.items():
        sys.stdout.write(f"{name:42}{value}\n")
    for violation in facts["violations"][:50]:
        sys.stdout.write(f"{violation['at']:8.1f} s  {violation['kind']}: {violation['gateway']} {violation['what']}\n")
    sys.stdout.write(f"report: {reports / 'report.html'}\n")
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main())
