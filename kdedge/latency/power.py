"""How small a slow-down a check can find, how many pairs it needs, what fits a budget of time: said before the first launch and after the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError
from kdedge.intervals import t_quantile
from kdedge.latency.effect import percent
from kdedge.latency.looks import Looks, fewest_even, spread_looks
from kdedge.latency.percentiles import FLOORS
from kdedge.latency.signed_rank import fewest_pairs, untied

Float64 = npt.NDArray[np.float64]

POWER = 0.8
"""The chance with which a slow-down of the stated size is found."""

_INFLATION = 1.05  # the signed-rank test needs 1 / 0.955 as many pairs as Student's t for normal differences (asymptotically)
_SIMULATED_UP_TO = 24
_DRAWS = 10_000
_RESAMPLES = 2_000
_MOST_PAIRS = 4_000
_CURVE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MOST_PLANNED = 40
"""A budget that allows more pairs than this is spent on longer launches."""


@lru_cache(maxsize=4096)
def detectable_shift(pairs: int, alpha: float, power: float = POWER) -> float:
    """The smallest shift beyond the margin, in standard deviations of the differences, that is found with `power`. Infinite where none is.

    The larger of two: Student's (t_{1-alpha} + t_{power}) / sqrt(K / 1.05), and for up to 24 pairs what the exact test itself finds in seeded normal
    draws. With few pairs the test is coarse (7 pairs at 0.01: all must agree), and the formula alone would promise too much.
    """
    if pairs < fewest_pairs(alpha):
        return math.inf
    formula = (t_quantile(1 - alpha, pairs - 1) + t_quantile(power, pairs - 1)) / math.sqrt(pairs / _INFLATION)
    return max(formula, _simulated_shift(pairs, alpha, power)) if pairs <= _SIMULATED_UP_TO else formula


def _simulated_shift(pairs: int, alpha: float, power: float) -> float:
    generator = np.random.default_rng(pairs)
    return _shift_found(lambda count: generator.standard_normal((count, pairs)), pairs, alpha, power, _DRAWS)


def _shift_found(draw: Callable[[int], Float64], pairs: int, alpha: float, power: float, draws: int) -> float:
    """The shift with which the exact test rejects in a share `power` of the draws, [count, pairs] without a shift.

    W+ counts the Walsh averages above zero, so the test rejects exactly when the w-th largest of them is; w is the smallest critical value.
    A draw therefore tells by itself the shift from which on it would be rejected.
    """
    needed = int(np.count_nonzero(np.cumsum(untied(pairs)[::-1]) <= alpha))
    place = needed - 1  # ascending: M - w = needed - 1 lie below the w-th largest
    first, second = np.triu_indices(pairs)
    thresholds = []
    block = max(1, (1 << 22) // first.size)
    for start in range(0, draws, block):
        values = draw(min(block, draws - start))
        walsh = (values[:, first] + values[:, second]) / 2
        thresholds.append(-np.partition(walsh, place, axis=1)[:, place])
    return float(np.quantile(np.concatenate(thresholds), power))


def detectable(sd: float, pairs: int, margin: float, alpha: float, power: float = POWER) -> float:
    """The smallest slow-down that is found with `power`, as a fraction (0.05 is 5 %).

    `sd`: standard deviation of the pairs' log ratios; `margin`: as a fraction. Infinite where that many pairs can never reject.
    """
    _check(sd, margin)
    return math.expm1(min(math.log1p(margin) + detectable_shift(pairs, alpha, power) * sd, 700.0)) if sd > 0 else margin


def detectable_among(differences: npt.ArrayLike, pairs: int, margin: float, alpha: float, power: float = POWER) -> float | None:
    """`detectable` for the very noise that was seen, as a fraction: the larger of what its standard deviation tells and what the test finds in seeded
    resamples of it. A device with two kinds of core has noise of two humps, for which the standard deviation promises too much. None below two.
    """
    values = np.asarray(differences, dtype=np.float64)
    sd = noise(values)
    if sd is None or pairs < fewest_pairs(alpha):
        return None if sd is None else math.inf
    centred = values - np.median(values)
    # From both sides, since the test assumes symmetry.
    pool, generator = np.concatenate([centred, -centred]), np.random.default_rng(pairs)
    shift = _shift_found(lambda count: generator.choice(pool, (count, pairs)), pairs, alpha, power, _RESAMPLES)
    return max(detectable(sd, pairs, margin, alpha, power), math.expm1(math.log1p(margin) + max(0.0, shift)))


def decides(sd: float, pairs: int, margin: float, alpha: float, power: float = POWER) -> bool:
    """Whether so many pairs settle the two questions that a check is run for, each with `power`: a slow-down of twice the margin (in logarithms) is
    found, and where nothing changed that is proven. Both need the same distance from the margin, ln(1 + margin)."""
    return detectable_shift(pairs, alpha, power) * sd <= math.log1p(margin)


def pairs_needed(sd: float, margin: float, alpha: float, power: float = POWER) -> int | None:
    """The fewest pairs (even) that decide at this noise; None where even thousands do not.

    Raises:
        MeasurementError: a negative noise, or a margin that is not positive.
    """
    _check(sd, margin)
    pairs = fewest_even(alpha)
    while pairs <= _MOST_PAIRS and not decides(sd, pairs, margin, alpha, power):
        # Exact steps while they are cheap to see, then 5 % at a time: nobody runs 1,000 pairs for the sake of one.
        pairs += 2 if pairs < 200 else 2 * (pairs // 40)
    return pairs if pairs <= _MOST_PAIRS else None


@dataclass(frozen=True)
class Plan:
    """What fits a budget. `pairs`: 0 where not even the fewest fit; `spares`: pairs that may replace invalid ones, in time of their own.

    `detectable`: the smallest slow-down that is found with 80 % (a fraction), None where the noise is not known; `decisive`: whether that is at
    most twice the margin, so that an unchanged candidate can also be proven equivalent. `needed_pairs` and `needed_seconds`: what would be.
    """

    looks: Looks | None
    pairs: int
    spares: int
    iterations: int
    seconds: float
    detectable: float | None
    decisive: bool | None
    needed_pairs: int | None
    needed_seconds: float | None
    sentence: str


def plan(
    time_budget_seconds: float,
    launch_seconds: float,
    iteration_ms: float,
    sd: float | None,
    margin: float = 0.03,
    alpha: float = 0.01,
    *,
    looks: int = 1,
    tests: int = 1,
    min_iterations: int = FLOORS[0.90],
    most_pairs: int = MOST_PLANNED,
) -> Plan:
    """How many pairs of launches, and of how many iterations, fit `time_budget_seconds`.

    `launch_seconds`: what a launch takes besides its timed iterations (start, load, warm-up); `iteration_ms`: one iteration; `sd`: of the pairs' log
    ratios, from the device's history or a pilot, None where unknown. As many pairs as fit, since launches differ more than iterations do; what is
    left of the time makes launches longer. `looks` at most: fewer where so many pairs decide only with a larger share of alpha for each.

    Raises:
        MeasurementError: a time that is not positive, a negative noise, or a margin that is not positive.
    """
    if not (time_budget_seconds > 0 and launch_seconds >= 0 and iteration_ms > 0 and min_iterations >= 1):
        raise MeasurementError("a plan needs a positive budget, a positive time for an iteration and at least one iteration")
    _check(sd or 0.0, margin)
    each = alpha / tests
    fewest = fewest_even(each)
    shortest = 2 * (launch_seconds + min_iterations * iteration_ms / 1000)
    fits = min(int(time_budget_seconds / shortest) // 2 * 2, most_pairs // 2 * 2)
    needed = fewest if sd is None else pairs_needed(sd, margin, each)
    needed_seconds = None if needed is None else needed * shortest
    if fits < fewest:
        sentence = (
            f"{time_budget_seconds:g} s are too short: the fewest pairs that can decide are {fewest}, about {spoken_seconds(fewest * shortest)}"
            + _needs(needed, needed_seconds, fewest)
        )
        return Plan(None, 0, 0, min_iterations, 0.0, None, None if sd is None else False, needed, needed_seconds, sentence)
    iterations = max(min_iterations, int((time_budget_seconds / (2 * fits) - launch_seconds) * 1000 / iteration_ms))
    seconds = 2 * fits * (launch_seconds + iterations * iteration_ms / 1000)
    declared = _declared(fits, looks, sd, margin, alpha, tests)
    spares = max(2, fits // 10 * 2)
    what = f"{fits} pairs of launches with {iterations} iterations, about {spoken_seconds(seconds)}"
    if sd is None:
        return Plan(
            declared, fits, spares, iterations, seconds, None, None, needed, needed_seconds, f"{what}; the noise of this device is not known yet"
        )
    found = detectable(sd, fits, margin, declared.share)
    decisive = decides(sd, fits, margin, declared.share)
    sentence = f"{what}: a slow-down of {100 * found:.1f} % is found with {100 * POWER:.0f} %"
    if not decisive:
        sentence = f"cannot decide at this noise in {time_budget_seconds:g} s ({sentence})" + _needs(needed, needed_seconds, 0)
    return Plan(declared, fits, spares, iterations, seconds, found, decisive, needed, needed_seconds, sentence)


def _declared(pairs: int, most: int, sd: float | None, margin: float, alpha: float, tests: int) -> Looks:
    for count in range(most, 1, -1):
        declared = spread_looks(pairs, count, alpha, tests)
        if sd is None or decides(sd, pairs, margin, declared.share):
            return declared
    return spread_looks(pairs, 1, alpha, tests)


def noise(differences: npt.ArrayLike) -> float | None:
    """The standard deviation of log ratios; None below two."""
    values = np.asarray(differences, dtype=np.float64)
    return float(values.std(ddof=1)) if values.size >= 2 else None


def power_curve(sd: float, pairs: int, margin: float, alpha: float) -> list[tuple[float, float]]:
    """(slow-down in percent, chance that it is found), for a plot; empty where that many pairs can never reject."""
    if pairs < fewest_pairs(alpha):
        return []
    return [(percent(math.log1p(margin) + detectable_shift(pairs, alpha, power) * sd), power) for power in _CURVE]


def spoken_seconds(seconds: float) -> str:
    """A duration for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _needs(pairs: int | None, seconds: float | None, fewest: int) -> str:
    if pairs is None or seconds is None:
        return f"; not even {_MOST_PAIRS} pairs would: make the device quieter or the margin wider"
    return "" if pairs == fewest else f"; it needs {pairs} pairs, about {spoken_seconds(seconds)}"


def _check(sd: float, margin: float) -> None:
    if not (sd >= 0 and margin > 0):
        raise MeasurementError(f"power needs a noise that is not negative and a positive margin; got {sd:g} and {margin:g}")
