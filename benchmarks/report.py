"""Results as a table for the terminal and as `results.md`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

FINDINGS = Path(__file__).parent / "findings.md"
"""What figures alone do not tell: what the floor is made of, what helped, what did not."""

HEAD = """# How fast

Written by `make bench` from [{directory}/results.json]({directory}/results.json), which has every single value.
Each case runs ours and its peers ([peers](peers)) in turn, several times, on real parts: a Redis protocol server, the
sandbox's Kubernetes API, gateways in network namespaces of this kernel, processes where a process is what is measured.
An exec waits {exec} ms before its command begins, as on a real kubelet; nothing else waits. Ratios are taken within one
turn; shown are their median and, in brackets, the lowest and the highest.

    make bench                    # all of it, a quarter of an hour
    make bench CASES="single job" # some of it
    make bench-check              # before a release: quick, and fails where a ratio is beyond its limit

Cases: {cases}.

"""


def table(results: dict[str, Any]) -> str:
    """The ratios of all cases, for a terminal."""
    lines = []
    for name, case in results["cases"].items():
        lines.append(f"{name}: {case['question']}  ({case['took, s']:g} s)")
        for side, values in case["sides"].items():
            lines.append(f"    {side:60} {_number(values['median'])} {case['unit']}  ({_spread(values)})")
        lines += [
            f"  {_verdict(ratio):8} {ratio['name']:60} {_number(ratio['median'])} {ratio['unit']}  ({_spread(ratio)})"
            f"{_target(ratio)}"
            for ratio in case["ratios"]
        ]
    return "\n".join(lines) + "\n"


def write_report(file: Path, results: dict[str, Any], pictures: dict[str, str], directory: str) -> None:
    """Write `results.md`."""
    cases = results["cases"]
    text = HEAD.format(directory=directory, exec=65, cases=", ".join(f"`{name}`" for name in cases))
    text += "## What was to be reached\n\n| | case | figure | target | reached |\n| --- | --- | --- | --- | --- |\n"
    number = 0
    for name, case in cases.items():
        for ratio in case["ratios"]:
            if ratio["target"] is not None:
                number += 1
                text += (
                    f"| {number} | {name}: {ratio['name']} | {_figure(ratio)} | {_target(ratio).strip(' ,')} | "
                    f"{'yes' if ratio['reached'] else '**no**'} |\n"
                )
    text += "\n" + FINDINGS.read_text()
    for name, case in cases.items():
        text += f"\n## {name}\n\n{case['question']}\n\n"
        if name in pictures:
            text += f"![{name}]({directory}/{pictures[name]})\n\n"
        text += "| side | median | p99 | lowest … highest | values |\n| --- | --- | --- | --- | --- |\n"
        for side, values in case["sides"].items():
            text += (
                f"| {side} | {_number(values['median'])} {case['unit']} | {_number(values['p99'])} | {_spread(values)} "
                f"| {values['count']} |\n"
            )
        text += "\n| ratio | median (lowest … highest) | target |\n| --- | --- | --- |\n"
        for ratio in case["ratios"]:
            text += f"| {ratio['name']} | {_figure(ratio)} | {_target(ratio).strip(' ,') or '-'} |\n"
        text += _facts(case["facts"])
        text += f"\n{_machine(case['machine'])}\n"
    file.write_text(text)


def _facts(facts: dict[str, Any]) -> str:
    """Tables of what is told by name, lines of the rest."""
    text = ""
    flat = {name: value for name, value in facts.items() if not isinstance(value, dict)}
    if flat:
        text += "\n" + "; ".join(f"{name}: {value}" for name, value in flat.items()) + ".\n"
    tables = {name: value for name, value in facts.items() if isinstance(value, dict)}
    nested = {name: value for name, value in tables.items() if all(isinstance(each, dict) for each in value.values())}
    for name, rows in nested.items():
        text += f"\n{name}:\n\n" + _rows(rows)
    plain = {name: value for name, value in tables.items() if name not in nested}
    if plain:
        text += "\n" + _rows(plain)
    return text


def _rows(rows: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    text = "| | " + " | ".join(columns) + " |\n" + "| --- " * (len(columns) + 1) + "|\n"
    for name, row in rows.items():
        text += f"| {name} | " + " | ".join(str(row.get(column, "-")) for column in columns) + " |\n"
    return text


def _machine(facts: dict[str, Any]) -> str:
    load = ", ".join(map(str, facts["load when it began"]))
    speed = facts["a million additions before and after, ms"]
    return (
        f"*{facts['date']}: {facts['cores']} cores of {facts['processor']}, {facts['memory GiB']} GiB, "
        f"{facts['kernel']}, "
        f"Python {facts['python']}, {facts['server']}; load when it began {load}; a million additions in "
        f"Python, before and after, {statistics.median(speed):.0f} ms ({min(speed):.0f} … {max(speed):.0f}).*"
    )


def _figure(ratio: dict[str, Any]) -> str:
    return f"{_number(ratio['median'])} {ratio['unit']} ({_spread(ratio)})"


def _spread(values: dict[str, Any]) -> str:
    return f"{_number(values['lowest'])} … {_number(values['highest'])}"


def _number(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _target(ratio: dict[str, Any]) -> str:
    if ratio["target"] is None:
        return ""
    return f", {'≥' if ratio['better'] == 'higher' else '≤'} {ratio['target']:g} {ratio['unit']}"


def _verdict(ratio: dict[str, Any]) -> str:
    return {True: "reached", False: "MISSED", None: ""}[ratio["reached"]]
