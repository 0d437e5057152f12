"""What every observer promises, and values worked out by hand for min-max, moving average, percentile and MSE."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.exporters.quantize.observers.choices import Choices, choices
from kdedge.exporters.quantize.observers.extremes import minmax, moving_average
from kdedge.exporters.quantize.observers.percentile import percentile
from kdedge.exporters.quantize.observers.seen import GROUP, Seen, extremes_of
from kdedge.exporters.quantize.observers.squared_error import squared_error
from kdedge.exporters.quantize.ranges import OBSERVERS

Array = npt.NDArray[Any]

# Examples [n, 4]: whole numbers of 2^-16, so that no observer meets a subnormal.
EXAMPLES = st.lists(st.lists(st.integers(-(2**24), 2**24), min_size=4, max_size=4), min_size=1, max_size=40).map(
    lambda rows: (np.array(rows, np.float64) / 2**16).astype(np.float32)
)


def fed(examples: Array, cuts: list[int] | None = None) -> Seen:
    """What is seen of these examples, cut into batches at these places."""
    seen = Seen()
    for batch in np.split(examples, sorted(cut for cut in cuts or [] if cut < len(examples))):
        seen.update(*extremes_of(batch), batch)
    return seen


def single(values: Any) -> Seen:
    """Each value is an example."""
    return fed(np.asarray(values, np.float32).reshape(-1, 1))


# ---- all of them -------------------------------------------------------------------------------------------------------------


def test_each_observer_of_the_table_has_its_range() -> None:
    assert tuple(name for name, _, _ in choices(single([1.0, -2.0]), 99.0)) == OBSERVERS


@given(EXAMPLES, st.lists(st.integers(0, 40), max_size=5))
@settings(max_examples=40, deadline=None)
def test_no_observer_depends_on_how_the_examples_are_cut_into_batches(examples: Array, cuts: list[int]) -> None:
    assert choices(fed(examples), 97.0) == choices(fed(examples, cuts), 97.0) == choices(fed(examples, list(range(40))), 97.0)


@given(EXAMPLES)
@settings(max_examples=40, deadline=None)
def test_every_range_holds_zero_and_is_no_wider_than_what_was_seen(examples: Array) -> None:
    low, high = min(float(examples.min()), 0.0), max(float(examples.max()), 0.0)
    for name, symmetric, (start, end) in choices(fed(examples), 99.0):
        assert 0.0 <= symmetric <= max(-low, high), name
        assert low <= start <= 0.0 <= end <= high, name


@given(EXAMPLES, st.integers(-20, 20))
@settings(max_examples=40, deadline=None)
def test_values_twice_as_large_give_ranges_twice_as_large(examples: Array, power: int) -> None:
    factor = 2.0**power  # exact in every step of every observer
    plain, scaled = choices(fed(examples), 98.0), choices(fed(examples * np.float32(factor)), 98.0)
    assert scaled == tuple((name, symmetric * factor, (start * factor, end * factor)) for name, symmetric, (start, end) in plain)


@given(EXAMPLES)
@settings(max_examples=40, deadline=None)
def test_the_hundredth_percentile_is_min_max(examples: Array) -> None:
    seen = fed(examples)
    assert percentile(seen, 100.0) == minmax(seen)


@pytest.mark.parametrize("order", [1, -1])
def test_only_the_moving_average_depends_on_the_order_of_the_examples(order: int) -> None:
    examples = np.linspace(-1, 3, 400, dtype=np.float32).reshape(100, 4)
    one, other = named(choices(fed(examples), 99.0)), named(choices(fed(examples[::order].copy()), 99.0))
    assert [name for name in one if one[name] != other[name]] == ([] if order == 1 else ["moving-average"])


def named(found: Choices) -> dict[str, tuple[float, tuple[float, float]]]:
    return {name: (symmetric, affine) for name, symmetric, affine in found}


def test_a_tensor_that_was_always_zero_or_never_had_a_value_gets_an_empty_range() -> None:
    for _, symmetric, affine in choices(single(np.zeros(10)), 99.0):
        assert (symmetric, affine) == (0.0, (0.0, 0.0))
    empty = Seen()
    empty.update(*extremes_of(np.zeros((3, 0), np.float32)), np.zeros((3, 0), np.float32))
    assert (empty.rows, empty.low > empty.high) == (0, True)


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_uniform_tensor_keeps_its_whole_range(name: str) -> None:
    examples = np.random.default_rng(0).permutation(np.linspace(-1, 3, 400_000, dtype=np.float32)).reshape(100, -1)
    symmetric, (start, end) = named(choices(fed(examples), 99.99))[name]
    assert (symmetric, start, end) == pytest.approx((3.0, -1.0, 3.0), rel=0.02)


@pytest.mark.parametrize("name", ["percentile", "entropy"])
def test_one_value_far_out_does_not_set_the_range(name: str) -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32).reshape(100, -1)
    values[50, 7] = 40.0
    symmetric, (start, end) = named(choices(fed(values), 99.99))[name]
    assert 2.0 < symmetric < 8.0
    assert 2.0 < end < 8.0
    assert -6.0 < start < -2.0


def test_memory_does_not_grow_with_the_examples() -> None:
    batch = np.random.default_rng(0).normal(size=(8, 500)).astype(np.float32)

    def peak(batches: int) -> int:
        tracemalloc.start()
        seen = Seen()
        for number in range(batches):
            grown = batch * np.float32(number + 1)
            seen.update(*extremes_of(grown), grown)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen.rows == 8 * batches
        return highest

    peak(5)
    assert peak(200) < peak(20) + 20_000  # what 180 batches more would take: 2.9 MB


# ---- min-max and moving average ------------------------------------------------------------------------------------------------


def test_min_max_is_the_smallest_and_the_largest_value() -> None:
    seen = fed(np.array([[0.5, -0.25], [3.0, 1.0]], np.float32))
    assert (seen.low, seen.high) == (-0.25, 3.0)
    assert minmax(seen) == (3.0, (-0.25, 3.0))
    assert minmax(single([2.0, 5.0])) == (5.0, (0.0, 5.0))
    assert minmax(single([-2.0, -5.0])) == (5.0, (-5.0, 0.0))


def test_a_moving_average_moves_by_a_tenth_a_group_of_examples() -> None:
    examples = np.zeros((2 * GROUP + 1, 2), np.float32)
    examples[3] = 0.0, 1.0
    examples[GROUP + 5] = -1.0, 2.0
    examples[2 * GROUP] = -1.0, 4.0  # a group of one
    # High: 1, then 1 + 0.1 (2 - 1) = 1.1, then 1.1 + 0.1 (4 - 1.1) = 1.39. Low: 0, -0.1, -0.19.
    symmetric, affine = moving_average(fed(examples))
    assert symmetric == pytest.approx(1.39)
    assert affine == pytest.approx((-0.19, 1.39))
    assert moving_average(fed(examples[:GROUP])) == (1.0, (0.0, 1.0))


# ---- percentile ------------------------------------------------------------------------------------------------------------------

WIDTH = 1 / 32  # of a bin where the largest magnitude is 100: 4,096 of them reach to 128


def test_what_a_percentile_cuts_comes_off_the_only_tail() -> None:
    # 10 of 1, 2, ..., 100 may lie beyond: 91 to 100 do, and the range ends right behind the bin of 90.
    assert percentile(single(range(1, 101)), 90.0) == (90 + WIDTH, (0.0, 90 + WIDTH))
    # A hundred zeros more: 10 of 200 values are 5 %.
    assert percentile(single([*range(1, 101), *[0] * 100]), 95.0)[0] == 90 + WIDTH


def test_what_a_percentile_cuts_comes_half_off_each_of_two_tails() -> None:
    both = single([*range(-100, 0), *range(1, 101)])
    # Of the magnitudes, 20 of 200 lie beyond 90 (10 on each side); of each tail 10. A bin holds its edge on the left.
    assert percentile(both, 90.0) == (90 + WIDTH, (-90.0, 90 + WIDTH))


def test_a_percentile_is_counted_from_the_far_end_even_within_a_bin() -> None:
    # 300 values in the bin at 1 (wide 2^-11: 4,096 of them reach to 2), nothing else: a third of them beyond leaves two thirds of the bin,
    # but never more than was seen.
    seen = single([1.0] * 299 + [1.0 + 2.0**-12])
    assert percentile(seen, 100 - 100 / 3)[0] == 1.0 + 2.0**-12
    assert percentile(seen, 25.0)[0] == pytest.approx(1.0 + 2.0**-11 / 4)


# ---- mean squared error ----------------------------------------------------------------------------------------------------------


def test_the_mse_range_balances_rounding_against_clipping() -> None:
    seen = Seen()
    seen.update(np.array([1.0]), np.array([10.0]), np.array([1.0] * 1_000_000 + [10.0], np.float32))
    # Symmetric, a: 10^6 (a / 127)^2 / 12 + (10 - a)^2 is least where a (1 + 10^6 / (12 x 127^2)) = 10.
    # Affine, b: the same with 255 steps.
    symmetric, (start, end) = squared_error(seen)
    assert symmetric == pytest.approx(10 / (1 + 1e6 / (12 * 127**2)), rel=0.01)
    assert end == pytest.approx(10 / (1 + 1e6 / (12 * 255**2)), rel=0.01)
    assert start == 0.0


def rounding_error(values: Array, low: float, high: float) -> float:
    """Squared error of an 8-bit type with a free zero point over [low, high], measured by rounding every value."""
    step = (high - low) / 255
    zero = round(-low / step)
    integers = np.clip(np.rint(values / step) + zero, 0, 255)
    return float(np.square(values - (integers - zero) * step).sum())


def test_the_range_of_a_heavy_tailed_tensor_is_clipped_and_its_error_is_smaller() -> None:
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    values[:2] = 18.0, -18.0
    amplitude, (start, end) = squared_error(fed(values.reshape(100, -1)))
    low, high = float(values.min()), float(values.max())
    assert low <= start < 0 < end < high
    assert rounding_error(values, start, end) < 0.8 * rounding_error(values, low, high)
    assert rounding_error(values, -amplitude, amplitude) < 0.8 * rounding_error(values, -18, 18)


@given(st.integers(0, 1000), st.sampled_from(["normal", "laplace", "exponential"]))
@settings(max_examples=15, deadline=None)
def test_the_searched_range_is_never_much_worse_than_the_extremes(seed: int, kind: str) -> None:
    values = getattr(np.random.default_rng(seed), kind)(size=3000).astype(np.float32)
    start, end = squared_error(fed(values.reshape(100, -1)))[1]
    # The search minimises the expected error; that of 3000 given values scatters around it with a standard deviation of 1.6 %.
    assert rounding_error(values, start, end) <= 1.07 * rounding_error(values, min(values.min(), 0.0), max(values.max(), 0.0))
