from __future__ import annotations

from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.exporters.quantize.observers.entropy import counts_of, divergences, entropy
from kdedge.exporters.quantize.observers.seen import Seen, extremes_of


def test_the_divergence_of_a_small_window_is_the_one_worked_out_by_hand() -> None:
    # Four of five bins, two levels. P = (4, 2, 0, 2 + 1) / 9. The levels hold 6 in two bins and 2 in one that is not empty: Q = (3, 3, 0, 2) / 8.
    counts = counts_of(np.array([4, 2, 0, 2, 1]))
    found = divergences(counts, np.array([0]), np.array([4]), 2)
    by_hand = 4 / 9 * log((4 / 9) / (3 / 8)) + 2 / 9 * log((2 / 9) / (3 / 8)) + 3 / 9 * log((3 / 9) / (2 / 8))
    assert found == pytest.approx([by_hand])


def test_what_lies_below_a_window_goes_to_its_first_bin() -> None:
    # P = (5 + 1, 1) / 7, and with a level for each bin Q = (1, 1) / 2.
    counts = counts_of(np.array([5, 1, 1]))
    assert divergences(counts, np.array([1]), np.array([3]), 2) == pytest.approx([6 / 7 * log(12 / 7) + 1 / 7 * log(2 / 7)])


def slow_divergence(bins: list[int], start: int, end: int, levels: int) -> float:
    """Bin by bin, from the definition."""
    p = [float(value) for value in bins[start:end]]
    p[0] += sum(bins[:start])
    p[-1] += sum(bins[end:])
    q = [0.0] * len(p)
    edges = [round((end - start) * level / levels) for level in range(levels + 1)]
    for left, right in pairwise(edges):
        inside = bins[start + left : start + right]
        for place, value in enumerate(inside):
            q[left + place] = sum(inside) / sum(other > 0 for other in inside) if value else 0.0
    return sum(one / sum(p) * log((one / sum(p)) / (other / sum(q))) for one, other in zip(p, q, strict=True) if one)


@given(st.lists(st.integers(0, 9), min_size=8, max_size=24), st.integers(0, 3), st.integers(2, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_the_fast_divergence_equals_the_definition(bins: list[int], start: int, levels: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(start + levels, len(bins)))
    bins[start] += 1  # a window ends at bins that are not empty
    bins[end - 1] += 1
    found = float(divergences(counts_of(np.array(bins)), np.array([start]), np.array([end]), levels)[0])
    assert found == pytest.approx(slow_divergence(bins, start, end, levels), abs=1e-12)
    assert found >= -1e-12


def seen_of(values: npt.NDArray[np.float64]) -> Seen:
    seen = Seen()
    rows = values.astype(np.float32).reshape(100, -1)
    seen.update(*extremes_of(rows), rows)
    return seen


def test_zeros_do_not_count() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=100_000), 0.0)
    assert entropy(seen_of(values)) == entropy(seen_of(np.concatenate([values, np.zeros(900_000)])))


def test_after_a_relu_all_levels_lie_above_zero() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=200_000))
    symmetric, (start, end) = entropy(seen_of(values))
    assert start == 0.0
    # 256 levels instead of 128 of the same magnitudes: less has to be clipped.
    assert end >= symmetric
    symmetric, (start, end) = entropy(seen_of(-values))
    assert end == 0.0
    assert start <= -symmetric * 0.99


def test_a_tail_on_one_side_is_clipped_there_only() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.uniform(-1, 0, 100_000), random.exponential(0.5, 99_990), np.linspace(20, 30, 10)])
    _, (start, end) = entropy(seen_of(random.permutation(values)))
    assert start == pytest.approx(-1.0, rel=0.05)
    assert 1.5 < end < 10.0


def test_few_values_far_apart_are_kept() -> None:
    symmetric, (start, end) = entropy(seen_of(np.tile([-4.0, 1.0, 2.0, 8.0], 25)))
    assert symmetric == pytest.approx(8.0)
    assert (start, end) == pytest.approx((-4.0, 8.0))
