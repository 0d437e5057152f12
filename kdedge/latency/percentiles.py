"""Percentiles of raw samples: nearest rank, and none from too few samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

FLOORS: dict[float, int] = {0.90: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
"""Fewest samples for each percentile.

The early-stopping rule of MLPerf's load generator, with confidence 0.99 and one sample allowed beyond: the smallest n at which n samples of which
at most one exceeds a bound prove that less than a share 1 - p of all do, P(B <= 1) <= 0.01 for B ~ Binomial(n, 1 - p).
"""


def nearest_rank(samples: npt.NDArray[Any], p: float) -> float | None:
    """The sample of rank ceil(p n) of n in ascending order: a value that was measured, never an interpolation. None below the floor of p.

    Raises:
        KeyError: p is not one of `FLOORS`.
    """
    n = len(samples)
    if n < FLOORS[p]:
        return None
    rank = math.ceil(round(p * n, 9))  # rounded first: 0.9 * 130 is a hair above 117 in binary
    return float(np.partition(samples, rank - 1)[rank - 1])
