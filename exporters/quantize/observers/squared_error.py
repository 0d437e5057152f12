"""MSE: the range with the smallest expected squared error, from rounding inside of it and clipping outside."""

from __future__ import annotations

import numpy as np

from kdedge.exporters.quantize.observers.histogram import Float64, Sums, sums_of
from kdedge.exporters.quantize.observers.seen import Seen

SIGNED_LEVELS = (-128, 127)
UNSIGNED_STEPS = 255
COARSE: Float64 = np.power(0.9, np.arange(40.0))  # shares of the widest range, then the neighbourhood of the best of them
FINE: Float64 = 1 + np.arange(10, -11, -1) / 100


def squared_error(seen: Seen) -> tuple[float, tuple[float, float]]:
    """Symmetric amplitude of a signed 8-bit type with zero point 0, and range of an 8-bit type with a free zero point."""
    sums = sums_of(seen.histogram)
    return _best_symmetric(sums, max(-seen.low, seen.high, 0.0)), _best_affine(sums, min(seen.low, 0.0), max(seen.high, 0.0))


def _best_symmetric(sums: Sums, widest: float) -> float:
    if widest == 0.0:
        return 0.0

    def best(amplitudes: Float64) -> float:
        steps = amplitudes / SIGNED_LEVELS[1]
        return float(amplitudes[np.argmin(expected_error(sums, steps, steps * SIGNED_LEVELS[0], amplitudes))])  # of equal ones the widest

    return best(np.minimum(widest, best(widest * COARSE) * FINE))


def _best_affine(sums: Sums, low: float, high: float) -> tuple[float, float]:
    """Both ends are searched together: what one end costs depends on where the other one is."""
    if low == high:
        return low, high

    def best(starts: Float64, ends: Float64) -> tuple[float, float]:
        start, end = (side.reshape(-1) for side in np.meshgrid(starts, ends, indexing="ij"))
        place = int(np.argmin(expected_error(sums, (end - start) / UNSIGNED_STEPS, start, end)))
        return float(start[place]), float(end[place])

    start, end = best(*(side * COARSE if side else np.zeros(1) for side in (low, high)))
    return best(np.maximum(low, start * FINE) if start else np.zeros(1), np.minimum(high, end * FINE) if end else np.zeros(1))


def expected_error(sums: Sums, steps: Float64, lowest: Float64, highest: Float64) -> Float64:
    """Expected squared error of each candidate: step^2 / 12 for a value that is rounded, its distance from the range for one that is clipped.

    (Rounding the bins' centres instead would judge how the bins fall into the steps, not the values.)
    """
    below, above = np.searchsorted(sums.values, lowest, "left"), np.searchsorted(sums.values, highest, "right")
    rounded = sums.count[above] - sums.count[below]
    clipped = sums.second[below] - 2 * lowest * sums.first[below] + np.square(lowest) * sums.count[below]
    left = [total[-1] - total[above] for total in (sums.count, sums.first, sums.second)]
    clipped = clipped + left[2] - 2 * highest * left[1] + np.square(highest) * left[0]
    return np.asarray(rounded * np.square(steps) / 12 + np.maximum(clipped, 0.0))
