"""Counts of an activation's values in fixed memory, and the sums over them that the observers ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

HALF_BINS = 4096  # bins on each side of zero
VALUES_AT_ONCE = 1 << 15  # small enough for memory that the allocator keeps, and for a core's own cache
FINEST = -100  # exponent of the narrowest bins: below, a power of two leaves what float32 can multiply by


class Histogram:
    """Counts of the values that are not zero, in bins whose width is a power of two and whose edges are multiples of it.

    When a value does not fit, the width doubles and neighbours are merged, which is exact: so the counts depend on the values alone, not on
    their order. Zeros are counted apart, because every type that is used here holds zero exactly.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None
        self.counts = np.zeros(2 * HALF_BINS, np.int64)
        self.zeros = 0

    def update(self, values: Array, peak: float | None = None, weight: int = 1) -> None:
        """Take finite float32 values in, of any shape. `peak`: no magnitude is larger (found from the values where it is not known).
        `weight`: how often each counts."""
        values = np.ascontiguousarray(values, np.float32).reshape(-1)
        if peak is None:
            peak = float(np.abs(values).max()) if values.size else 0.0
        zeros = values.size - int(np.count_nonzero(values != 0))
        self.zeros += zeros * weight
        if peak == 0.0:
            return
        exponent = self._grown(max(FINEST, math.frexp(peak / HALF_BINS)[1]))
        for start in range(0, values.size, VALUES_AT_ONCE):
            found = np.bincount(_places(values[start : start + VALUES_AT_ONCE], exponent), minlength=2 * HALF_BINS)
            self.counts += found if weight == 1 else found * weight
        self.counts[HALF_BINS] -= zeros * weight

    def correct(self, values: Array, weights: Array) -> None:
        """Count each of some values by so much more (or less); none is larger than what was seen, few are given."""
        held = np.flatnonzero((values != 0) & (weights != 0))
        if held.size and self.exponent is not None:
            np.add.at(self.counts, _places(values[held], self.exponent), weights[held])

    def _grown(self, exponent: int) -> int:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = np.zeros_like(self.counts)
            merged[HALF_BINS // 2 : HALF_BINS + HALF_BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = merged
            self.exponent += 1
        return self.exponent

    @property
    def width(self) -> float:
        """Of a bin; 0 where nothing but zeros was seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts [HALF_BINS] of the absolute values: bin j counts those between j and j + 1 widths."""
        return self.counts[HALF_BINS:] + self.counts[HALF_BINS - 1 :: -1]


def _places(values: Array, exponent: int) -> npt.NDArray[np.intp]:
    """The bin of each value."""
    places = values * np.float32(math.ldexp(1.0, -exponent))  # exact: a power of two
    np.floor(places, out=places)  # before the offset, which would round a small negative value up to zero
    places += np.float32(HALF_BINS)
    return places.astype(np.uint16).astype(np.intp)


@dataclass(frozen=True)
class Sums:
    """Sums over all values up to one, so that any window of values is a difference of two entries.

    `values`: centres of the bins that hold something, ascending; `count`, `first`, `second`: sums of their counts, of count x value and of
    count x value^2, each with a 0 in front.
    """

    values: Float64
    count: Float64
    first: Float64
    second: Float64


def sums_of(histogram: Histogram) -> Sums:
    """The sums over a histogram."""
    filled = np.flatnonzero(histogram.counts)
    values = np.asarray((filled - HALF_BINS + 0.5) * histogram.width, np.float64)
    counts = histogram.counts[filled].astype(np.float64)
    return Sums(values, _running(counts), _running(counts * values), _running(counts * np.square(values)))


def _running(values: Float64) -> Float64:
    return np.asarray(np.concatenate([[0.0], np.cumsum(values)]), np.float64)
