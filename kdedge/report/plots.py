"""The report's plots, as SVG text that stands in the page itself and loads nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdedge.errors import MissingExtra
from kdedge.estimate import FRACTION, Estimate
from kdedge.measured import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f6fc4", "#d0632c", "#3a9a68", "#8d5fc0", "#b08a2e", "#5b7083", "#c0507f")
_MARKERS = {"fp32": "o", "fp16": "s", "int8": "D", "int8-dynamic": "^", "int8-weights": "v", "mixed": "P"}
# Drawn in colours that stand for the page's own (its style sheet knows light and dark), and replaced by their names afterwards.
INK, LINE = "#010203", "#040506"
_NAMED = {INK: "var(--ink)", LINE: "var(--line)"}
# Latencies that differ by more than this share an axis only by their logarithms.
_DECADE = 8.0
WIDE, NARROW = (10.4, 4.2), (4.6, 4.6)  # inches of 72 points


def pareto(cells: Sequence[Cell], scores: Mapping[str, Estimate], metric: str, *, narrow: bool = False) -> str:
    """The task metric against latency, with both intervals: one point a cell that was timed on a device of its target; "" where there is none.

    Faint steps join the points that no other beats in both. `scores` may hold `teacher` and `student`: lines at their height.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    shown = timed(cells)
    if not shown:
        return ""
    return inline(lambda figure: _draw(figure, shown, scores, metric, narrow), "narrow" if narrow else "wide", NARROW if narrow else WIDE)


def inline(draw: Callable[[Figure], None], name: str, size: tuple[float, float]) -> str:
    """What `draw` puts on an empty figure of `size`, as the page holds it. `name` begins all ids: no two plots of a page share one.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingExtra("matplotlib", "report", "the report") from error
    with mpl.rc_context():
        mpl.rcdefaults()  # no person's own style
        mpl.rcParams.update(_SETTINGS)
        mpl.rcParams["svg.hashsalt"] = f"kdedge {name}"
        # A Figure of its own, not pyplot: no global state and no display.
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        return _svg(figure, name)


def plain_axes(figure: Figure) -> Any:
    """Axes in the report's style: nothing behind them, two edges, faint lines."""
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


# Text as text and fixed ids: small, searchable, the same bytes for the same figures. A `$` in a name is no formula.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
}


def timed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have both figures and a right to them: a proxy's latency says nothing about its target."""
    return [cell for cell in cells if not cell.proxy and "latency_median" in cell.latency.figures and "metric" in cell.fidelity.figures]


def _draw(figure: Figure, cells: Sequence[Cell], scores: Mapping[str, Estimate], metric: str, narrow: bool) -> None:
    axes = plain_axes(figure)
    percent = all(cell.fidelity.figures["metric"].unit == FRACTION for cell in cells)
    scale = 100.0 if percent else 1.0
    for name, style in (("teacher", (0, (6, 3))), ("student", (0, (1.5, 2)))):
        if name in scores:
            axes.axhline(scores[name].value * scale, color=INK, alpha=0.6, linewidth=1, linestyle=style, label=f"{name} (float, torch)")
    lines = list(dict.fromkeys((cell.artifact.target, cell.device) for cell in cells))
    several = len({cell.device for cell in cells}) > 1
    for cell in cells:
        _point(axes, cell, scale, COLOURS[lines.index((cell.artifact.target, cell.device)) % len(COLOURS)], several)
    front = _frontier(cells)
    if len(front) > 1:
        axes.step([x for x, _ in front], [y * scale for _, y in front], where="post", color=INK, alpha=0.25, linewidth=1, zorder=1)
    _axes(axes, cells, metric, percent)
    figure.legend(loc="outside lower left" if narrow else "outside right upper", fontsize=10, frameon=False, ncols=1)


def _point(axes: Any, cell: Cell, scale: float, colour: str, several: bool) -> None:
    x, y = cell.latency.figures["latency_median"], cell.fidelity.figures["metric"]
    axes.errorbar(
        x.value,
        y.value * scale,
        xerr=_error(x, 1.0),
        yerr=_error(y, scale),
        fmt=_MARKERS.get(cell.artifact.precision, "o"),
        color=colour,
        capsize=3,
        elinewidth=1.2,
        markersize=7,
        label=f"{cell.artifact.target} {cell.artifact.precision}" + (f" on {cell.device}" if several else ""),
    )


def _axes(axes: Any, cells: Sequence[Cell], metric: str, percent: bool) -> None:
    latencies = [cell.latency.figures["latency_median"].value for cell in cells]
    if min(latencies) > 0 and max(latencies) / min(latencies) > _DECADE:
        from matplotlib.ticker import LogFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=True))
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.7)))
    else:
        axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.03)  # from zero, so that twice as far right is twice as slow
    axes.set_xlabel("median latency of a call, ms")
    unit = cells[0].fidelity.figures["metric"].unit
    axes.set_ylabel(f"{metric}, %" if percent else f"{metric}, {unit}" if unit else metric)


def _frontier(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """(latency, metric) of the cells that no other beats in both, from fast to slow."""
    points = sorted((cell.latency.figures["latency_median"].value, -cell.fidelity.figures["metric"].value) for cell in cells)
    front: list[tuple[float, float]] = []
    for latency, negative in points:
        if not front or -negative > front[-1][1]:
            front.append((latency, -negative))
    return front


def _error(estimate: Estimate, scale: float) -> list[list[float]] | None:
    if estimate.interval is None:
        return None
    low, high = estimate.interval
    return [[max(estimate.value - low, 0.0) * scale], [max(high - estimate.value, 0.0) * scale]]


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as the page holds it: no declarations, no metadata, the page's font and colours, ids that no other plot of the page has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The style would hold for the whole page, which says the same of drawings alone.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r"(font(?:-family)?:(?: [0-9.]+px)?) '[^;\"]*", r"\1 var(--font)", text)
    text = re.sub(r'((?: id|xlink:href)="#?|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, name in _NAMED.items():
        text = text.replace(colour, name)
    return text
