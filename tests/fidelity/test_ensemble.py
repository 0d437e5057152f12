from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from kdedge.errors import ModelError
from kdedge.fidelity.ensemble import ensemble_logits, read_logits


def test_two_members_by_hand() -> None:
    # softmax [3/4, 1/4] and [1/4, 3/4], weights 3/4 and 1/4: the mean is [9/16 + 1/16, 3/16 + 3/16] = [5/8, 3/8].
    found = ensemble_logits([np.log([[3.0, 1.0]]), np.log([[1.0, 3.0]])], [0.75, 0.25])
    assert found.tolist() == [[pytest.approx(math.log(5 / 8)), pytest.approx(math.log(3 / 8))]]
    assert found.dtype == np.float32


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_its_softmax_is_the_weighted_mean_of_the_members(seed: int, weight: float) -> None:
    a, b = np.random.default_rng(seed).normal(scale=5, size=(2, 4, 6))
    mean = weight * special.softmax(a, axis=1) + (1 - weight) * special.softmax(b, axis=1)
    assert special.softmax(ensemble_logits([a, b], [weight, 1 - weight]), axis=1) == pytest.approx(mean, abs=1e-5)


def test_one_member_keeps_its_raw_logits() -> None:
    logits = np.array([[100.0, -3.0]], np.float32)
    assert ensemble_logits([logits], [1.0]).tolist() == logits.tolist()


def test_extreme_members_do_not_overflow() -> None:
    found = ensemble_logits([np.array([[1e5, 0.0]]), np.array([[0.0, 1e5]])], [0.5, 0.5])
    assert found.tolist() == [[pytest.approx(math.log(0.5))] * 2]


def test_members_with_different_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="equal shapes"):
        ensemble_logits([np.zeros((1, 2)), np.zeros((1, 3))], [0.5, 0.5])


def test_logits_are_read_by_place_and_temperature() -> None:
    logits = np.array([[1.0, 2.0, 4.0, 8.0]], np.float32)
    assert read_logits(logits, 2.0, (3, 1)).tolist() == [[4.0, 1.0]]
    assert read_logits(logits, 2.0).tolist() == [[0.5, 1.0, 2.0, 4.0]]
    assert read_logits(logits, 2.0).dtype == np.float32
    assert read_logits(logits) is logits


@given(st.integers(0, 10_000), st.permutations(range(6)), st.integers(2, 6))
def test_what_is_left_of_a_cut_distribution_keeps_its_proportions(seed: int, places: list[int], count: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=3, size=(4, 6))
    whole = special.softmax(logits, axis=1)[:, places[:count]]
    assert special.softmax(read_logits(logits, 1.0, places[:count]), axis=1) == pytest.approx(whole / whole.sum(axis=1, keepdims=True), abs=1e-9)


@given(st.integers(0, 10_000), st.floats(0.2, 20))
def test_members_that_are_alike_are_worth_one_at_any_temperature(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(scale=3, size=(4, 5))
    read = read_logits(logits, temperature)
    assert special.softmax(ensemble_logits([read, read], [0.3, 0.7]), axis=1) == pytest.approx(
        special.softmax(logits / temperature, axis=1), abs=1e-5
    )
