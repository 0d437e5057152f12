from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.exporters.quantize import observers
from kdedge.exporters.quantize.observers import HALF_BINS, Extremes, Histogram, best_affine, best_symmetric, weight_amplitudes

Array = npt.NDArray[Any]


def observed(values: Array) -> tuple[Histogram, float, float]:
    histogram, extremes = Histogram(), Extremes()
    histogram.update(values)
    extremes.update(values)
    return histogram, extremes.low, extremes.high


def rounding_error(values: Array, low: float, high: float) -> float:
    """Squared error of an 8-bit type with a free zero point over [low, high], measured by rounding every value."""
    step = (high - low) / 255
    zero = round(-low / step)
    integers = np.clip(np.rint(values / step) + zero, 0, 255)
    return float(np.square(values - (integers - zero) * step).sum())


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_histogram_does_not_depend_on_how_the_values_are_cut_into_batches(values: list[float], cuts: list[int]) -> None:
    array = np.array(values, np.float32)
    whole, pieces, backwards = Histogram(), Histogram(), Histogram()
    whole.update(array)
    for piece in np.split(array, sorted(cut for cut in cuts if cut < len(array))):
        pieces.update(piece)
    for value in array[::-1]:
        backwards.update(np.array([value]))
    assert whole.exponent == pieces.exponent == backwards.exponent
    assert (whole.counts == pieces.counts).all()
    assert (whole.counts == backwards.counts).all()
    assert whole.counts.sum() == np.count_nonzero(array)


def test_bins_widen_by_powers_of_two_and_keep_every_count() -> None:
    histogram = Histogram()
    histogram.update(np.array([1.0, -1.0, 0.5], np.float32))
    assert histogram.exponent == -10  # the smallest power of two of which HALF_BINS hold 1.0 strictly inside: 2^-11 ends at it
    histogram.update(np.array([3.0], np.float32))
    assert histogram.exponent == -9
    centres, counts = histogram.centres()
    half = 2.0**-10
    assert centres.tolist() == [-1.0 + half, 0.5 + half, 1.0 + half, 3.0 + half]
    assert counts.tolist() == [1, 1, 1, 1]


def test_memory_does_not_grow_with_the_samples_and_empty_batches_change_nothing() -> None:
    histogram, extremes = Histogram(), Extremes()
    for size in (0, 3, 1, 0, 7):
        batch = np.linspace(-1, 1, size, dtype=np.float32)
        histogram.update(batch)
        extremes.update(batch)
    assert histogram.counts.shape == (2 * HALF_BINS,)
    assert (extremes.low, extremes.high) == (-1.0, 1.0)


def test_large_tensors_are_thinned_evenly_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "VALUES_PER_EXAMPLE", 100)
    images = np.random.default_rng(0).normal(size=(4, 3, 20, 20)).astype(np.float32)
    together, apart = Histogram(), Histogram()
    together.update(images)
    for image in images:
        apart.update(image[None])
    assert (together.counts == apart.counts).all()
    assert 300 < together.counts.sum() <= 400


def test_thinning_sees_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3,200 values and a limit of 800 suggest every fourth; on rows of 16 that would be four columns for ever.
    monkeypatch.setattr(observers, "VALUES_PER_EXAMPLE", 800)
    columns = np.broadcast_to(np.linspace(100, 115, 16, dtype=np.float32), (1, 200, 16))
    histogram = Histogram()
    histogram.update(columns)
    assert len(histogram.centres()[0]) == 16


def test_a_uniform_tensor_keeps_its_whole_range() -> None:
    histogram, low, high = observed(np.linspace(-1, 3, 20001, dtype=np.float32))
    start, end = best_affine(histogram, low, high)
    assert start == pytest.approx(-1, rel=0.02)
    assert end == pytest.approx(3, rel=0.02)
    assert best_symmetric(histogram, low, high) == pytest.approx(3, rel=0.02)


def test_the_range_of_a_heavy_tailed_tensor_is_clipped_and_its_error_is_smaller() -> None:
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    values[:2] = 18.0, -18.0
    histogram, low, high = observed(values)
    start, end = best_affine(histogram, low, high)
    assert low <= start < 0 < end < high
    assert rounding_error(values, start, end) < 0.8 * rounding_error(values, low, high)
    amplitude = best_symmetric(histogram, low, high)
    assert rounding_error(values, -amplitude, amplitude) < 0.8 * rounding_error(values, -18, 18)


@given(st.integers(0, 1000), st.sampled_from(["normal", "laplace", "exponential"]))
@settings(max_examples=15, deadline=None)
def test_the_searched_range_is_never_much_worse_than_the_extremes(seed: int, kind: str) -> None:
    values = getattr(np.random.default_rng(seed), kind)(size=3000).astype(np.float32)
    histogram, low, high = observed(values)
    start, end = best_affine(histogram, low, high)
    assert min(low, 0) <= start <= 0 <= end <= max(high, 0)
    # The search minimises the expected error; that of 3000 given values scatters around it with a standard deviation of 1.6 %.
    assert rounding_error(values, start, end) <= 1.07 * rounding_error(values, min(low, 0.0), max(high, 0.0))


def test_a_tensor_that_was_always_zero_gets_an_empty_range() -> None:
    histogram, low, high = observed(np.zeros(10, np.float32))
    assert best_affine(histogram, low, high) == (0.0, 0.0)
    assert best_symmetric(histogram, low, high) == 0.0


def test_weight_amplitudes_are_per_channel_and_a_search_never_makes_a_channel_worse() -> None:
    weight = np.random.default_rng(0).standard_t(3, (5, 4, 3, 3)).astype(np.float32)
    weight[2] = 0
    low, high, widest = weight_amplitudes(weight, 0, search=False)
    assert widest.tolist() == [float(np.abs(channel).max()) for channel in weight]
    assert (low[2], high[2], widest[2]) == (0, 0, 0)
    searched = weight_amplitudes(weight, 0, search=True)[2]
    for channel, wide, best in zip(weight, widest, searched, strict=True):
        if wide > 0:
            errors = [np.square(channel - np.clip(np.rint(channel / (a / 127)), -127, 127) * (a / 127)).sum() for a in (wide, best)]
            assert errors[1] <= errors[0]
    assert weight_amplitudes(weight, 1, search=False)[2].shape == (4,)
