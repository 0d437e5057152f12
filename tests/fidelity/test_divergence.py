from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from kdedge.fidelity.divergence import SQNR_LIMIT_DB, decibels, kl_divergence, largest_error, log_softmax, powers, sqnr_estimate

LOGITS = arrays.arrays(np.float32, (6, 4), elements=st.floats(-30, 30, width=32))


def test_kl_by_hand() -> None:
    # p = softmax([2, 0]) = [e^2, 1] / (e^2 + 1), q = [1/2, 1/2]: sum p (ln p - ln q) = 0.3278 nats.
    p = math.exp(2) / (math.exp(2) + 1)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    found = kl_divergence(np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]]))
    assert found.tolist() == [pytest.approx(expected)]
    assert found.tolist() == [pytest.approx(0.3278, abs=5e-5)]


def test_kl_is_of_the_reference_to_the_artifact_and_not_the_other_way() -> None:
    sure, unsure = np.array([[10.0, 0.0]]), np.array([[0.0, 0.0]])
    assert kl_divergence(sure, unsure)[0] == pytest.approx(math.log(2), abs=1e-3)
    assert kl_divergence(unsure, sure)[0] == pytest.approx(5 - math.log(2), abs=1e-3)  # (10 / 2) + ln(1/2) up to e^-10


@given(LOGITS, LOGITS)
def test_kl_agrees_with_scipy_and_is_never_negative(reference: np.ndarray, candidate: np.ndarray) -> None:
    found = kl_divergence(reference, candidate)
    peer = stats.entropy(special.softmax(reference.astype(np.float64), axis=1), special.softmax(candidate.astype(np.float64), axis=1), axis=1)
    assert found == pytest.approx(peer, abs=1e-9)
    assert (found >= 0).all()


@given(LOGITS, st.floats(-100, 100))
def test_kl_does_not_see_a_shift_of_all_logits(logits: np.ndarray, shift: float) -> None:
    assert kl_divergence(logits, logits.astype(np.float64) + shift) == pytest.approx(np.zeros(6), abs=1e-9)


def test_kl_is_finite_for_logits_that_overflow_an_exponential() -> None:
    reference, candidate = np.array([[1e4, -1e4, 0.0]], np.float32), np.array([[-1e4, 1e4, 0.0]], np.float32)
    assert kl_divergence(reference, candidate).tolist() == [pytest.approx(2e4)]
    assert np.exp(log_softmax(reference)).sum() == pytest.approx(1.0)


def test_sqnr_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])  # 25 + 25 = 50
    candidate = np.array([[3.0, 4.5], [0.5, 5.0]])  # 0.25 + 0.25 = 0.5
    assert powers(reference, candidate).tolist() == [[25.0, 0.25], [25.0, 0.25]]
    estimate = sqnr_estimate("sqnr_db", reference, candidate)
    assert (estimate.value, estimate.unit, estimate.n) == (20.0, "dB", 2)
    assert estimate.interval is None  # two examples say nothing about doubt


def test_one_bit_is_six_decibels() -> None:
    generator = np.random.default_rng(0)
    signal = generator.uniform(-1, 1, (20_000, 2))
    found = [sqnr_estimate("s", signal, np.round(signal * 2**bits) / 2**bits).value for bits in (7, 8)]
    assert found[1] - found[0] == pytest.approx(6.02, abs=0.1)


def test_sqnr_is_a_ratio_of_sums_and_its_interval_resamples_examples() -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(size=(200, 10))
    candidate = reference + generator.normal(scale=0.01, size=(200, 10))
    estimate = sqnr_estimate("s", reference, candidate)
    total = powers(reference, candidate).sum(axis=0)
    assert estimate.value == pytest.approx(10 * math.log10(total[0] / total[1]))
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high < estimate.low + 1


def test_equal_outputs_are_at_the_limit_and_not_infinite() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 3))
    estimate = sqnr_estimate("s", logits, logits)
    assert (estimate.value, estimate.low, estimate.high) == (SQNR_LIMIT_DB, SQNR_LIMIT_DB, SQNR_LIMIT_DB)
    assert decibels(np.array([[0.0, 1.0]])).tolist() == [-SQNR_LIMIT_DB]


def test_the_largest_error_is_found_wherever_it_is() -> None:
    reference = np.zeros((5000, 3), np.float32)
    candidate = reference.copy()
    candidate[4999, 2] = -0.5
    candidate[17, 0] = 0.25
    assert largest_error(reference, candidate) == 0.5
