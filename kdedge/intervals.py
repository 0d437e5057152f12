"""Intervals and paired tests: how samples become an `Estimate`. All intervals are two-sided, 95 %; resampling is seeded, so bytes repeat.

Which interval for what: a proportion of examples has Wilson's, any other mean of per-example numbers (or a function of such means) a BCa bootstrap,
the difference of two proportions on the same examples Newcombe's with McNemar's exact test, a median of launches order statistics, a mean over
training runs Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import KdedgeError, MeasurementError
from kdedge.estimate import FRACTION, Estimate

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_FOR_BOOTSTRAP = 20
"""Below this many units a bootstrap interval covers clearly less than it says, so none is given."""

Float64 = npt.NDArray[np.float64]
Interval = tuple[float, float]

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
_ONE_IN = round(1 / (1 - CONFIDENCE))  # the interval misses once in 20
_SHARES = ("", FRACTION)  # a divergence that happens to be 0 everywhere has a unit, and is no proportion
_BLOCK = 1 << 20  # indices drawn at once: 8 MB, so that memory does not grow with the number of examples


# ---- proportions -----------------------------------------------------------------------------------------------------------


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209): honest at 0, at n and for few examples.

    Raises:
        KdedgeError: n < 1, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise KdedgeError(f"a proportion needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    share, z2 = successes / n, _Z * _Z
    centre = share + z2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # At the ends the formula gives exactly 0 or 1; rounding must not move them.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def proportion(name: str, successes: int, n: int) -> Estimate:
    """A share of `n` examples with its Wilson interval, in fractions of 1."""
    low, high = wilson(successes, n)
    return Estimate(name, successes / n, low, high, n, FRACTION)


# ---- means -----------------------------------------------------------------------------------------------------------------


def mean_estimate(name: str, scores: npt.ArrayLike, unit: str = "", seed: int = 0) -> Estimate:
    """The mean of one number an example (shape [n]).

    Scores without a unit that are all 0 or 1 are a proportion (Wilson, unit "fraction"); other scores get a seeded BCa bootstrap interval,
    none below `FEWEST_FOR_BOOTSTRAP` examples.

    Raises:
        KdedgeError: not one number an example, no example, or a score that is not finite.
    """
    values = _vector(name, scores)
    if unit in _SHARES and _is_binary(values):
        return proportion(name, int(values.sum()), values.size)
    return _mean_with_bootstrap(name, values, unit, seed)


def function_of_means(name: str, columns: Float64, statistic: Callable[[Float64], Float64], unit: str, seed: int = 0) -> Estimate:
    """`statistic` of the column means of [n, k] per-example numbers, e.g. a ratio of sums; examples are resampled as rows.

    `statistic` maps [m, k] means to [m] numbers.
    """
    low, high = bootstrap_interval(columns, statistic, seed) or (None, None)
    return Estimate(name, float(statistic(columns.mean(axis=0, keepdims=True))[0]), low, high, len(columns), unit)


def _mean_with_bootstrap(name: str, values: Float64, unit: str, seed: int) -> Estimate:
    return function_of_means(name, values[:, None], lambda means: means[:, 0], unit, seed)


def bootstrap_interval(columns: Float64, statistic: Callable[[Float64], Float64], seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """The bias-corrected and accelerated bootstrap interval (Efron 1987, J. Am. Stat. Assoc. 82:171) of a function of column means.

    `columns`: float64 [n, k], one row an example; `statistic`: [m, k] means -> [m]. None below `FEWEST_FOR_BOOTSTRAP` rows.
    Where all rows are equal the interval is the point itself: resampling knows nothing beyond what it saw.
    """
    n = len(columns)
    if n < FEWEST_FOR_BOOTSTRAP:
        return None
    means = columns.mean(axis=0)
    value = float(statistic(means[None, :])[0])
    replicates = statistic(_resampled_means(columns, seed, resamples))
    # Replicates that equal the value count half on each side; both shares stay off 0 and 1, where the correction would be infinite.
    # Equal up to rounding: a mean of equal numbers depends on the order of summation.
    slack = 1e-12 * max(abs(value), float(np.abs(replicates).max()))
    below = np.count_nonzero(replicates < value - slack) + np.count_nonzero(np.abs(replicates - value) <= slack) / 2
    bias = _NORMAL.inv_cdf(min(max(below / resamples, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = _acceleration(statistic((means * n - columns) / (n - 1)))
    levels = [_corrected(z, bias, acceleration) for z in (-_Z, _Z)]
    low, high = np.quantile(replicates, levels)
    return float(low), float(high)


def _acceleration(leave_one_out: Float64) -> float:
    """How fast the standard error changes with the value: a sixth of the skewness of the jackknife's influence values."""
    influence: Float64 = leave_one_out.mean() - leave_one_out
    largest = float(np.abs(influence).max())
    if largest == 0:
        return 0.0
    influence = influence / largest  # the skewness has no scale, and powers of tiny numbers would underflow
    return float(np.sum(influence**3)) / (6 * math.pow(float(np.sum(influence**2)), 1.5))


def _corrected(z: float, bias: float, acceleration: float) -> float:
    """The level at which BCa reads the replicates instead of Phi(z)."""
    shifted = bias + z
    denominator = 1 - acceleration * shifted
    # A heavy tail can turn the correction around; then the end of the replicates is the honest limit.
    return _NORMAL.cdf(bias + shifted / denominator) if denominator > 0 else float(z > 0)


def _resampled_means(columns: Float64, seed: int, resamples: int) -> Float64:
    """[resamples, k] means of rows drawn with replacement; the same rows for every column, the same draws for the same seed and n."""
    n, k = columns.shape
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, k))
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        rows = generator.integers(0, n, size=(stop - start, n))
        for column in range(k):
            means[start:stop, column] = columns[:, column][rows].mean(axis=1)
    return means


def mean_over_runs(name: str, values: npt.ArrayLike, unit: str) -> Estimate:
    """The mean of one number a run (training seeds, say) with Student's t interval (1908, Biometrika 6:1): for few runs, of one kind.

    No interval where it would claim to know what a single run, or runs that are all equal, do not show.

    Raises:
        KdedgeError: not one number a run, no run, or a number that is not finite.
    """
    runs = _vector(name, values)
    mean = float(runs.mean())
    if runs.size < 2 or float(np.ptp(runs)) <= 1e-12 * float(np.abs(runs).max()):  # equal up to rounding
        return Estimate(name, mean, None, None, runs.size, unit)
    half = student_t(runs.size - 1) * float(runs.std(ddof=1)) / math.sqrt(runs.size)
    return Estimate(name, mean, mean - half, mean + half, runs.size, unit)


def student_t(degrees: int) -> float:
    """How many standard errors Student's t interval reaches to each side, for `degrees` of freedom: 12.71 for 1, 4.30 for 2, towards 1.96.

    Raises:
        KdedgeError: degrees < 1.
    """
    if degrees < 1:
        raise KdedgeError(f"Student's t needs at least one degree of freedom, not {degrees}")
    return t_quantile((1 + CONFIDENCE) / 2, degrees)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t for `probability` above one half and whole degrees of freedom, by bisection.

    Raises:
        MeasurementError: probability outside [0.5, 1), or degrees < 1.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise MeasurementError(f"Student's t needs a probability in [0.5, 1) and at least one degree of freedom; got {probability:g}, {degrees}")
    within, low, high = 2 * probability - 1, 0.0, 1.0
    while _between(high, degrees) < within:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, degrees) < within else (low, middle)
    return (low + high) / 2


def _between(t: float, degrees: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = (cosine if odd else 1.0) * (degrees > 1)
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


# ---- paired differences ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedDifference:
    """How scores differ from a baseline's on the same examples.

    `estimate`: mean of (score - baseline); `gained` and `lost`: examples that score higher and lower than before.
    `p_value`: McNemar's exact two-sided test that gains and losses are equally likely; None for scores that are not 0 or 1.
    """

    estimate: Estimate
    gained: int
    lost: int
    p_value: float | None


def paired_difference(name: str, scores: npt.ArrayLike, baseline: npt.ArrayLike, unit: str = "", seed: int = 0) -> PairedDifference:
    """Compare two vectors of one number an example, example by example (both of shape [n], same order).

    0/1 scores without a unit: Newcombe's interval and McNemar's exact test. Others: a BCa bootstrap interval of the mean difference.

    Raises:
        KdedgeError: lengths differ, no example, or a number that is not finite.
    """
    after, before = _vector(name, scores), _vector(name, baseline)
    if after.shape != before.shape:
        raise KdedgeError(f"{name}: {after.size} scores cannot be paired with {before.size}: both must be of the same examples")
    gained, lost = int(np.count_nonzero(after > before)), int(np.count_nonzero(after < before))
    if unit in _SHARES and _is_binary(after) and _is_binary(before):
        both = int(np.count_nonzero(after * before))
        low, high = newcombe(both, gained, lost, after.size - both - gained - lost)
        estimate = Estimate(name, (gained - lost) / after.size, low, high, after.size, FRACTION)
        return PairedDifference(estimate, gained, lost, mcnemar(gained, lost))
    differences = after - before
    return PairedDifference(_mean_with_bootstrap(name, differences, unit, seed), gained, lost, None)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p value of McNemar's test (1947, Psychometrika 12:153): 2 P(B <= min), B ~ Binomial(gained + lost, 1/2), at most 1."""
    discordant = gained + lost
    tail, term = 0, 1
    for successes in range(min(gained, lost) + 1):
        tail += term
        term = term * (discordant - successes) // (successes + 1)
    return min(1.0, 2 * tail / (1 << discordant))  # integers until here: exact for any size


def newcombe(both: int, first_only: int, second_only: int, neither: int) -> Interval:
    """The interval of p1 - p2 for two proportions on the same examples (Newcombe 1998, Stat. Med. 17:2635, method 10).

    Wilson limits of both proportions, combined with their correlation phi (continuity-corrected where it is positive).
    """
    n = both + first_only + second_only + neither
    first, second = both + first_only, both + second_only
    p1, p2 = first / n, second / n
    (low1, high1), (low2, high2) = wilson(first, n), wilson(second, n)
    margins = first * (n - first) * second * (n - second)
    product = both * neither - first_only * second_only
    phi = 0.0 if margins == 0 else (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)
    below = _distance(p1 - low1, high2 - p2, phi)
    above = _distance(high1 - p1, p2 - low2, phi)
    difference = (first_only - second_only) / n
    return max(-1.0, difference - below), min(1.0, difference + above)


def _distance(a: float, b: float, phi: float) -> float:
    """The third side of a triangle with sides a and b and the cosine phi between them."""
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


# ---- medians ---------------------------------------------------------------------------------------------------------------


def median_interval(values: npt.ArrayLike) -> Interval | None:
    """The narrowest symmetric pair of order statistics that covers the median with at least 95 %, whatever the distribution.

    P(x_(j) <= median <= x_(n+1-j)) >= 1 - 2 P(B <= j - 1), B ~ Binomial(n, 1/2) (David and Nagaraja, Order Statistics, 2003, section 7.1).
    None below 6 values, where even the extremes cover less than 95 % (5 values: 93.75 %).
    """
    ordered = np.sort(_vector("median", values))
    n = ordered.size
    rank, tail = 0, 0
    while 2 * (tail + math.comb(n, rank)) * _ONE_IN <= 1 << n:  # in integers: 2^n overflows a float at n = 1024
        tail += math.comb(n, rank)
        rank += 1
    return None if rank == 0 else (float(ordered[rank - 1]), float(ordered[n - rank]))


def median_estimate(name: str, values: Sequence[float] | Float64, unit: str) -> Estimate:
    """The median of independent units (one number a launch) with its order-statistic interval; no interval below 6."""
    low, high = median_interval(values) or (None, None)
    return Estimate(name, float(np.median(np.asarray(values, dtype=np.float64))), low, high, len(values), unit)


# ---- checks ----------------------------------------------------------------------------------------------------------------


def _vector(name: str, values: Any) -> Float64:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise KdedgeError(f"{name}: expected one number an example, at least one; got an array of shape {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise KdedgeError(f"{name}: number {int(np.flatnonzero(~np.isfinite(vector))[0])} of {vector.size} is not finite")
    return vector


def is_share(scores: npt.ArrayLike) -> bool:
    """Whether scores are all 0 or 1, so that their mean is a share of the examples."""
    return _is_binary(np.asarray(scores, dtype=np.float64))


def _is_binary(values: Float64) -> bool:
    return bool(np.all((values == 0) | (values == 1)))
