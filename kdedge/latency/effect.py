"""How large a difference is: the Hodges-Lehmann estimate with the exact interval that belongs to the signed-rank test."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kdedge.estimate import Estimate
from kdedge.latency.signed_rank import checked, untied

Float64 = npt.NDArray[np.float64]

CONFIDENCE = 0.95
PERCENT = "%"


def walsh_averages(differences: npt.ArrayLike) -> Float64:
    """All (d_i + d_j) / 2 with i <= j, in ascending order: n (n + 1) / 2 of them."""
    values = checked(differences)
    first, second = _pairs(values.size)
    averages: Float64 = np.sort((values[first] + values[second]) / 2)
    return averages


def hodges_lehmann(differences: npt.ArrayLike) -> float:
    """The median of the Walsh averages (Hodges and Lehmann 1963, Ann. Math. Stat. 34:598): where the signed-rank test is least surprised."""
    return float(np.median(walsh_averages(differences)))


def shift_interval(differences: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The exact interval of the centre: ordered Walsh averages W_(c+1) to W_(M-c), c the largest with P(W+ <= c) <= (1 - confidence) / 2.

    It holds the shifts that neither one-sided test rejects at (1 - confidence) / 2. None where no c exists: below 6 pairs for 95 %.
    """
    averages = walsh_averages(differences)
    n = np.asarray(differences).size
    # The sums of the distribution are exact to 1e-16; a level such as (1 - 0.95) / 2 is not.
    below = np.count_nonzero(np.cumsum(untied(n)) <= (1 - confidence) / 2 * (1 + 1e-9))
    if n == 0 or below == 0:
        return None
    return float(averages[below - 1]), float(averages[averages.size - below])  # c = below - 1, counted from 1 in the formula


def slow_down(name: str, differences: npt.ArrayLike) -> Estimate:
    """The Hodges-Lehmann effect of log ratios in percent, exp(.) - 1, with its 95 % interval; positive is slower."""
    values = np.asarray(differences, dtype=np.float64)
    low, high = shift_interval(values) or (None, None)
    return Estimate(
        name,
        percent(hodges_lehmann(values)),
        None if low is None else percent(low),
        None if high is None else percent(high),
        values.size,
        PERCENT,
    )


@lru_cache(maxsize=64)
def _pairs(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    return np.triu_indices(n)


def percent(log_ratio: float) -> float:
    """A log ratio as a change in percent."""
    return 100 * math.expm1(log_ratio)
