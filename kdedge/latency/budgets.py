"""Bounds of a percentile over all iterations of several launches, for absolute budgets (`kdedge.gate`: "p90 <= 33 ms")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError
from kdedge.intervals import t_quantile

Float64 = npt.NDArray[np.float64]

CONFIDENCE = 0.99
"""Of each bound alone, as in MLPerf's load generator."""

_FEWEST_LAUNCHES = 3  # below, the spread of launches cannot be seen


@dataclass(frozen=True)
class Bounds:
    """One-sided bounds of a quantile, in ms; None where there are too few samples. `effective`: as many independent samples are the `n` worth."""

    value: float
    low: float | None
    high: float | None
    n: int
    effective: float


def order_bounds(ordered: Float64, p: float, effective: float, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Lower and upper bound of the p-quantile, each with `confidence`, from ascending samples that are worth `effective` independent ones.

    With m independent samples x_(j) is an upper bound where P(B < j) >= confidence, B ~ Binomial(m, p), and x_(i) a lower one where
    P(B >= i) >= confidence (David and Nagaraja, Order Statistics, 2003, section 7.1). Ranks of m are carried over to the n samples as shares,
    outwards. None where no rank of m reaches the confidence (44 samples are the fewest for an upper bound of p90 at 99 %).
    """
    m, n = math.floor(effective), len(ordered)
    if m < 1:
        return None, None
    below = np.cumsum(_binomial(m, p))  # below[k] = P(B <= k)
    upper = next((j for j in range(1, m + 1) if below[j - 1] >= confidence), None)
    lower = next((i for i in range(m, 0, -1) if 1 - below[i - 1] >= confidence), None)
    low = None if lower is None else float(ordered[max(1, math.floor(lower / m * n)) - 1])
    high = None if upper is None else float(ordered[min(n, math.ceil(upper / m * n)) - 1])
    return low, high


def percentile_bounds(launches: Sequence[npt.ArrayLike], p: float, confidence: float = CONFIDENCE) -> Bounds:
    """Bounds of a percentile over all launches' iterations (ms).

    Iterations of a launch are not independent: neighbours are alike, and all share what the launch has (memory layout, core, temperature). The number
    of samples is therefore divided by a design effect, the larger of two: (1 + rho) / (1 - rho) for an AR(1) process with the lag-1
    correlation rho within launches; and the variance of the launches' shares of samples beyond the percentile, over that of independent samples.
    Simulated, a bound of 99 % misses once in a hundred where launches are alike, and up to twice where they differ much.

    Raises:
        MeasurementError: fewer launches than `_FEWEST_LAUNCHES`, or a launch without samples.
    """
    series = [np.asarray(samples, dtype=np.float64) for samples in launches]
    if len(series) < _FEWEST_LAUNCHES or any(samples.size < 2 for samples in series):
        raise MeasurementError(f"a bound needs at least {_FEWEST_LAUNCHES} launches with at least two iterations each; there are {len(series)}")
    pooled = np.sort(np.concatenate(series))
    value = float(pooled[math.ceil(round(p * pooled.size, 9)) - 1])
    effective = pooled.size / max(1.0, _neighbours(series), _launches(series, value, p, confidence))
    low, high = order_bounds(pooled, p, effective, confidence)
    return Bounds(value, low, high, pooled.size, effective)


def autocorrelation(series: Sequence[Float64]) -> float:
    """The lag-1 correlation within launches, pooled over them; each launch has its own level. Medians, not means, so that an outlier is no level.

    Corrected for the bias of short series, (1 + 3 rho) / n (Kendall 1954, Biometrika 41:403).
    """
    products = squares = 0.0
    for samples in series:
        centred = samples - np.median(samples)
        spread = float(np.median(np.abs(centred))) * 1.4826
        if spread > 0:
            centred = np.clip(centred, -4 * spread, 4 * spread)
        products += float(np.sum(centred[1:] * centred[:-1]))
        squares += float(np.sum(centred[1:] ** 2 + centred[:-1] ** 2)) / 2
    if squares == 0:
        return 0.0
    rho = products / squares
    mean_length = sum(len(samples) for samples in series) / len(series)
    return rho + (1 + 3 * rho) / mean_length


def _neighbours(series: Sequence[Float64]) -> float:
    rho = min(max(autocorrelation(series), 0.0), 0.999)
    return (1 + rho) / (1 - rho)


def _launches(series: Sequence[Float64], value: float, p: float, confidence: float) -> float:
    beyond = np.array([float(np.mean(samples > value)) for samples in series])
    length = sum(len(samples) for samples in series) / len(series)
    # A variance seen in few launches is itself in doubt: Student's quantile in place of the normal one.
    doubt = t_quantile(confidence, len(series) - 1) / NormalDist().inv_cdf(confidence)
    return float(beyond.var(ddof=1)) * length / (p * (1 - p)) * doubt**2


def _binomial(n: int, p: float) -> Float64:
    """P(B = k), k = 0 .. n, by logarithms of factorials."""
    factorials = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    k = np.arange(n + 1)
    chances: Float64 = np.exp(factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p))
    return chances
