from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.errors import MeasurementError
from kdedge.latency.holm import confirmed, holm
from kdedge.latency.looks import Looks, fewest_even, spread_looks


def test_alpha_is_shared_by_the_looks_and_tests() -> None:
    assert Looks((10, 14, 18)).share == pytest.approx(0.01 / 3)
    assert Looks((10, 14), alpha=0.02, tests=2).share == pytest.approx(0.005)
    assert [Looks((10, 14, 18)).number_of(pairs) for pairs in (10, 14, 18)] == [1, 2, 3]


def test_a_look_that_was_not_declared_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"a look after 12 pairs was not declared \(declared: after 10, 14, 18\)"):
        Looks((10, 14, 18)).number_of(12)


def test_a_look_that_could_never_reject_is_refused() -> None:
    # 2^-8 = 0.0039 > 0.01 / 3
    with pytest.raises(MeasurementError, match=r"after 8 pairs can reach p = 0\.0039 at best.*begin with 10 pairs"):
        Looks((8, 14, 18))
    Looks((8, 14))


@pytest.mark.parametrize("pairs", [(), (9,), (12, 10), (10, 10), (0,)])
def test_looks_are_even_and_rising(pairs: tuple[int, ...]) -> None:
    with pytest.raises(MeasurementError):
        Looks(pairs)


def test_looks_are_spread_between_the_earliest_and_the_last() -> None:
    assert spread_looks(18, 3).pairs == (10, 14, 18)
    assert spread_looks(40, 2, tests=2).pairs == (10, 40)  # 2^-10 <= 0.0025 < 2^-8
    assert spread_looks(12, 3).pairs == (8, 12)  # no room for three
    assert spread_looks(8, 3).pairs == (8,)
    assert (fewest_even(0.01), fewest_even(0.005), fewest_even(0.003)) == (8, 8, 10)
    with pytest.raises(MeasurementError):
        spread_looks(6, 1)


def test_a_look_that_spares_less_than_a_quarter_of_the_pairs_is_not_worth_its_share_of_alpha() -> None:
    """With 12 pairs at 0.0025 in place of 0.005 one of ten slow-downs of 1.2 standard deviations beyond the margin is lost, for one pair less."""
    assert spread_looks(12, 2, tests=2).pairs == (12,)
    assert spread_looks(14, 2, tests=2).pairs == (10, 14)
    assert spread_looks(10, 2).pairs == (10,)
    assert spread_looks(12, 2, tests=2).share == 0.005


def test_holm_by_hand() -> None:
    # 0.01 x 3, then max(0.03, 0.02 x 2), then max(0.04, 0.5).
    assert holm([0.5, 0.01, 0.02]) == pytest.approx((0.5, 0.03, 0.04))
    assert holm([0.04, 0.03]) == pytest.approx((0.06, 0.06))
    assert holm([]) == ()
    with pytest.raises(MeasurementError):
        holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_p_and_bonferroni(values: list[float]) -> None:
    for plain, adjusted in zip(values, holm(values), strict=True):
        assert plain <= adjusted <= min(1.0, plain * len(values)) + 1e-15


def test_holm_holds_the_rate_of_a_family() -> None:
    uniform = np.random.default_rng(0).random((4000, 5))
    assert np.mean([min(holm(list(row))) <= 0.05 for row in uniform]) < 0.0625  # 0.05 and 3.3 standard errors
    assert np.mean(uniform.min(axis=1) <= 0.05) > 0.2  # what happens without


def test_a_flag_counts_only_where_the_second_measurement_raises_it_too() -> None:
    assert confirmed("regressed", "regressed") == "regressed"
    assert {confirmed("regressed", other) for other in ("equivalent", "improved", "inconclusive")} == {"inconclusive"}
    assert confirmed("regressed", "invalid") == "invalid"
