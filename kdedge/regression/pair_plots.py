"""The drawings of a check's page: pairs, effects, power and launches, as SVG in the report's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdedge.estimate import Estimate
from kdedge.latency.check import Checked
from kdedge.latency.effect import percent
from kdedge.latency.pairs import Order, Pair
from kdedge.latency.power import POWER, power_curve
from kdedge.latency.verdicts import CheckVerdict, MetricTest
from kdedge.regression.wording import METRICS
from kdedge.report.layout import Plot
from kdedge.report.plots import COLOURS, INK, inline, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDE, _NARROW = (10.4, 3.6), (4.6, 3.8)
_ORDERS: dict[Order, str] = {"AB": "baseline first", "BA": "candidate first"}
_BASELINE, _CANDIDATE, _EDGE = COLOURS[0], COLOURS[1], COLOURS[6]


def pairs_plot(checked: Checked, test: MetricTest, name: str) -> Plot | None:
    """Each pair's slow-down beside the margin, the effect with its interval behind them; None where no pair has one."""
    shown = [(pair, percent(ratio)) for pair in checked.verdict.pairs if (ratio := pair.log_ratio(test.metric)) is not None]
    if not shown:
        return None
    return _twice(
        f"{name}-pairs",
        lambda figure: _draw_pairs(figure, shown, checked.verdict, test),
        f"Slow-down of each pair by its {METRICS[test.metric]}, in the order in which pairs ran",
        f"One mark a pair of launches: how much slower the candidate's {METRICS[test.metric]} was than the baseline's. The band is the "
        "95 % interval of the effect, the dashed line the margin. Hollow marks are pairs that did not count.",
    )


def effects_plot(verdict: CheckVerdict, name: str) -> Plot | None:
    """The effect of each metric with its interval, beside the margin; None where nothing was tested."""
    if not verdict.tests:
        return None
    return _twice(
        f"{name}-effects",
        lambda figure: _draw_effects(figure, verdict),
        "Effect of each metric with its interval, beside the margin",
        "Hodges-Lehmann estimate of the slow-down with its 95 % interval; the thin line is the interval at the level of the tests. Regressed where "
        "the whole thin line lies beyond the margin, equivalent where it ends before it.",
        heights=(1.1 + 0.55 * len(verdict.tests), 1.5 + 0.6 * len(verdict.tests)),
    )


def power_plot(verdict: CheckVerdict, name: str) -> Plot | None:
    """With which chance a slow-down would have been found; None where the noise is not known or so many pairs find nothing."""
    curve = power_curve(verdict.noise, len(verdict.counted), verdict.rule.margin, verdict.rule.looks.share) if verdict.noise else []
    if not curve:
        return None
    return _twice(
        f"{name}-power",
        lambda figure: _draw_power(figure, curve, 100 * verdict.rule.margin),
        "Chance that a slow-down of a given size is found",
        f"What {len(verdict.counted)} pairs find where log ratios are normal with the noise of this check, {100 * (verdict.noise or 0.0):.2f} % "
        "from pair to pair, for one test at its share of alpha. The dotted line marks 80 %.",
    )


def launches_plot(checked: Checked, name: str) -> Plot | None:
    """The median of every launch in the order in which they ran; None where none did."""
    if not checked.launches:
        return None
    return _twice(
        f"{name}-launches",
        lambda figure: _draw_launches(figure, checked),
        "Median latency of every launch, in the order in which they ran",
        "One mark a fresh process. A drift that both share cancels within pairs; hollow marks are launches that did not count.",
    )


def _twice(name: str, draw: Callable[[Figure], None], said: str, caption: str, heights: tuple[float, float] = (_WIDE[1], _NARROW[1])) -> Plot:
    wide = inline(draw, f"{name}-wide", (_WIDE[0], heights[0]))
    return Plot(said, wide, inline(draw, f"{name}-narrow", (_NARROW[0], heights[1])), caption)


def _draw_pairs(figure: Figure, shown: Sequence[tuple[Pair, float]], verdict: CheckVerdict, test: MetricTest) -> None:
    axes = plain_axes(figure)
    _margin(axes.axhline, axes.axhspan, 100 * verdict.rule.margin, test.effect)
    counted = set(verdict.counted)
    for order, said in _ORDERS.items():
        for counts in (True, False):
            some = [(pair.number + 1, value) for pair, value in shown if pair.order == order and (pair.number in counted) == counts]
            if some:
                fill = {} if counts else {"facecolors": "none"}
                label = said if counts else f"{said}, not counted"
                axes.scatter(*zip(*some, strict=True), s=34, color=_BASELINE if order == "AB" else _CANDIDATE, label=label, zorder=3, **fill)
    axes.set_xlabel("pair")
    axes.set_ylabel("slower by, %")
    _whole_numbers(axes, len(verdict.pairs))
    _legend(figure)


def _margin(line: Callable[..., Any], span: Callable[..., Any], margin: float, effect: Estimate | None = None) -> None:
    line(0.0, color=INK, alpha=0.5, linewidth=1)
    line(margin, color=_EDGE, linewidth=1.4, linestyle=(0, (5, 3)), label=f"margin {margin:g} %")
    if effect is not None and effect.interval is not None:
        span(*effect.interval, color=INK, alpha=0.12, linewidth=0)


def _draw_effects(figure: Figure, verdict: CheckVerdict) -> None:
    axes = plain_axes(figure)
    _margin(axes.axvline, axes.axvspan, 100 * verdict.rule.margin)
    for place, test in enumerate(verdict.tests):
        if test.bounds is not None:
            axes.plot(test.bounds, (place, place), color=COLOURS[0], linewidth=1.2)
        if test.effect.interval is not None:
            axes.plot(test.effect.interval, (place, place), color=COLOURS[0], linewidth=5, solid_capstyle="butt", alpha=0.6)
        axes.plot(test.effect.value, place, "o", color=COLOURS[0], markersize=8)
    axes.set_yticks(range(len(verdict.tests)), [METRICS[test.metric].removesuffix(" latency") for test in verdict.tests])
    axes.set_ylim(len(verdict.tests) - 0.5, -0.5)
    axes.set_xlabel("slower by, %")
    _legend(figure)


def _draw_power(figure: Figure, curve: Sequence[tuple[float, float]], margin: float) -> None:
    axes = plain_axes(figure)
    _margin(axes.axvline, axes.axvspan, margin)
    axes.axhline(100 * POWER, color=INK, alpha=0.5, linewidth=1, linestyle=(0, (1.5, 2)))
    axes.plot([size for size, _ in curve], [100 * chance for _, chance in curve], "o-", color=COLOURS[0], linewidth=2, markersize=5, label="found")
    axes.set_xlim(0, max(curve[-1][0], margin) * 1.05)
    axes.set_ylim(0, 103)
    axes.set_xlabel("true slow-down, %")
    axes.set_ylabel("chance to be found, %")
    _legend(figure)


def _draw_launches(figure: Figure, checked: Checked) -> None:
    axes = plain_axes(figure)
    for arm, colour, label in (("A", _BASELINE, "baseline"), ("B", _CANDIDATE, "candidate")):
        for invalid in (False, True):
            some = [
                (place + 1, launch.median_ms)
                for place, launch in enumerate(checked.launches)
                if launch.arm == arm and bool(launch.invalid) == invalid
            ]
            if some:
                fill = {"facecolors": "none"} if invalid else {}
                axes.scatter(*zip(*some, strict=True), s=26, color=colour, label=f"{label}, not counted" if invalid else label, zorder=3, **fill)
    medians = np.array([launch.median_ms for launch in checked.launches])
    spread = max(float(np.ptp(medians)), 0.01 * float(medians.max()))
    axes.set_ylim(float(medians.min()) - 0.15 * spread, float(medians.max()) + 0.15 * spread)
    axes.set_xlabel("launch")
    axes.set_ylabel("median latency, ms")
    _whole_numbers(axes, len(checked.launches))
    _legend(figure)


def _whole_numbers(axes: Any, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.3, count + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside upper left", fontsize=10, frameon=False, ncols=2 if figure.get_figwidth() < _WIDE[0] else 5)
