"""Streaming observers: extremes, and a histogram from which the range with the smallest squared error is found.

Memory does not grow with the number of samples, and the result does not depend on how they are cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

HALF_BINS = 2048  # bins on each side of zero
VALUES_PER_EXAMPLE = 16384  # of larger tensors the histogram sees an even subset of each example; extremes always see all
SIGNED_LEVELS = (-128, 127)  # an activation's signed 8-bit type
NARROW_LEVELS = (-127, 127)  # a weight's
UNSIGNED_STEPS = 255


class Extremes:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf

    def update(self, batch: Array) -> None:
        """Take a batch in; empty arrays change nothing."""
        if batch.size:
            self.low = min(self.low, float(batch.min()))
            self.high = max(self.high, float(batch.max()))


class Histogram:
    """Counts of the values that are not zero, in bins whose width is a power of two and whose edges are multiples of it.

    When a value does not fit, the width doubles and neighbours are merged, which is exact: so the counts depend on the values alone, not on
    their order. Zeros are left out, because every type that is used here holds zero exactly.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None
        self.counts = np.zeros(2 * HALF_BINS, np.int64)

    def update(self, batch: Array) -> None:
        """Take a batch in; axis 0 counts examples."""
        values = _thinned(batch)
        values = values[values != 0]
        if not values.size:
            return
        peak = float(np.abs(values).max())
        self._grow(math.frexp(peak / HALF_BINS)[1])
        assert self.exponent is not None
        bins = np.floor(np.ldexp(values.astype(np.float64), -self.exponent)).astype(np.int64) + HALF_BINS
        self.counts += np.bincount(bins, minlength=2 * HALF_BINS)

    def _grow(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = np.zeros_like(self.counts)
            merged[HALF_BINS // 2 : HALF_BINS + HALF_BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = merged
            self.exponent += 1

    def centres(self) -> tuple[Float64, Float64]:
        """Centres of the bins that hold something, and their counts."""
        filled = np.flatnonzero(self.counts)
        if self.exponent is None:
            return np.zeros(0), np.zeros(0)
        return np.ldexp(filled - HALF_BINS + 0.5, self.exponent), self.counts[filled].astype(np.float64)


def _thinned(batch: Array) -> Array:
    """At most about `VALUES_PER_EXAMPLE` values of each example, by a stride that does not fall into step with the last axis."""
    if batch.ndim < 2 or batch[0].size <= VALUES_PER_EXAMPLE:
        return batch.reshape(-1)
    stride = -(-batch[0].size // VALUES_PER_EXAMPLE)
    while math.gcd(stride, batch.shape[-1]) != 1:
        stride += 1
    return batch.reshape(len(batch), -1)[:, ::stride].reshape(-1)


# ---- the best range --------------------------------------------------------------------------------------------------------


def best_symmetric(histogram: Histogram, low: float, high: float) -> float:
    """The amplitude a of the range [-a, a] with the smallest squared error in a signed 8-bit type with zero point 0."""
    values, counts = histogram.centres()

    def error(amplitude: float) -> float:
        step = amplitude / SIGNED_LEVELS[1]
        return _squared_error(values, counts, step, step * SIGNED_LEVELS[0], amplitude)

    return _best_fraction(max(abs(low), abs(high)), error)


def best_affine(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """The range with the smallest squared error in an 8-bit type with a free zero point; it holds 0 and lies within [low, high] and 0."""
    values, counts = histogram.centres()
    widest = (min(low, 0.0), max(high, 0.0))

    def error(start: float, end: float) -> float:
        return _squared_error(values, counts, (end - start) / UNSIGNED_STEPS, start, end)

    start, end = widest
    for _ in range(3):  # one end at a time
        before = (start, end)
        end = _best_fraction(widest[1], partial(error, start))
        start = -_best_fraction(-widest[0], partial(_swapped, error, end))
        if (start, end) == before:
            break
    return start, end


def _swapped(error: Callable[[float, float], float], end: float, distance: float) -> float:
    return error(-distance, end)


def _best_fraction(widest: float, error: Callable[[float], float]) -> float:
    """Search (0, widest] in steps of a tenth, then in hundredths around the best; of equal errors the widest wins."""
    if widest <= 0:
        return 0.0
    best = min((widest * 0.9**step for step in range(40)), key=error)
    return min((min(widest, best * (1 + step / 100)) for step in range(10, -11, -1)), key=error)


def _squared_error(values: Float64, counts: Float64, step: float, lowest: float, highest: float) -> float:
    """Expected squared error: step^2 / 12 for a value that is rounded, its distance from the end of the range for one that is clipped.

    (Rounding the bins' centres instead would judge how the bins fall into the steps, not the values.)
    """
    outside = np.maximum(np.maximum(lowest - values, values - highest), 0.0)
    return float((counts * np.where(outside > 0, np.square(outside), step * step / 12)).sum())


# ---- weights ---------------------------------------------------------------------------------------------------------------


def weight_amplitudes(weight: Array, axis: int, search: bool) -> tuple[Float64, Float64, Float64]:
    """Lowest, highest and recommended symmetric amplitude per channel along `axis`: the largest magnitude, or (`search`) the least squared error."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    low, high = rows.min(axis=1), rows.max(axis=1)
    widest = np.maximum(np.abs(low), np.abs(high))
    if not search:
        return low, high, widest
    best, smallest = widest, _row_errors(rows, widest)
    for step in range(99, 59, -1):
        candidate = widest * (step / 100)
        errors = _row_errors(rows, candidate)
        better = errors < smallest
        best, smallest = np.where(better, candidate, best), np.where(better, errors, smallest)
    return low, high, best


def _row_errors(rows: Float64, amplitudes: Float64) -> Float64:
    step = np.where(amplitudes > 0, amplitudes, 1.0)[:, None] / NARROW_LEVELS[1]
    rounded = np.clip(np.rint(rows / step), *NARROW_LEVELS) * step
    return np.asarray(np.square(rows - rounded).sum(axis=1))
