from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.latency.percentiles import FLOORS, nearest_rank


def early_stopping_floor(p: float) -> int:
    """By literal arithmetic: the smallest n with (1 - q)^n + n q (1 - q)^(n - 1) <= 0.01, q = 1 - p."""
    q = 1 - p
    n = 2
    while math.exp(n * math.log1p(-q)) + n * q * math.exp((n - 1) * math.log1p(-q)) > 0.01:
        n += 1
    return n


@pytest.mark.parametrize("p", FLOORS)
def test_the_floors_are_those_of_the_early_stopping_rule(p: float) -> None:
    assert FLOORS[p] == early_stopping_floor(p)


@pytest.mark.parametrize(
    ("n", "p", "rank"),
    [
        (64, 0.90, 58),
        (100, 0.90, 90),
        (101, 0.90, 91),
        (130, 0.90, 117),
        (200, 0.95, 190),
        (1000, 0.99, 990),
        (662, 0.99, 656),
        (10_000, 0.999, 9990),
    ],
)
def test_nearest_rank_by_hand(n: int, p: float, rank: int) -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert nearest_rank(samples, p) == rank


@pytest.mark.parametrize("p", FLOORS)
def test_below_its_floor_a_percentile_is_refused(p: float) -> None:
    samples = np.arange(FLOORS[p], dtype=np.float64)
    assert nearest_rank(samples[:-1], p) is None
    assert nearest_rank(samples, p) is not None


@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=300))
def test_at_least_that_share_of_the_samples_is_no_slower(samples: list[int]) -> None:
    found = nearest_rank(np.array(samples), 0.90)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= 0.9 * len(samples)
    assert sum(sample < found for sample in samples) < 0.9 * len(samples)


def test_other_percentiles_do_not_exist() -> None:
    with pytest.raises(KeyError):
        nearest_rank(np.arange(100), 0.5)
