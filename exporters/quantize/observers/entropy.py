"""Entropy: the range whose quantized distribution diverges least from the one that was seen (Migacz, GTC 2017, "8-bit Inference with TensorRT").

For each candidate window, P is the histogram inside of it with what lies outside added to its outermost bins, and Q is the histogram inside,
summed over each quantization level and spread evenly over the level's bins that are not empty. The window with the least KL(P || Q) wins.

What is done otherwise than in most implementations, each of which is known to cost accuracy:
- Zeros do not count: after a ReLU they would outweigh everything else, and every type holds them exactly.
- The levels are those of the type: 128 over magnitudes for a signed type, 256 over the window for one with a free zero point, whose two ends
  are searched apart (not 128 over a window that is symmetric around zero, half of which is empty after a ReLU).
- Levels are cut as evenly as the bins allow; the last one does not take what an integer division leaves over.
- A window that clips ends at a bin that is not empty, so that Q is nowhere zero where P is not and nothing has to be smoothed.
- The bins do not depend on the batch that came first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.observers.histogram import HALF_BINS, Float64
from kdedge.exporters.quantize.observers.seen import Seen

SIGNED_LEVELS = 128  # of magnitudes
LEVELS = 256
NARROWEST = 1 / 16  # of the widest window, as in the source (128 of 2,048 bins)

Int64 = npt.NDArray[np.int64]


def entropy(seen: Seen) -> tuple[float, tuple[float, float]]:
    """Symmetric amplitude of a signed 8-bit type with zero point 0, and range of an 8-bit type with a free zero point."""
    histogram = seen.histogram
    widest = max(-seen.low, seen.high, 0.0)
    if widest == 0.0:
        return 0.0, (0.0, 0.0)
    magnitudes = counts_of(histogram.magnitudes())
    amplitude = min(widest, _one_sided(magnitudes, SIGNED_LEVELS) * histogram.width)
    if seen.low >= 0.0:
        return amplitude, (0.0, min(seen.high, _one_sided(magnitudes, LEVELS) * histogram.width))
    if seen.high <= 0.0:
        return amplitude, (max(seen.low, -_one_sided(magnitudes, LEVELS) * histogram.width), 0.0)
    below, above = _two_sided(counts_of(histogram.counts), LEVELS)
    return amplitude, (max(seen.low, -below * histogram.width), min(seen.high, above * histogram.width))


def _one_sided(counts: Counts, levels: int) -> int:
    """Bins from the first one on."""
    filled = np.flatnonzero(counts.bins)
    if not filled.size:
        return len(counts.bins)
    widest = int(filled[-1]) + 1

    def best(ends: Int64) -> int:
        ends = np.maximum(_snapped(filled + 1, ends, widest), min(widest, levels))
        return int(ends[np.argmin(divergences(counts, np.zeros_like(ends), ends, levels))])

    coarse = NARROWEST ** (np.arange(32) / 31)
    found = best(np.rint(widest * coarse).astype(np.int64))
    return best(np.rint(found * np.linspace(1.09, 0.92, 14)).astype(np.int64))


def _two_sided(counts: Counts, levels: int) -> tuple[int, int]:
    """Bins below and above zero. Both ends are searched together."""
    filled = np.flatnonzero(counts.bins)
    if not filled.size:
        return HALF_BINS, HALF_BINS
    below, above = HALF_BINS - filled[filled < HALF_BINS][::-1], filled[filled >= HALF_BINS] - HALF_BINS + 1
    widest = [int(side[-1]) if side.size else 0 for side in (below, above)]

    def best(left: Int64, right: Int64) -> tuple[int, int]:
        left, right = (_snapped(side, ends, most) for side, ends, most in zip((below, above), (left, right), widest, strict=True))
        starts, ends = (side.reshape(-1) for side in np.meshgrid(HALF_BINS - left, HALF_BINS + right, indexing="ij"))
        allowed = np.flatnonzero(ends - starts >= min(levels, sum(widest)))
        place = allowed[np.argmin(divergences(counts, starts[allowed], ends[allowed], levels))]
        return int(HALF_BINS - starts[place]), int(ends[place] - HALF_BINS)

    coarse = NARROWEST ** (np.arange(10) / 9)
    found = best(*(np.rint(most * coarse).astype(np.int64) for most in widest))
    fine = np.linspace(1.3, 0.78, 9)
    return best(*(np.rint(most * fine).astype(np.int64) for most in found))


def _snapped(filled: Int64, ends: Int64, widest: int) -> Int64:
    """Each end at the next place inwards where the outermost bin holds something. `filled`: such places, ascending."""
    if not filled.size:
        return np.zeros(1, np.int64)
    return np.unique(filled[np.maximum(np.searchsorted(filled, np.minimum(ends, widest), "right") - 1, 0)])[::-1]


def divergences(counts: Counts, starts: Int64, ends: Int64, levels: int) -> Float64:
    """KL(P || Q) in nats of each window: bins `starts` to `ends` (exclusive), which `levels` equal levels cover.

    With sums that run over the bins it takes a few operations a level, not a bin: sum of P log Q over a level is its mass times one logarithm.
    """
    edges = starts[:, None] + np.rint((ends - starts)[:, None] * (np.arange(levels + 1) / levels)).astype(np.int64)
    mass, filled = np.diff(counts.mass[edges], axis=1), np.diff(counts.filled[edges], axis=1)
    log_q = np.log(mass / np.maximum(filled, 1.0), out=np.zeros_like(mass), where=mass > 0)
    total, inside = counts.mass[-1], counts.mass[ends] - counts.mass[starts]
    cut = counts.mass[starts], total - counts.mass[ends]
    outermost = counts.bins[starts], counts.bins[ends - 1]
    own = counts.information[ends] - counts.information[starts]  # sum of p log p, and what the clipped values change in it
    for bins, outside in zip(outermost, cut, strict=True):
        own = own + _times_log(bins + outside) - _times_log(bins)
    cross = (mass * log_q).sum(axis=1) + cut[0] * log_q[:, 0] + cut[1] * log_q[:, -1]
    return np.asarray((own - cross) / total + np.log(inside / total))


class Counts(NamedTuple):
    """Counts of bins, and sums over all bins before one: of counts, of bins that are not empty, of count x log(count)."""

    bins: Float64
    mass: Float64
    filled: Float64
    information: Float64


def counts_of(bins: Int64) -> Counts:
    """The sums, made once for all windows."""
    counts = bins.astype(np.float64)
    return Counts(counts, *(np.concatenate([[0.0], np.cumsum(of)]) for of in (counts, counts > 0, _times_log(counts))))


def _times_log(counts: Float64) -> Float64:
    return counts * np.log(counts, out=np.zeros_like(counts), where=counts > 0)
