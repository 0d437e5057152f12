from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdedge.errors import MeasurementError
from kdedge.latency.signed_rank import (
    binomial_at_least,
    doubled_ranks,
    fewest_pairs,
    log_ratios,
    null_distribution,
    signed_rank,
    smallest_p,
    untied,
)


def test_three_pairs_by_hand() -> None:
    # Sizes 1, 2, 3; W+ = 3 + 1 = 4. Of the 8 choices of signs, {3}+{1}, {3}+{2} and all three reach 4 or more: sums 4, 5, 6.
    found = signed_rank([0.1, -0.2, 0.3])
    assert (found.n, found.positive, found.negative) == (3, 2, 1)
    assert found.p_greater == 3 / 8
    assert found.p_less == 6 / 8  # all but 5 and 6
    assert found.sign_greater == 4 / 8  # 2 or 3 heads of 3
    assert found.sign_less == 7 / 8


def test_ties_share_the_middle_of_their_ranks_and_zeros_are_dropped() -> None:
    assert doubled_ranks(np.array([1.0, 2.0, 2.0, 5.0])).tolist() == [2, 5, 5, 8]
    assert doubled_ranks(np.array([3.0, 3.0, 3.0])).tolist() == [4, 4, 4]
    # Sizes 1, 2, 2 (ranks 1, 2.5, 2.5), the first negative: W+ = 5; only 5 and 6 reach it.
    found = signed_rank([0.0, -1.0, 2.0, 2.0, 0.0])
    assert (found.n, found.p_greater) == (3, 2 / 8)


def test_what_differs_by_rounding_is_tied_or_zero() -> None:
    exact = signed_rank([-1.0, 2.0, 2.0])
    assert signed_rank([-1.0, 2.0 + 1e-14, 2.0 - 1e-14, 1e-15]) == exact


def test_nothing_but_zeros_proves_nothing() -> None:
    found = signed_rank([0.0, 0.0])
    assert (found.n, found.p_greater, found.p_less, found.sign_greater) == (0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("pairs", range(1, 13))
@pytest.mark.parametrize("tied", [False, True])
def test_over_all_signs_a_level_is_never_exceeded(pairs: int, tied: bool) -> None:
    """P(p <= alpha) <= alpha for every alpha: every attainable p is checked against the share of sign patterns that reach it."""
    sizes = np.array([1 + number // 3 for number in range(pairs)], dtype=float) if tied else np.arange(1.0, pairs + 1)
    doubled = doubled_ranks(sizes)
    signs = np.array(list(itertools.product((0, 1), repeat=pairs)))
    sums = signs @ doubled
    chances = null_distribution(tuple(sorted(doubled.tolist())))
    upper = np.cumsum(chances[::-1])[::-1][sums]
    for alpha in np.unique(upper):
        assert np.mean(upper <= alpha) <= alpha
        assert np.mean(upper <= alpha) == pytest.approx(alpha)  # and none of the level is given away beyond what is discrete
    # The function itself, on a sample of patterns (all of them where there are few), in both directions.
    for pattern in signs[:: max(1, len(signs) // 64)]:
        values = np.where(pattern == 1, sizes, -sizes)
        observed = int(pattern @ doubled)
        found = signed_rank(values)
        assert found.p_greater == np.mean(sums >= observed)
        assert found.p_less == np.mean(sums <= observed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-10_000, 10_000).filter(bool), min_size=1, max_size=40, unique_by=abs))
def test_without_ties_it_is_scipys_exact_test(values: Sequence[int]) -> None:
    found = signed_rank(values)
    assert found.p_greater == pytest.approx(stats.wilcoxon(values, alternative="greater", method="exact").pvalue, rel=1e-12)
    assert found.p_less == pytest.approx(stats.wilcoxon(values, alternative="less", method="exact").pvalue, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12))
def test_turning_all_signs_turns_the_test_around(values: Sequence[int]) -> None:
    there, back = signed_rank(values), signed_rank([-value for value in values])
    assert (there.p_greater, there.p_less) == (back.p_less, back.p_greater)
    assert (there.sign_greater, there.sign_less) == (back.sign_less, back.sign_greater)


def test_the_distribution_is_one_and_symmetric() -> None:
    for pairs in (1, 7, 20, 52, 120):
        chances = untied(pairs)
        assert chances.size == pairs * (pairs + 1) // 2 + 1
        assert chances.sum() == pytest.approx(1.0, abs=1e-12)
        assert np.allclose(chances, chances[::-1], rtol=1e-9, atol=0)
        assert chances[0] == pytest.approx(smallest_p(pairs), rel=1e-12)


def test_seven_pairs_are_the_fewest_for_one_percent() -> None:
    assert [fewest_pairs(alpha) for alpha in (0.05, 0.01, 0.01 / 3, 0.5)] == [5, 7, 9, 1]
    assert signed_rank(np.arange(1.0, 8.0)).p_greater == 2**-7


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (3, 5), (5, 5), (40, 60)])
def test_the_sign_test_is_scipys_binomial_test(successes: int, n: int) -> None:
    assert binomial_at_least(successes, n) == pytest.approx(stats.binomtest(successes, n, alternative="greater").pvalue)


def test_log_ratios_are_of_positive_times_in_pairs() -> None:
    assert log_ratios([2.0, 1.0], [1.0, 2.0]).tolist() == pytest.approx([np.log(2), -np.log(2)])
    with pytest.raises(MeasurementError, match="2 times cannot be paired with 1"):
        log_ratios([1.0, 2.0], [1.0])
    with pytest.raises(MeasurementError, match="must be positive"):
        log_ratios([0.0], [1.0])
    with pytest.raises(MeasurementError, match="must be finite"):
        signed_rank([float("nan")])
    with pytest.raises(MeasurementError, match="between 0 and 1"):
        fewest_pairs(0)
