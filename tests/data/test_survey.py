from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.data.survey import facts_of


def test_mean_and_deviation_are_over_all_pixels_of_each_channel() -> None:
    # Channel 0: 0, 255 -> mean 1/2, deviation 1/2; channel 1: 51 = 255/5 twice; channel 2: 0, 51 -> mean 1/10, deviation 1/10.
    facts = facts_of(np.array([[[0, 51, 0], [255, 51, 51]]], np.uint8))
    assert facts.mean == pytest.approx((0.5, 0.2, 0.1))
    assert facts.std == pytest.approx((0.5, 0.0, 0.1))
    assert facts.size == (1, 2)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_facts_of_parts_add_up_to_those_of_the_whole(first: int, second: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (first + second, 4, 3, 3), dtype=np.uint8)
    assert facts_of(images[:first]) + facts_of(images[first:]) == facts_of(images)
    scaled = images.reshape(-1, 3) / 255
    assert facts_of(images).mean == pytest.approx(tuple(scaled.mean(axis=0)), abs=1e-12)
    assert facts_of(images).std == pytest.approx(tuple(scaled.std(axis=0)), abs=1e-12)


def test_images_of_two_sizes_have_no_common_size_and_weigh_by_their_pixels() -> None:
    small, large = np.zeros((1, 1, 3), np.uint8), np.full((1, 3, 3), 255, np.uint8)
    both = facts_of(small) + facts_of(large)
    assert both.size is None
    assert both.mean == pytest.approx((0.75, 0.75, 0.75))
