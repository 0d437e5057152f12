"""Streaming observers: extremes, and a histogram from which the range with the smallest squared error is found.

Memory does not grow with the number of samples, and the result does not depend on how they are cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        return _squared_error(values, counts, amplitude / SIGNED_LEVELS[1], *SIGNED_LEVELS)

    return _best_fraction(max(abs(low), abs(high)), error)


def best_affine(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """The range with the smallest squared error in an 8-bit type with a free zero point; it holds 0 and lies within [low, high] and 0."""
    values, counts = histogram.centres()
    widest = (min(low, 0.0), max(high, 0.0))

    def error(start: float, end: float) -> float:
        step = (end - start) / UNSIGNED_STEPS
        zero = round(-start / step) if step > 0 else 0
        return _squared_error(values, counts, step, -zero, UNSIGNED_STEPS - zero)

    start, end = widest
    for _ in range(3):  # one end at a time; a third round has not been seen to change anything
        before = (start, end)
        if end > 0:
            fixed_start = start
            end = _best_fraction(widest[1], lambda candidate: error(fixed_start, candidate))
        if start < 0:
            fixed_end = end
            start = -_best_fraction(-widest[0], lambda candidate: error(-candidate, fixed_end))
        if (start, end) == before:
            break
    return start, end


def _best_fraction(widest: float, error: Callable[[float], float]) -> float:
    """Search (0, widest] coarsely, then finely around the best; of equal errors the widest wins."""
    if widest <= 0:
        return 0.0
    coarse = [widest * step / 40 for step in range(40, 0, -1)]
    best = min(coarse, key=error)
    fine = [min(widest, best + widest * step / 400) for step in range(9, -10, -1)]
    return min((value for value in fine if value > 0), key=error)


def _squared_error(values: Float64, counts: Float64, step: float, lowest: int, highest: int) -> float:
    if step <= 0:
        return float((counts * values * values).sum())
    rounded = np.clip(np.rint(values / step), lowest, highest) * step
    return float((counts * np.square(values - rounded)).sum())


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
