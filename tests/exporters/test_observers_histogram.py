from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.exporters.quantize.observers.histogram import FINEST, HALF_BINS, Histogram, sums_of


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
    assert whole.zeros == len(array) - np.count_nonzero(array)


def test_bins_widen_by_powers_of_two_and_keep_every_count() -> None:
    histogram = Histogram()
    histogram.update(np.array([1.0, -1.0, 0.5, 0.0], np.float32))
    assert histogram.exponent == -11  # the smallest power of two of which HALF_BINS hold 1.0 strictly inside: 2^-12 ends at it
    histogram.update(np.array([3.0], np.float32))
    assert (histogram.exponent, histogram.width, histogram.zeros) == (-10, 2.0**-10, 1)
    sums = sums_of(histogram)
    half = 2.0**-11
    assert sums.values.tolist() == [-1.0 + half, 0.5 + half, 1.0 + half, 3.0 + half]
    assert sums.count.tolist() == [0, 1, 2, 3, 4]
    assert sums.first[-1] == 3.5 + 4 * half


def test_a_small_negative_value_beside_a_large_one_is_not_taken_for_a_positive_one() -> None:
    histogram = Histogram()
    histogram.update(np.array([-1e-9, 1000.0, 0.0, 0.0], np.float32))
    assert histogram.counts[HALF_BINS - 1] == 1
    assert histogram.counts[HALF_BINS:].sum() == 1
    assert histogram.magnitudes().tolist()[0] == 1


def test_a_peak_that_is_known_widens_the_bins_although_no_value_reaches_it() -> None:
    known, seen = Histogram(), Histogram()
    known.update(np.array([1.0], np.float32), peak=5.0)
    seen.update(np.array([1.0, 5.0], np.float32))
    assert known.exponent == seen.exponent
    assert (np.flatnonzero(seen.counts - known.counts) == HALF_BINS + int(5.0 / seen.width)).all()


def test_the_largest_and_the_smallest_numbers_of_the_type_are_counted() -> None:
    histogram = Histogram()
    histogram.update(np.array([1e-38, -1e-38], np.float32))
    assert (histogram.exponent, histogram.counts.sum()) == (FINEST, 2)
    histogram.update(np.array([np.finfo(np.float32).max, np.finfo(np.float32).min], np.float32))
    assert histogram.counts.sum() == 4


def test_empty_batches_change_nothing() -> None:
    histogram = Histogram()
    histogram.update(np.zeros(0, np.float32))
    assert (histogram.exponent, histogram.zeros, histogram.width) == (None, 0, 0.0)
    assert sums_of(histogram).values.size == 0
