"""The pairs of a check in plain characters: one line a pair, a dot where its slow-down lies, with the margin marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdedge.estimate import Estimate
from kdedge.latency.effect import percent
from kdedge.latency.pairs import Pair
from kdedge.latency.verdicts import CheckVerdict, MetricTest

WIDTH = 61
MOST_ROWS = 40
_LEFT = 8  # characters in front of the line: number and order of a pair


def text_plot(verdict: CheckVerdict, test: MetricTest, width: int = WIDTH) -> tuple[str, ...]:
    """Lines of equal meaning and fixed width, ASCII alone; none where no pair counts. Of many pairs, forty that lie evenly among them."""
    pairs = [pair for pair in verdict.pairs if pair.number in set(verdict.counted)]
    values = [percent(ratio) for pair in pairs if (ratio := pair.log_ratio(test.metric)) is not None]
    if not values or len(values) != len(pairs):
        return ()
    margin = 100 * verdict.rule.margin
    low, high = _reach(values, margin)
    line = _Line(low, high, margin, width)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_ROWS)).round().astype(int))
    rows = [f"{_pair_name(pairs[place])}{line.dot(values[place])}" for place in chosen]
    more = (f"{len(chosen)} of {len(pairs)} pairs are drawn",) if len(chosen) < len(pairs) else ()
    ends = f"{low:+.1f} %".ljust(width - 8) + f"{high:+.1f} %".rjust(8)
    return (
        f"{'':{_LEFT}}{ends}".rstrip(),
        *rows,
        f"{'effect':{_LEFT}}{line.interval(test.effect)}",
        *more,
        f"o a pair, | no change, : the margin of {margin:g} %, [o] the effect with its 95 % interval",
    )


class _Line:
    """A scale from `low` to `high` percent on `width` characters."""

    def __init__(self, low: float, high: float, margin: float, width: int) -> None:
        self.low, self.high, self.margin, self.width = low, high, margin, width

    def dot(self, value: float) -> str:
        """A value on the scale; an arrow at its end where it lies outside."""
        return self._drawn({self._place(value): "<" if value < self.low else ">" if value > self.high else "o"})

    def interval(self, effect: Estimate) -> str:
        marks = {}
        if effect.interval is not None:
            first, last = (self._place(end) for end in effect.interval)
            marks = {**dict.fromkeys(range(first, last + 1), "-"), first: "[", last: "]"}
        return self._drawn({**marks, self._place(effect.value): "o"})

    def _drawn(self, marks: dict[int, str]) -> str:
        under = {self._place(0.0): "|", self._place(self.margin): ":"}
        return "".join({**under, **marks}.get(place, " ") for place in range(self.width)).rstrip()

    def _place(self, value: float) -> int:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(share * (self.width - 1))


def _reach(values: Sequence[float], margin: float) -> tuple[float, float]:
    """From below zero to above the margin, with most pairs within; a single far one must not press the others together."""
    inner = [float(value) for value in np.quantile(values, [0.1, 0.9])]
    low, high = min(0.0, inner[0]), max(margin, inner[1])
    beyond = 0.25 * (high - low)
    return low - beyond, high + beyond


def _pair_name(pair: Pair) -> str:
    return f"{pair.number + 1:>4} {pair.order} "
