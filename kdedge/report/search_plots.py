"""The plots of a search: its progress, what mattered, and the surface over alpha and temperature. As SVG that stands in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdedge.distill.candidates import ALPHA, ALPHAS, LOSS, STANDARDIZE, TEMPERATURE, TEMPERATURES
from kdedge.distill.tuning import TrialRecord, Tuning
from kdedge.estimate import FRACTION
from kdedge.report.plots import COLOURS, INK, inline, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]

_MARKERS = {("kd", False): "o", ("kd", True): "D", ("dkd", False): "s", ("dkd", True): "P", ("dist", False): "^"}
# How far a trial speaks for its neighbours, as a share of the logarithmic axes.
_REACH = 0.12
_FEWEST = 5  # complete trials below which a surface would be invented
_GRID = 40


def best_so_far(tuning: Tuning, name: str, size: tuple[float, float]) -> str:
    """The held-out figure of each trial by its number, and the best complete one so far as a line."""

    def draw(figure: Figure) -> None:
        axes, scale, unit = plain_axes(figure), *_scale(tuning)
        shown = [trial for trial in tuning.trials if trial.value is not None]
        for trial in shown:
            _point(axes, trial.number, (trial.value or 0.0) * scale, COLOURS[0], trial, "o")
        complete = [trial for trial in shown if trial.outcome == "complete"]
        best = np.maximum.accumulate([(trial.value or 0.0) * scale for trial in complete])
        # As far as the last trial: what nobody beat is still the best.
        reach = [trial.number for trial in (*complete, *(shown[-1:] if complete else ()))]
        axes.step(reach, [*best, *best[-1:]], where="post", color=INK, alpha=0.6, linewidth=1.2)
        if tuning.own is not None and tuning.own.value is not None:
            axes.axhline(tuning.own.value * scale, color=INK, alpha=0.6, linewidth=1, linestyle=(0, (1.5, 2)), label="the recipe's own losses")
            axes.legend(frameon=False, loc="best")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{tuning.metric} on held-out examples{unit}")

    return inline(draw, name, size)


def importance_bars(importances: Mapping[str, float], name: str, size: tuple[float, float]) -> str:
    """One bar for each searched choice, the largest on top."""

    def draw(figure: Figure) -> None:
        axes = plain_axes(figure)
        ordered = sorted(importances.items(), key=lambda item: (item[1], item[0]))
        bars = axes.barh([key for key, _ in ordered], [100 * share for _, share in ordered], color=COLOURS[0], height=0.6)
        axes.bar_label(bars, fmt="%.0f %%", padding=4)
        axes.set_xlim(0, 110)
        axes.set_xlabel("share of what sets good trials apart, %")

    return inline(draw, name, (size[0], min(size[1], 3.0)))


def surface(tuning: Tuning, name: str, size: tuple[float, float]) -> str:
    """Alpha against temperature, both logarithmic: a point a trial, hollow where it was given up, over the smoothed figure."""

    def draw(figure: Figure) -> None:
        axes, scale, unit = plain_axes(figure), *_scale(tuning)
        shown = [trial for trial in tuning.trials if ALPHA in trial.parameters and trial.value is not None]
        complete = [trial for trial in shown if trial.outcome == "complete"]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(ALPHAS[0] * 0.8, ALPHAS[1] * 1.25)
        axes.set_ylim(TEMPERATURES[0] * 0.9, TEMPERATURES[1] * 1.1)
        values = np.array([(trial.value or 0.0) * scale for trial in complete])
        if len(complete) >= _FEWEST and float(np.ptp(values)) > 0:
            alphas, temperatures, heights = smoothed(complete, values)
            filled = axes.contourf(alphas, temperatures, heights, levels=8, cmap="YlGnBu", alpha=0.55, zorder=0)
            figure.colorbar(filled, ax=axes, label=f"{tuning.metric}{unit}", pad=0.02)
        for kind, marker in _MARKERS.items():
            of_kind = [trial for trial in shown if (trial.parameters[LOSS], bool(trial.parameters.get(STANDARDIZE, False))) == kind]
            label = f"{kind[0]}{', standardised' if kind[1] else ''}"
            for place, trial in enumerate(of_kind):
                x, y = trial.parameters[ALPHA], trial.parameters[TEMPERATURE]
                _point(axes, x, y, INK, trial, marker, label if place == 0 else None)
        if tuning.best is not None and ALPHA in tuning.best.parameters:
            best = tuning.best.parameters
            axes.plot([best[ALPHA]], [best[TEMPERATURE]], "o", markersize=15, markerfacecolor="none", color=COLOURS[1], label="best", zorder=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        axes.set_xlabel("alpha: teacher's weight over labels'")
        axes.set_ylabel("temperature")
        if shown:
            figure.legend(loc="outside lower center", fontsize=9, frameon=False, ncols=6 if size[0] > size[1] else 2)

    return inline(draw, name, size)


def smoothed(trials: Sequence[TrialRecord], values: Float64) -> tuple[Float64, Float64, Float64]:
    """(alphas [g], temperatures [g], heights [g, g]): at each place the mean of the trials' values, weighed by a Gaussian of their distance on
    the logarithmic axes (Nadaraya 1964)."""
    alphas, temperatures = np.geomspace(*ALPHAS, _GRID), np.geomspace(*TEMPERATURES, _GRID)
    distance = np.zeros((_GRID, _GRID, len(trials)))
    for axis, (grid, bounds, key) in enumerate(((temperatures, TEMPERATURES, TEMPERATURE), (alphas, ALPHAS, ALPHA))):
        span = np.log(bounds[1] / bounds[0])
        steps = (np.log(grid)[:, None] - np.log([trial.parameters[key] for trial in trials])[None, :]) / span / _REACH
        distance += np.expand_dims(steps**2, 1 - axis)
    # The nearest trial counts 1, so that a place far from all is not 0/0.
    weights = np.exp(-0.5 * (distance - distance.min(axis=2, keepdims=True)))
    return alphas, temperatures, (weights * values).sum(axis=2) / weights.sum(axis=2)


def _point(axes: Any, x: float, y: float, colour: str, trial: TrialRecord, marker: str, label: str | None = None) -> None:
    hollow = trial.outcome != "complete"
    axes.plot([x], [y], marker, markersize=6, color=colour, markerfacecolor="none" if hollow else colour, linestyle="none", label=label, zorder=3)


def _scale(tuning: Tuning) -> tuple[float, str]:
    percent = tuning.best_score is not None and tuning.best_score.unit == FRACTION
    return (100.0, ", %") if percent else (1.0, "")
