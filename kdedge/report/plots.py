"""The report's plots, as SVG text that stands in the page itself and loads nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdedge.artifact import Cell
from kdedge.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#3b6fb6", "#c8623a", "#4c9a6a", "#8a5fb0", "#b08a2e", "#5b6675")
_MARKERS = {"fp32": "o", "fp16": "s", "int8": "D", "int8-dynamic": "^", "int8-weights": "v", "mixed": "P"}


def pareto(cells: Sequence[Cell], metric: str) -> str:
    """The task metric against latency, with both intervals: one point a cell that was measured for real; "" where there is none."""
    shown = [cell for cell in cells if not cell.proxy and "latency_median" in cell.latency.figures and "metric" in cell.fidelity.figures]
    if not shown:
        return ""
    figure, axes = _figure()
    targets = sorted({cell.artifact.target for cell in shown})
    for cell in shown:
        x, y = cell.latency.figures["latency_median"], cell.fidelity.figures["metric"]
        axes.errorbar(
            x.value,
            y.value * 100,
            xerr=_error(x.value, x.low, x.high, 1.0),
            yerr=_error(y.value, y.low, y.high, 100.0),
            fmt=_MARKERS.get(cell.artifact.precision, "o"),
            color=_COLOURS[targets.index(cell.artifact.target) % len(_COLOURS)],
            capsize=2,
            linewidth=1,
            markersize=6,
            label=f"{cell.artifact.target} {cell.artifact.precision}" + (f" on {cell.device}" if len({c.device for c in shown}) > 1 else ""),
        )
    axes.set_xlabel("median latency, ms (batch as shipped)")
    axes.set_ylabel(f"{metric}, %")
    axes.set_xlim(left=0)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _error(value: float, low: float | None, high: float | None, scale: float) -> list[list[float]] | None:
    if low is None or high is None:
        return None
    return [[max(value - low, 0.0) * scale], [max(high - value, 0.0) * scale]]


def _figure() -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("matplotlib", "report", "the report") from error
    # A Figure of its own, not pyplot: no global state and no display.
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text as text and fixed ids: small, searchable, and the same bytes for the same figures.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdedge", "font.family": "sans-serif", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
