"""Results as pictures, one per case; the same results give the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(directory: Path, results: dict[str, Any]) -> dict[str, str]:
    """Draw every case; by its name, the picture's file name."""
    drawn = {}
    # Without these the files would differ from one time to the next.
    with mpl.rc_context({"svg.hashsalt": "eip-reclaimer", "font.size": 8, "svg.fonttype": "none"}):
        for name, case in results["cases"].items():
            drawn[name] = f"{name}.svg"
            _draw_case(directory / drawn[name], case)
    return drawn


def _draw_case(file: Path, case: dict[str, Any]) -> None:
    """Every value of every side as a dot, and its median as a bar."""
    sides = list(case["sides"])[::-1]
    figure = Figure(figsize=(8, 0.8 + 0.42 * len(sides)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, side in enumerate(sides):
        found = case["sides"][side]
        colour = "C0" if side.startswith(("ours", "1 worker", "4 workers")) else "0.6"
        axes.barh(place, found["median"], height=0.55, color=colour, alpha=0.55)
        axes.plot(found["values"], [place] * len(found["values"]), ".", color="black", markersize=2.5, alpha=0.5)
        axes.annotate(f" {found['median']:.3g}", (found["highest"], place), va="center", fontsize=7)
    axes.set_yticks(range(len(sides)), sides)
    lowest = min(found["lowest"] for found in case["sides"].values())
    highest = max(found["highest"] for found in case["sides"].values())
    if highest / lowest > 20:
        axes.set_xscale("log")
        axes.set_xlim(lowest / 2, highest * 2)
    axes.set_xlabel(f"{case['unit']}; bars are medians, dots are single values")
    axes.grid(visible=True, axis="x", linewidth=0.3)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
