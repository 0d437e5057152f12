"""Percentile: the range that all but a fixed share of the values lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.observers.histogram import HALF_BINS
from kdedge.exporters.quantize.observers.seen import Seen


def percentile(seen: Seen, percent: float) -> tuple[float, tuple[float, float]]:
    """Symmetric: the percentile of the absolute values, zeros among them. Affine: half of what is cut comes off each tail; all of it
    comes off the only one where no value lies on the other side of zero. 100 gives the extremes."""
    histogram, cut = seen.histogram, (100.0 - percent) / 100.0
    below, above = histogram.counts[HALF_BINS - 1 :: -1], histogram.counts[HALF_BINS:]
    total = float(histogram.counts.sum() + histogram.zeros)
    share = cut / 2 if seen.low < 0.0 < seen.high else cut
    symmetric = _reach(histogram.magnitudes(), total, cut, histogram.width, max(-seen.low, seen.high, 0.0))
    start = _reach(below, total, share, histogram.width, max(-seen.low, 0.0))
    return symmetric, (-start, _reach(above, total, share, histogram.width, max(seen.high, 0.0)))


def _reach(counts: npt.NDArray[Any], total: float, share: float, width: float, farthest: float) -> float:
    """The distance from zero beyond which `share` of `total` values lie: counted from the far end, even within a bin, at most `farthest`."""
    if share <= 0.0:
        return farthest
    beyond = np.cumsum(counts[::-1], dtype=np.float64)[::-1]  # values in this bin or beyond
    wanted = share * total
    place = int(np.count_nonzero(beyond > wanted)) - 1  # the last bin from which on more than the share lies
    if place < 0:
        return 0.0
    return min(farthest, (place + float(beyond[place] - wanted) / float(counts[place])) * width)
