"""The exact one-sided signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1:80) and the sign test beside it. Pure functions of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import MeasurementError

Float64 = npt.NDArray[np.float64]

_DECIMALS = 12
"""Differences are log ratios of times in nanoseconds: what differs by less than 1e-12 is tied, whatever rounding says."""


@dataclass(frozen=True)
class SignedRank:
    """Both one-sided tests of one sample of differences.

    `n`: differences that are not zero; `p_greater`: P(W+ >= observed) where the centre is at most 0; `p_less`: P(W+ <= observed) where it is at
    least 0. `positive` and `negative`: how many lie on each side; `sign_greater`, `sign_less`: the sign test's p values of the same two
    hypotheses, which need no symmetry and see less.
    """

    n: int
    p_greater: float
    p_less: float
    positive: int
    negative: int
    sign_greater: float
    sign_less: float


def signed_rank(differences: npt.ArrayLike) -> SignedRank:
    """Test whether differences lie above, or below, zero. Zeros are dropped, ties share the middle of their ranks.

    Exact whatever the ties: given the sizes, under the null each of the 2^n choices of signs is equally likely, and the sums of ranks of all of
    them are counted. The null is that differences lie symmetrically about zero.

    Raises:
        MeasurementError: a difference is not finite, or not one number each.
    """
    values = checked(differences)
    values = values[values != 0]
    if values.size == 0:
        return SignedRank(0, 1.0, 1.0, 0, 0, 1.0, 1.0)
    doubled = doubled_ranks(np.abs(values))
    observed = int(doubled[values > 0].sum())
    chances = null_distribution(tuple(sorted(doubled.tolist())))
    positive = int(np.count_nonzero(values > 0))
    negative = values.size - positive
    return SignedRank(
        n=values.size,
        p_greater=min(1.0, float(chances[observed:].sum())),
        p_less=min(1.0, float(chances[: observed + 1].sum())),
        positive=positive,
        negative=negative,
        sign_greater=binomial_at_least(positive, values.size),
        sign_less=binomial_at_least(negative, values.size),
    )


def checked(differences: npt.ArrayLike) -> Float64:
    """The differences as float64 [n], rounded so that ties are ties.

    Raises:
        MeasurementError: a difference is not finite, or not one number each.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise MeasurementError(f"paired differences must be finite numbers, one a pair; got an array of shape {list(values.shape)}")
    rounded: Float64 = np.round(values, _DECIMALS)
    return rounded


def doubled_ranks(sizes: Float64) -> npt.NDArray[np.int64]:
    """Twice the mid-ranks of `sizes`, which are whole numbers: of 1, 2, 2, 5 they are 2, 5, 5, 8."""
    _, place, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.int64] = (2 * last - counts + 1)[place]
    return ranks


@lru_cache(maxsize=512)
def null_distribution(doubled: tuple[int, ...]) -> Float64:
    """P(doubled W+ = s) for s = 0 .. sum, when every rank has its sign by a fair coin.

    Rank by rank, by the recursion of sums. All numbers are multiples of 2^-n, so float64 holds them exactly up to 52 ranks; beyond that they are
    rounded in the sixteenth digit.
    """
    chances = np.zeros(sum(doubled) + 1)
    chances[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: chances.size - rank]
        chances = (chances + shifted) / 2
    chances.setflags(write=False)
    return chances


def untied(n: int) -> Float64:
    """P(W+ = s), s = 0 .. n (n + 1) / 2, of `n` differences without ties."""
    chances: Float64 = null_distribution(tuple(range(2, 2 * n + 1, 2)))[::2]
    return chances


def binomial_at_least(successes: int, n: int) -> float:
    """P(B >= successes), B ~ Binomial(n, 1/2)."""
    tail = sum(math.comb(n, k) for k in range(successes, n + 1))
    return tail / (1 << n)


def smallest_p(n: int) -> float:
    """What the test gives where all of `n` differences lie on one side: 2^-n. It cannot give less."""
    return math.ldexp(1.0, -n)


def fewest_pairs(alpha: float) -> int:
    """The fewest pairs with which the test can reject at level `alpha`: 7 for 0.01.

    Raises:
        MeasurementError: alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise MeasurementError(f"the level of a test lies between 0 and 1; it is {alpha:g}")
    n = 1
    while smallest_p(n) > alpha:
        n += 1
    return n


def log_ratios(candidate: Sequence[float] | npt.NDArray[Any], baseline: Sequence[float] | npt.NDArray[Any]) -> Float64:
    """ln(candidate / baseline), pair by pair: what is tested, so that 3 % is 3 % of whatever the times are.

    Raises:
        MeasurementError: lengths differ, or a time is not positive.
    """
    after, before = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if after.shape != before.shape:
        raise MeasurementError(f"{after.size} times cannot be paired with {before.size}")
    if not (np.all(after > 0) and np.all(before > 0)):
        raise MeasurementError("a time must be positive to be compared; at least one is not")
    ratios: Float64 = np.log(after / before)
    return ratios
