"""What one pass over the examples keeps of an activation: extremes, their moving average, and a histogram."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.observers.histogram import Histogram

GROUP = 16
"""Examples whose common extremes the moving average takes in at once: always counted from the first example, whatever the batches are."""

DECAY = 0.9
"""Of the moving average, a group: the last 160 examples weigh 65 %, the last 480 weigh 96 %."""

Array = npt.NDArray[Any]


class Seen:
    """Grows with nothing: neither with the number of examples nor with the size of the tensor.

    `low`, `high`: smallest and largest value; `rows`: examples taken in.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.rows = 0
        self.histogram = Histogram()
        self._average: tuple[float, float] | None = None
        self._group = (math.inf, -math.inf)

    def update(self, lows: Array, highs: Array, values: Array, stride: int = 1) -> None:
        """Take a batch in: smallest and largest value [rows] of each example, and every `stride`-th of their values [rows, n]; all finite."""
        if not lows.size:
            return
        low, high = float(lows.min()), float(highs.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        start = 0
        while start < len(lows):  # one group, or what the batch has of it
            end = min(len(lows), start + GROUP - self.rows % GROUP)
            self._group = min(self._group[0], float(lows[start:end].min())), max(self._group[1], float(highs[start:end].max()))
            self.rows += end - start
            start = end
            if self.rows % GROUP == 0:
                self._average, self._group = self.average(), (math.inf, -math.inf)
        self.histogram.update(values, max(-low, high, 0.0), stride)
        if stride > 1:
            for ends in (lows, highs):
                if ends.any():  # zeros are no matter of the histogram
                    self._count_once(ends, values, stride)

    def _count_once(self, ends: Array, values: Array, stride: int) -> None:
        """Each example's own extreme, which is known, counts once: not `stride` times where the subset holds it, not never where it does not.

        What lies far out decides how much is worth clipping, and a subset knows least of it. (An extreme that the subset holds more than once
        is where values pile up, as behind a ReLU6: there it tells how many.)
        """
        found = np.count_nonzero(values == ends[:, None], axis=1)
        self.histogram.correct(ends, np.where(found == 0, 1, np.where(found == 1, 1 - stride, 0)))

    def average(self) -> tuple[float, float]:
        """Exponential moving averages of the smallest and the largest value of each group, started at the first one's. The last may be smaller."""
        if self._group[0] > self._group[1]:
            return self._average or (0.0, 0.0)
        if self._average is None:
            return self._group
        low, high = (old + (1 - DECAY) * (new - old) for old, new in zip(self._average, self._group, strict=True))
        return low, high


def extremes_of(batch: Array) -> tuple[Array, Array]:
    """Smallest and largest value [rows] of each example of a batch whose axis 0 counts them; both empty where it has no values."""
    rows = batch.reshape(len(batch), -1) if batch.size else np.zeros((0, 1), np.float32)
    return rows.min(axis=1), rows.max(axis=1)
