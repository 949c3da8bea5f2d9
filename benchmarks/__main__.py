"""The benchmarks: `python -m benchmarks [CASE …] [--quick] [--check] [--report DIR]`, or `make bench`.

Each case runs ours and its peers side by side, and its figures go into DIR/results.json, whose cases that are not asked
for stay as they are; beside it pictures, and DIR/../results.md is written from it. `--check` is the regression check:
quick, and the exit status is 1 where a ratio is beyond its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.field import Field
from benchmarks.harness import Case, described, million_additions, progress
from benchmarks.plots import draw
from benchmarks.report import table, write_report
from tests.measuring import prepare, write_json

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what is asked for, and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(case.name for case in CASES))
    parser.add_argument("--quick", action="store_true", help="fewer turns, smaller numbers")
    parser.add_argument("--check", action="store_true", help="quick; fail where a ratio is beyond its limit")
    parser.add_argument("--report", type=Path, help="where results go; without it only shown with --quick or --check")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    quick = arguments.quick or arguments.check
    report = arguments.report or (None if quick else RESULTS)
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    prepare()
    found = run(chosen, report, quick=quick)
    sys.stdout.write(table(found))
    beyond = [
        f"{name}: {ratio['name']}"
        for name, case in found["cases"].items()
        for ratio in case["ratios"]
        if ratio["within limit"] is False
    ]
    if arguments.check and beyond:
        sys.stdout.write("beyond the limit:\n" + "".join(f"  {each}\n" for each in beyond))
        return 1
    return 0


def run(cases: list[Case], report: Path | None, *, quick: bool) -> dict[str, Any]:
    """The results of some cases, as JSON types; each is kept as soon as it is there."""
    found: dict[str, Any] = {}
    with Field() as field:
        for case in cases:
            progress(f"{case.name}: {case.question}")
            facts: dict[str, Any] = described(field.work_queue.redis)
            speed = million_additions()
            began = time.monotonic()
            measured = case.measure(field, quick).to_json()
            seconds = round(time.monotonic() - began, 1)
            facts["a million additions before and after, ms"] = speed + million_additions()
            found[case.name] = {"question": case.question, "took, s": seconds, "machine": facts, **measured}
            field.exec_latency(0)
            if report is not None:
                keep({"cases": {case.name: found[case.name]}}, report)
    return {"cases": found}


def keep(found: dict[str, Any], directory: Path) -> None:
    """Write results, pictures and the report; what other cases found before stays."""
    file = directory / "results.json"
    before = json.loads(file.read_text())["cases"] if file.exists() else {}
    cases = {case.name: ({**before, **found["cases"]}).get(case.name) for case in CASES}
    results = {"cases": {name: case for name, case in cases.items() if case is not None}}
    write_json(file, results)
    pictures = draw(directory, results)
    write_report(directory.parent / "results.md", results, pictures, directory.name)


if __name__ == "__main__":
    sys.exit(main())
