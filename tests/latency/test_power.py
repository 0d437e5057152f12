from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kdedge.errors import MeasurementError
from kdedge.intervals import t_quantile
from kdedge.latency.power import (
    decides,
    detectable,
    detectable_among,
    detectable_shift,
    noise,
    pairs_needed,
    plan,
    power_curve,
    spoken_seconds,
)
from kdedge.latency.signed_rank import signed_rank

REPEATS = 1500


def detection(pairs: int, alpha: float, shift: float, seed: int) -> float:
    """Share of normal samples, `shift` standard deviations beyond the margin, that the exact test flags."""
    draws = shift + np.random.default_rng(seed).standard_normal((REPEATS, pairs))
    return float(np.mean([signed_rank(row).p_greater <= alpha for row in draws]))


@pytest.mark.parametrize("degrees", [1, 2, 3, 6, 9, 30, 199])
@pytest.mark.parametrize("probability", [0.5, 0.8, 0.99, 0.9975])
def test_students_quantiles_are_scipys(degrees: int, probability: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), abs=1e-9)


def test_the_formula_by_hand() -> None:
    # 30 pairs at 0.01 and 0.8: t_.99,29 = 2.462, t_.8,29 = 0.854; (2.462 + 0.854) / sqrt(30 / 1.05) = 0.620.
    assert detectable_shift(30, 0.01) == pytest.approx(0.620, abs=5e-4)
    # Noise 2.12 %, margin 3 %: ln 1.03 + 0.620 x 0.0212 = 0.0427.
    assert detectable(0.0212, 30, 0.03, 0.01) == pytest.approx(math.expm1(0.0427), abs=2e-4)


def test_a_test_that_can_never_reject_detects_nothing() -> None:
    assert math.isinf(detectable_shift(6, 0.01))
    assert power_curve(0.01, 6, 0.03, 0.01) == []
    # Seven pairs must all agree: Phi(z)^7 = 0.8 at z = 1.861; Student's formula alone would promise 1.57.
    assert detectable_shift(7, 0.01) == pytest.approx(stats.norm.ppf(0.8 ** (1 / 7)), abs=0.04)


@pytest.mark.parametrize(("pairs", "alpha"), [(8, 0.01), (8, 0.005), (10, 0.01), (16, 0.01), (30, 0.005)])
def test_at_the_stated_effect_four_of_five_are_found(pairs: int, alpha: float) -> None:
    found = detection(pairs, alpha, detectable_shift(pairs, alpha), seed=pairs)
    slack = 3.3 * math.sqrt(0.8 * 0.2 / REPEATS)  # the 99.9 % bound of the binomial
    assert found >= 0.8 - slack
    assert found <= 0.9  # and it promises no more than it must


def test_detection_rises_with_the_slow_down() -> None:
    shifts = [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]
    found = [detection(10, 0.01, shift, seed=3) for shift in shifts]  # the same draws, so monotone without doubt
    assert found == sorted(found)
    assert found[0] <= 0.02
    assert found[-1] >= 0.9


def test_more_pairs_and_less_noise_detect_less() -> None:
    assert [detectable_shift(pairs, 0.01) for pairs in (8, 12, 16, 24, 40, 80)] == sorted(
        (detectable_shift(p, 0.01) for p in (8, 12, 16, 24, 40, 80)), reverse=True
    )
    assert detectable(0.0, 10, 0.03, 0.01) == 0.03
    assert detectable(0.01, 10, 0.03, 0.01) < detectable(0.02, 10, 0.03, 0.01)
    curve = power_curve(0.02, 10, 0.03, 0.01)
    assert [effect for effect, _ in curve] == sorted(effect for effect, _ in curve)
    assert {chance: effect for effect, chance in curve}[0.8] == pytest.approx(100 * detectable(0.02, 10, 0.03, 0.01))


def test_the_pairs_that_are_needed_decide_and_two_fewer_do_not() -> None:
    for sd in (0.02, 0.03, 0.05):
        needed = pairs_needed(sd, 0.03, 0.01)
        assert needed is not None
        assert needed % 2 == 0
        assert decides(sd, needed, 0.03, 0.01)
        assert not decides(sd, needed - 2, 0.03, 0.01) or needed == 8
        # Twice the margin (in logarithms) is then found, which is also the distance from no change to the margin.
        assert math.log1p(detectable(sd, needed, 0.03, 0.01)) <= 2 * math.log1p(0.03)
    assert pairs_needed(0.0, 0.03, 0.01) == 8
    assert pairs_needed(5.0, 0.03, 0.01) is None


def test_noise_of_two_humps_is_promised_less_than_its_standard_deviation_tells() -> None:
    """A core that takes 15 % longer in 3 of 10 launches."""
    generator = np.random.default_rng(0)
    cores = np.log(np.where(generator.random((2, REPEATS, 10)) < 0.3, 1.15, 1.0)) + 0.01 * generator.standard_normal((2, REPEATS, 10))
    ratios = cores[0] - cores[1]
    sd = noise(ratios.ravel())
    promised = detectable_among(ratios.ravel(), 10, 0.03, 0.01)
    assert sd is not None
    assert promised is not None
    found = [
        np.mean([signed_rank(row + math.log1p(slow) - math.log1p(0.03)).p_greater <= 0.01 for row in ratios])
        for slow in (promised, detectable(sd, 10, 0.03, 0.01))
    ]
    assert found[0] >= 0.8 - 3.3 * math.sqrt(0.16 / REPEATS)
    assert found[1] < 0.75  # what the standard deviation alone promises
    assert detectable_among([0.01], 10, 0.03, 0.01) is None
    assert detectable_among([0.01, 0.02], 6, 0.03, 0.01) == math.inf
    normal = np.random.default_rng(1).normal(0, 0.02, 5000)
    assert detectable_among(normal, 10, 0.03, 0.01) == pytest.approx(detectable(0.02, 10, 0.03, 0.01), rel=0.05)


def test_a_plan_fits_its_budget() -> None:
    for budget in (20, 60, 300):
        found = plan(budget, 0.35, 0.8, 0.006, looks=3, tests=2)
        assert found.pairs % 2 == 0
        assert found.iterations >= 64
        assert found.seconds <= budget
        assert found.seconds == pytest.approx(2 * found.pairs * (0.35 + found.iterations * 0.0008))
        assert found.looks is not None
        assert found.looks.last == found.pairs
        assert found.detectable == pytest.approx(detectable(0.006, found.pairs, 0.03, found.looks.share))
        assert found.decisive


def test_more_time_than_pairs_are_worth_makes_launches_longer() -> None:
    found = plan(600, 0.35, 0.8, 0.006)
    assert found.pairs == 40
    assert found.iterations > 5000


def test_a_budget_that_cannot_decide_says_what_would() -> None:
    found = plan(60, 3.0, 5.0, 0.03)
    assert (found.pairs, found.decisive) == (8, False)
    assert found.needed_pairs == pairs_needed(0.03, 0.03, 0.01) == 16
    assert found.needed_seconds == pytest.approx(16 * 2 * (3 + 64 * 0.005))
    assert "cannot decide at this noise" in found.sentence
    assert "it needs 16 pairs, about 2 min" in found.sentence


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_what_a_budget_that_cannot_decide_needs_is_more_than_it_has(looks: int) -> None:
    """Each look costs the last one a part of alpha, so a plan has fewer where that decides."""
    undecided = 0
    for seconds in (16, 22, 26, 30, 40, 60):
        for sd in np.linspace(0.01, 0.06, 26):
            found = plan(seconds, 0.7, 1.0, float(sd), looks=looks, tests=2)
            if found.decisive is False and found.needed_pairs is not None:
                assert found.needed_pairs > found.pairs, (seconds, sd, found.sentence)
                undecided += 1
    assert undecided > 20
    noisy, quiet = (plan(26, 0.7, 1.0, sd, looks=looks, tests=2).looks for sd in (0.0275, 0.005))
    assert noisy is not None
    assert quiet is not None
    assert (noisy.pairs, quiet.pairs[0]) == ((16,), 16 if looks == 1 else 10)


def test_a_budget_too_short_for_any_verdict_plans_nothing() -> None:
    found = plan(10, 3.0, 5.0, None)
    assert (found.pairs, found.looks, found.needed_pairs) == (0, None, 8)
    assert found.sentence == "10 s are too short: the fewest pairs that can decide are 8, about 54 s"


def test_unknown_noise_promises_nothing() -> None:
    found = plan(60, 0.3, 1.0, None)
    assert (found.detectable, found.decisive) == (None, None)
    assert found.pairs > 0
    assert "not known yet" in found.sentence


def test_what_means_nothing_is_refused() -> None:
    for wrong in (lambda: plan(0, 1, 1, 0.1), lambda: detectable(-1, 10, 0.03, 0.01), lambda: pairs_needed(0.1, 0, 0.01), lambda: t_quantile(0.4, 3)):
        with pytest.raises(MeasurementError):
            wrong()


def test_durations_are_told_to_people() -> None:
    assert [spoken_seconds(seconds) for seconds in (53.1, 100, 12 * 60, 3.5 * 3600)] == ["54 s", "2 min", "12 min", "3.5 h"]
    assert noise([0.1]) is None
    assert noise([0.0, 0.2]) == pytest.approx(math.sqrt(0.02))
