"""The samples of a soak as one picture; the same samples give the same file."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.soak.growth import WARM_UP
from tests.soak.samples import Samples

MEMORY = ("resident memory, MB",)
PANELS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Resident memory by process, MB", MEMORY, "linear"),
    ("Descriptors, sockets and threads by process", ("descriptors", "sockets", "threads"), "linear"),
    ("Network namespaces", ("namespaces",), "linear"),
    ("Redis keys by kind", ("redis keys",), "symlog"),
    ("Redis entries by kind", ("redis entries",), "symlog"),
    ("Done so far", ("so far",), "linear"),
)
"""Title, kinds of series, and scale."""
LINES = ("-", "--", ":")
COLOURS = 10
LEGEND_LIMIT = 24


def draw(file: Path, samples: Samples) -> None:
    """Draw all series into an SVG file."""
    # Without these the file would differ from one time to the next.
    with mpl.rc_context({"svg.hashsalt": "eip-reclaimer", "font.size": 7, "svg.fonttype": "none"}):
        figure = Figure(figsize=(15, 11), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, kinds, scale) in zip(figure.subplots(3, 2).flat, PANELS, strict=True):
            _panel(axes, samples, title, kinds, scale)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, samples: Samples, title: str, kinds: tuple[str, ...], scale: str) -> None:
    minutes = [seconds / 60 for seconds in samples.seconds]
    for line, kind in zip(LINES, kinds, strict=False):
        # What there is but one of says nothing in a picture.
        shown = {name: values for name, values in samples.series.get(kind, {}).items() if max(values) > 1}
        for number, (name, values) in enumerate(sorted(shown.items())):
            label = name if len(kinds) == 1 else f"{name}: {kind}"
            style = line if len(kinds) > 1 else LINES[number // COLOURS % len(LINES)]
            axes.plot(minutes, values, style, color=f"C{number % COLOURS}", linewidth=0.9, label=label)
    if minutes:
        axes.axvspan(minutes[0], minutes[0] + (minutes[-1] - minutes[0]) * WARM_UP, color="0.94", zorder=0)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("minutes; grey is the warm-up")
    axes.set_yscale(scale)
    if kinds != MEMORY:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, linewidth=0.3)
    if 0 < len(axes.lines) <= LEGEND_LIMIT:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=6)
