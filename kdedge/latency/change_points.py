"""Where a history of figures changed: E-divisive with a seeded permutation test. A warning with a range of runs, never a gate.

The energy statistic of Matteson and James (2014, J. Am. Stat. Assoc. 109:334) for one number a run, split after split. What is theirs
is the statistic; what makes it believable here is said at each step below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError
from kdedge.latency.effect import percent

Float64 = npt.NDArray[np.float64]

SMALLEST_SEGMENT = 3
PERMUTATIONS = 999
LEVEL = 0.01
_BLOCK = 1 << 21  # numbers in one batch of permuted distances: 16 MB


@dataclass(frozen=True)
class ChangePoint:
    """A step between two runs. `after` and `before`: places of the last run of the old level and the first of the new one.

    `first` and `last`: the range of runs in which the change may lie, as sure as the data are: places whose split explains the series nearly as
    well. `change`: in percent, positive is slower. `p_value`: of the permutation test.
    """

    after: int
    before: int
    first: int
    last: int
    change: float
    p_value: float


def change_points(
    values: Sequence[float] | npt.NDArray[np.float64],
    margin: float = 0.03,
    *,
    level: float = LEVEL,
    permutations: int = PERMUTATIONS,
    smallest: int = SMALLEST_SEGMENT,
    seed: int = 0,
) -> tuple[ChangePoint, ...]:
    """The steps in a series of positive times, oldest first, that are larger than `margin` (a fraction) and significant at `level`.

    - Logarithms are compared, so a step is a ratio.
    - A segment has at least `smallest` runs, and a step is measured between medians: a lone spike, or two, never make one.
    - The series is whitened as AR(1) before it is permuted, with the correlation that is left when the candidate step is taken out: runs that follow
      one another are alike, and a plain permutation would call that a change.
    - p = (1 + exceeding) / (1 + permutations), never 0; permutations are drawn from `seed`, so the same history gives the same answer.

    Raises:
        MeasurementError: a value that is not positive and finite, a margin that is not positive, fewer than 999 permutations, or a segment below 2.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not np.all(np.isfinite(series) & (series > 0)):
        raise MeasurementError(f"a history is one positive number a run; got an array of shape {list(series.shape)}")
    if not margin > 0 or permutations < PERMUTATIONS or smallest < 2:
        raise MeasurementError(f"change points need a positive margin, at least {PERMUTATIONS} permutations and segments of at least 2 runs")
    logs = np.log(series)
    generator = np.random.default_rng(seed)
    found: list[tuple[int, float]] = []
    open_segments = [(0, logs.size)]
    while open_segments:
        start, stop = open_segments.pop(0)
        split = _split(logs[start:stop], smallest, level, permutations, generator)
        if split is None:
            continue
        at, p_value = split
        found.append((start + at, p_value))
        open_segments += [(start, start + at), (start + at, stop)]
    return _described(logs, sorted(found), math.log1p(margin))


def _split(logs: Float64, smallest: int, level: float, permutations: int, generator: np.random.Generator) -> tuple[int, float] | None:
    """The best place to split and its p value; None where there is no room or nothing significant."""
    if logs.size < 2 * smallest + 1:  # one is lost to whitening
        return None
    at = int(np.argmax(energies(distances(logs), smallest))) + smallest
    white = whitened(logs, correlation_around(logs, at))
    spread = distances(white)
    observed = float(energies(spread, smallest).max())
    if observed <= 0:
        return None
    exceeding, block = 0, max(1, _BLOCK // spread.size)
    for begin in range(0, permutations, block):
        count = min(block, permutations - begin)
        shuffled = generator.permuted(np.tile(np.arange(white.size), (count, 1)), axis=1)
        mixed = spread[shuffled[:, :, None], shuffled[:, None, :]]
        # A tie up to rounding counts against the change.
        exceeding += int(np.count_nonzero(energies(mixed, smallest).max(axis=-1) >= observed * (1 - 1e-9)))
    p_value = (1 + exceeding) / (1 + permutations)
    return (at, p_value) if p_value <= level else None


def distances(values: Float64) -> Float64:
    """|x_i - x_j|, [n, n]."""
    apart: Float64 = np.abs(values[:, None] - values[None, :])
    return apart


def energies(apart: Float64, smallest: int) -> Float64:
    """m k / (m + k) (2 E|X - Y| - E|X - X'| - E|Y - Y'|) for every split into m and k runs, m from `smallest` to n - `smallest`.

    `apart`: distances [..., n, n]. Expectations within are over pairs of different runs. Returns [..., n - 2 smallest + 1].
    """
    n = apart.shape[-1]
    rows = apart.sum(axis=-1)
    earlier = np.cumsum((apart * np.tri(n, k=-1)).sum(axis=-1), axis=-1)  # pairs within the first m runs, at m - 1
    total = earlier[..., -1:]
    m = np.arange(smallest, n - smallest + 1)
    k = n - m
    left = earlier[..., m - 1]
    between = np.cumsum(rows, axis=-1)[..., m - 1] - 2 * left
    right = total - left - between
    energy: Float64 = (m * k / n) * (2 * between / (m * k) - 2 * left / (m * (m - 1)) - 2 * right / (k * (k - 1)))
    return energy


def correlation_around(logs: Float64, at: int) -> float:
    """The lag-1 correlation of what is left when both levels of a step at `at` are taken out; never negative.

    Robust (clipped at four spreads, so that a spike is no pattern) and corrected for the bias of short series, which fitting the step doubles:
    rho + 2 (1 + 3 rho) / n (after Kendall 1954, Biometrika 41:403). One standard error is added: a correlation that is taken for too small raises
    false alarms, one that is taken for too large costs a little power.
    """
    left = np.concatenate([logs[:at] - np.median(logs[:at]), logs[at:] - np.median(logs[at:])])
    spread = 1.4826 * float(np.median(np.abs(left)))
    if spread > 0:
        left = np.clip(left, -4 * spread, 4 * spread)
    squares = float(np.sum(left[1:] ** 2 + left[:-1] ** 2)) / 2
    if squares == 0:
        return 0.0
    rho = float(np.sum(left[1:] * left[:-1])) / squares
    error = math.sqrt(max(0.0, 1 - rho * rho) / logs.size)
    return float(np.clip(rho + 2 * (1 + 3 * rho) / logs.size + error, 0.0, 0.9))


def whitened(logs: Float64, rho: float) -> Float64:
    """x_t - rho x_(t-1): independent where x is AR(1). One shorter than the series."""
    white: Float64 = logs[1:] - rho * logs[:-1]
    return white


def _described(logs: Float64, found: list[tuple[int, float]], smallest_step: float) -> tuple[ChangePoint, ...]:
    """Steps between neighbouring segments; those below the margin are dropped, the smallest first, and their segments joined."""
    while found:
        edges = [0, *(at for at, _ in found), logs.size]
        medians = [float(np.median(logs[start:stop])) for start, stop in pairwise(edges)]
        steps = [after - before for before, after in pairwise(medians)]
        weak = min(range(len(steps)), key=lambda number: abs(steps[number]))
        if abs(steps[weak]) >= smallest_step:
            break
        del found[weak]
    points = []
    for number, (at, p_value) in enumerate(found):
        first, last = _range(logs[edges[number] : edges[number + 2]], at - edges[number])
        points.append(ChangePoint(at - 1, at, edges[number] + first - 1, edges[number] + last, percent(steps[number]), p_value))
    return tuple(points)


def _range(logs: Float64, at: int) -> tuple[int, int]:
    """The earliest and latest first run of the new level: splits that leave hardly more absolute deviation from their medians than the best.

    A run more on the wrong side costs about one step; places within three spreads of a run of the best are not told apart from it.
    """

    def left_over(split: int) -> float:
        return float(sum(np.abs(part - np.median(part)).sum() for part in (logs[:split], logs[split:])))

    costs = {split: left_over(split) for split in range(1, logs.size)}
    spread = costs[at] / logs.size
    near = [split for split, cost in costs.items() if cost <= costs[at] + 3 * spread]
    first = last = at
    while first - 1 in near:
        first -= 1
    while last + 1 in near:
        last += 1
    return first, last
