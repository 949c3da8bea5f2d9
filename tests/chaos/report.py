"""What a run found, for programs (JSON) and for people (one HTML page with a timeline)."""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import Any

from tests.chaos.evidence import FOREVER, Evidence
from tests.chaos.judge import QUIET_SECONDS, RACE_SECONDS, STRUCK_SECONDS, Verdict, leaked_over_time
from tests.chaos.parts import SETTINGS, Sizes
from tests.chaos.script import Fault
from tests.chaos.witness import outcomes
from tests.chaos.world import Told

WIDTH, ROW, LEFT, LABEL = 1400, 18, 190, 60
STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:1440px;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:2px 12px 2px 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}h1 .bad{color:#b00}h1 .good{color:#070}
svg text{font-size:11px}.columns{display:flex;flex-wrap:wrap;gap:3em}"""
COLOURS = ("#4e79a7", "#f28e2b", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#59a14f", "#ff9da7")


def summary(
    seed: int, sizes: Sizes, faults: list[Fault], told: Told, evidence: Evidence, verdict: Verdict
) -> dict[str, Any]:
    """Everything worth keeping of a run."""
    leaks = [until - since for since, until in verdict.leaks]
    gone = sum(life.gone < FOREVER for life in evidence.lives)
    return {
        "seed": seed,
        "sizes": asdict(sizes),
        "settings": SETTINGS,
        "began": told.began,
        "minutes": round((evidence.end - told.began) / 60, 1),
        "kept": verdict.kept,
        "violations": [{**asdict(each), "at": round(each.at - told.began, 2)} for each in verdict.violations],
        "eips": {"created": told.created, "deleted": gone, "events": told.events},
        "removals": verdict.removals,
        "outcomes": outcomes(evidence.works),
        "faults": dict(sorted(told.struck.items())),
        "races": dict(sorted(verdict.races.items())),
        "seconds leaked": _spread(leaks),
        "seconds owners were without their address": {
            name: _spread([each.seconds for each in verdict.absences if (each.kind, each.struck) == (kind, struck)])
            for kind in ("between look and act", "hidden moment", "wrong decision")
            for struck in (False, True)
            if (name := kind + (", struck" if struck else ""))
        },
        "quiet after": round(evidence.end - evidence.quiet, 1),
        "script": [fault.as_dict() for fault in faults],
    }


def write(directory: Path, facts: dict[str, Any], told: Told, evidence: Evidence, verdict: Verdict) -> None:
    """Write `report.json` and `report.html`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(facts, indent=2) + "\n")
    (directory / "report.html").write_text(_page(facts, told, evidence, verdict))


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    hundredths = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    found = {"median": hundredths[49], "p95": hundredths[94], "p99": hundredths[98], "longest": max(values)}
    return {"count": len(values), **{name: round(value, 3) for name, value in found.items()}}


def _page(facts: dict[str, Any], told: Told, evidence: Evidence, verdict: Verdict) -> str:
    kept = "Every promise was kept." if facts["kept"] else f"{len(verdict.violations)} promises were broken."
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>eip-reclaimer: chaos</title><style>",
        STYLE + "</style>",
        f"<h1>Seed {facts['seed']}: <span class={'good' if facts['kept'] else 'bad'}>{kept}</span></h1>",
        _introduction(facts, evidence),
        _violations(facts),
        _timeline(facts, told, evidence, verdict),
        "<div class=columns>",
        _table("Faults that struck", facts["faults"]),
        _table("Races that were run", facts["races"]),
        _table("Outcomes", facts["outcomes"]),
        _table("Seconds leaked", facts["seconds leaked"]),
        *(
            _table(f"Seconds without address: {name}", values)
            for name, values in facts["seconds owners were without their address"].items()
        ),
        "</div></html>",
    ]
    return "\n".join(parts)


def _introduction(facts: dict[str, Any], evidence: Evidence) -> str:
    sizes, eips = facts["sizes"], facts["eips"]
    return (
        f"<p>{eips['created']} EIPs created and {eips['deleted']} deleted on {sizes['gateways']} gateways in "
        f"{facts['minutes']} minutes, with {sizes['producers']} producers and {sizes['workers']} workers; "
        f"{facts['removals']} addresses removed. Allowed are: an owner without its address {RACE_SECONDS:g} s in a race, "
        f"the lock's {evidence.lock_life:g} s + {STRUCK_SECONDS:g} s where the worker was struck inside it; nothing "
        f"leaked {QUIET_SECONDS:g} s after the last fault.</p>"
    )


def _table(title: str, rows: dict[str, Any]) -> str:
    cells = "".join(f"<tr><td>{html.escape(str(name))}<td class=n>{value}" for name, value in rows.items())
    return f"<div><h2>{html.escape(title)}</h2><table>{cells}</table></div>"


def _violations(facts: dict[str, Any]) -> str:
    if facts["kept"]:
        return ""
    counts = Counter(each["kind"] for each in facts["violations"])
    rows = "".join(
        f"<tr><td class=n>{each['at']:.1f}<td>{each['kind']}<td>{each['gateway']}<td>{html.escape(each['what'])}"
        for each in facts["violations"][:200]
    )
    said = ", ".join(f"{kind}: {count}" for kind, count in counts.most_common())
    return f"<h2>Broken promises</h2><p>{said}<table><tr><th>second<th>what<th>where<th>how{rows}</table>"


def _timeline(facts: dict[str, Any], told: Told, evidence: Evidence, verdict: Verdict) -> str:
    seconds = evidence.end - told.began
    scale = (WIDTH - LEFT) / seconds

    def x(at: float) -> float:
        return round(LEFT + (at - told.began) * scale, 1)

    shapes: list[str] = []
    row = 0
    for colour, kind in zip(cycle(COLOURS), sorted({fault["kind"] for fault in facts["script"]}), strict=False):
        y = row * ROW
        shapes.append(f"<text x=0 y={y + 13}>{kind}</text>")
        for fault in facts["script"]:
            if fault["kind"] == kind:
                width = max(2.0, fault["seconds"] * scale)
                title = f"{fault['at']} s, for {fault['seconds']} s, target {fault['target']}, {fault['detail']}"
                shapes.append(
                    f"<rect x={x(told.began + fault['at'])} y={y + 3} width={width:.1f} height={ROW - 6} fill='{colour}'>"
                    f"<title>{html.escape(title)}</title></rect>"
                )
        row += 1
    leaked = list(leaked_over_time(verdict))
    queue = [(at, sum(found.values())) for at, found in told.queue]
    for name, points, colour in (("leaked addresses", leaked, "#e15759"), ("jobs not finished", queue, "#4e79a7")):
        top = row * ROW + 8
        highest = max((value for _, value in points), default=0) or 1
        line = " ".join(f"{x(at)},{top + 60 - 60 * value / highest:.1f}" for at, value in points)
        shapes.append(f"<text x=0 y={top + 12}>{name}</text><text x=0 y={top + 26}>(at most {highest})</text>")
        shapes.append(f"<polyline points='{line}' fill=none stroke='{colour}'/>")
        row += 4
    y = row * ROW + 12
    shapes.append(f"<text x=0 y={y + 4}>owner without address</text>")
    for absence in verdict.absences:
        colour = "#e15759" if absence.kind == "wrong decision" else "#f28e2b" if absence.struck else "#59a14f"
        title = f"{absence.life.name} {absence.life.address}: {absence.seconds:.3f} s, {absence.kind}"
        shapes.append(f"<circle cx={x(absence.since)} cy={y} r=4 fill='{colour}'><title>{title}</title></circle>")
    row += 1
    bottom = row * ROW
    for violation in facts["violations"]:
        place = x(told.began + violation["at"])
        shapes.append(f"<line x1={place} x2={place} y1=0 y2={bottom} stroke='#b00'/>")
    shapes += [
        f"<text x={x(told.began + minute * 60)} y={bottom + 24} fill='#777'>{minute} min</text>"
        for minute in range(0, int(seconds // 60) + 1, math.ceil(LABEL / 60 / scale))
    ]
    height = row * ROW + 30
    return f"<h2>Timeline</h2><svg viewBox='0 0 {WIDTH} {height}' width='100%'>{''.join(shapes)}</svg>"
