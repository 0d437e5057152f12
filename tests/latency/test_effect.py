from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdedge.latency.effect import hodges_lehmann, percent, shift_interval, slow_down, walsh_averages
from kdedge.latency.signed_rank import signed_rank


def test_walsh_averages_by_hand() -> None:
    assert walsh_averages([1.0, 5.0, 2.0]).tolist() == [1.0, 1.5, 2.0, 3.0, 3.5, 5.0]
    assert hodges_lehmann([1.0, 5.0, 2.0]) == 2.5  # the middle of 2.0 and 3.0


def test_the_interval_of_six_pairs_by_hand() -> None:
    # P(W+ <= 0) = 1/64 <= 0.025 < P(W+ <= 1) = 2/64: c = 0, the interval ends at the extremes.
    assert shift_interval([3.0, 1.0, 4.0, 1.5, 9.0, 2.6]) == (1.0, 9.0)
    assert shift_interval([3.0, 1.0, 4.0, 1.5, 9.0]) is None  # 1/32 > 0.025
    # At 90 %, c = 2: P(W+ <= 2) = 3/64 <= 0.05 < 5/64. Sums of two are ordered 2, 2.5, 3 | ... 12, 13, 18.
    assert shift_interval([3.0, 1.0, 4.0, 1.5, 9.0, 2.6], 0.90) == (1.5, 6.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-10_000, 10_000), min_size=7, max_size=20, unique=True), st.sampled_from([0.9, 0.95, 0.98]))
def test_the_interval_holds_just_what_neither_test_rejects(values: Sequence[int], confidence: float) -> None:
    interval = shift_interval(values, confidence)
    if interval is None:
        return
    level = (1 - confidence) / 2 * (1 + 1e-9)
    data = np.asarray(values, dtype=float)
    inside, outside = 0.01, -0.01  # Walsh averages are multiples of 0.5
    for shift, rejected in (
        (interval[0] + inside, False),
        (interval[1] - inside, False),
        (interval[0] + outside, True),
        (interval[1] - outside, True),
    ):
        found = signed_rank(data - shift)
        assert (min(found.p_greater, found.p_less) <= level) is rejected or interval[0] == interval[1]


def test_the_interval_covers_what_it_says() -> None:
    """10 pairs: P(W+ <= 8) = 0.0244, so 95.1 % exactly; 2,000 draws stay within the 99.9 % bounds of the binomial, skewed sums or not."""
    generator = np.random.default_rng(0)
    covered = 0
    heavy: npt.NDArray[np.float64] = np.asarray(generator.standard_t(3, size=(2000, 10)))
    for draws in heavy:  # symmetric, heavy tails: all that the interval needs is symmetry
        low, high = shift_interval(draws) or (0.0, 0.0)
        covered += low <= 0 <= high
    fewest, most = (stats.binom.ppf(level, 2000, 1 - 2 * 25 / 1024) for level in (0.0005, 0.9995))
    assert fewest <= covered <= most


def test_an_effect_is_told_in_percent_with_its_interval() -> None:
    found = slow_down("latency_median", np.log([1.05] * 3 + [1.06] * 2 + [1.04] * 2))
    assert (found.name, found.unit, found.n) == ("latency_median", "%", 7)
    assert found.value == pytest.approx(5.0, abs=0.3)
    assert found.low == pytest.approx(4.0)
    assert found.high == pytest.approx(6.0)
    assert slow_down("latency_median", [0.01]).interval is None
    assert percent(np.log(1.5)) == pytest.approx(50)
