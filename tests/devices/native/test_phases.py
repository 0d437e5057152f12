"""One row of times is cut into warm-up and timed runs by the rule that the worker follows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.devices.native.phases import enough, runs, warm
from kdedge.runtimes.job import LaunchRule

RULE = LaunchRule(warmup_seconds=1.0, warmup_iterations=10, min_seconds=2.0, min_iterations=64, max_seconds=60.0)
MS = 1_000_000


@pytest.mark.parametrize(
    ("milliseconds", "count", "expected"),
    [
        (10, 500, 100),  # 1 s of 10 ms
        (200, 100, 10),  # 1 s is 5 runs, but 10 are asked
        (10, 50, 49),  # all of them are not enough: one is left to be timed
        (10, 1, 0),
        (10_000, 12, 6),  # ten runs are asked, and 60 s are the limit
    ],
)
def test_warm_up_ends_when_both_minima_are_met(milliseconds: int, count: int, expected: int) -> None:
    assert warm(np.full(count, milliseconds * MS), RULE) == expected


@pytest.mark.parametrize(
    ("milliseconds", "count", "expected"), [(10, 200, True), (10, 199, False), (100, 63, False), (100, 64, True), (2000, 30, True), (2000, 29, False)]
)
def test_timed_runs_are_enough_by_both_minima_or_by_the_limit(milliseconds: int, count: int, expected: bool) -> None:
    assert enough(np.full(count, milliseconds * MS), RULE) is expected


@pytest.mark.parametrize(("mean", "expected"), [(0.0, 74), (0.01, 300), (0.1, 74), (10.0, 12), (100.0, 2)])
def test_the_number_of_runs_follows_from_the_mean(mean: float, expected: int) -> None:
    # 0.01: 100 + 200; 0.1: 10 + 64; 10: the limit of 60 s allows 6 in each phase; 100: one in each.
    assert runs(RULE, mean) == expected


@given(mean=st.integers(10, 10_000).map(lambda milliseconds: milliseconds / 1000))
def test_so_many_runs_of_that_mean_are_enough(mean: float) -> None:
    samples = np.full(runs(RULE, mean), round(mean * 1e9))
    cut = warm(samples, RULE)
    assert samples[:cut].sum() >= 1e9
    assert enough(samples[cut:], RULE)
