"""Golden values from papers and by hand, identities, peers (scipy), and coverage: exact where it can be enumerated, simulated where not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdedge.errors import KdedgeError
from kdedge.intervals import (
    FEWEST_FOR_BOOTSTRAP,
    bootstrap_interval,
    function_of_means,
    mcnemar,
    mean_estimate,
    mean_over_runs,
    median_estimate,
    median_interval,
    newcombe,
    paired_difference,
    proportion,
    student_t,
    wilson,
)

Float64 = npt.NDArray[np.float64]

# ---- proportions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],  # Newcombe 1998, Stat. Med. 17:857, table I
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_with_no_failure_is_n_over_n_plus_z_squared() -> None:
    assert wilson(10, 10) == pytest.approx((10 / (10 + 1.959964**2), 1.0), abs=1e-7)
    assert wilson(10, 10)[1] == 1.0


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_stays_within_0_and_1_and_mirrors(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    peer = stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=1e-9)


@pytest.mark.parametrize("n", [20, 100, 360])
def test_wilson_covers_the_truth_95_percent_of_the_time_on_average(n: int) -> None:
    intervals = np.array([wilson(k, n) for k in range(n + 1)])
    coverages = []
    for p in np.linspace(0.02, 0.98, 193):  # exact: every outcome, weighted by its probability
        inside = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
        coverages.append(float(stats.binom.pmf(np.arange(n + 1), n, p)[inside].sum()))
    assert 0.945 <= np.mean(coverages) <= 0.96
    assert min(coverages) > 0.83  # its known worst case, at extreme p


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_an_impossible_proportion_is_an_error(successes: int, n: int) -> None:
    with pytest.raises(KdedgeError, match="0 <= successes <= n"):
        wilson(successes, n)


# ---- means -----------------------------------------------------------------------------------------------------------------


def test_zero_one_scores_get_wilson_and_other_scores_the_bootstrap() -> None:
    binary = mean_estimate("accuracy", [1.0] * 8 + [0.0] * 2)
    assert binary == proportion("accuracy", 8, 10)
    assert binary.unit == "fraction"
    assert binary.value == 0.8
    graded = mean_estimate("bleu", np.linspace(0, 1, 41), unit="points")
    assert graded.value == pytest.approx(0.5)
    assert (graded.n, graded.unit) == (41, "points")
    assert graded.low is not None
    assert graded.high is not None
    assert graded.low < 0.5 < graded.high


def test_a_divergence_that_is_zero_everywhere_is_no_proportion() -> None:
    found = mean_estimate("kl_student", np.zeros(50), unit="nats")
    assert (found.value, found.low, found.high, found.unit) == (0.0, 0.0, 0.0, "nats")
    assert paired_difference("kl_student", np.zeros(50), np.ones(50), unit="nats").p_value is None


def test_too_few_examples_give_no_bootstrap_interval() -> None:
    values = np.arange(FEWEST_FOR_BOOTSTRAP) + 0.5
    assert mean_estimate("x", values[:-1]).interval is None
    assert mean_estimate("x", values).interval is not None


def test_the_same_scores_and_seed_give_the_same_interval_and_another_seed_another() -> None:
    scores = np.random.default_rng(0).exponential(size=100)
    assert mean_estimate("x", scores, seed=1) == mean_estimate("x", scores, seed=1)
    assert mean_estimate("x", scores, seed=1) != mean_estimate("x", scores, seed=2)


def test_equal_scores_give_an_interval_of_no_width() -> None:
    assert mean_estimate("kl", np.full(50, 0.1)).interval == pytest.approx((0.1, 0.1))
    assert mean_estimate("kl", np.full(50, 3e-17)).interval == pytest.approx((3e-17, 3e-17), abs=1e-25)


@pytest.mark.parametrize("draw", [lambda g: g.normal(size=200), lambda g: g.exponential(size=200), lambda g: g.lognormal(size=200)])
def test_the_bootstrap_agrees_with_scipys_bca(draw: Callable[[np.random.Generator], Float64]) -> None:
    values = draw(np.random.default_rng(3))
    ours = bootstrap_interval(values[:, None], lambda means: means[:, 0], seed=0, resamples=9999)
    peer = stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", random_state=np.random.default_rng(0)).confidence_interval
    width = peer.high - peer.low
    assert ours == pytest.approx((peer.low, peer.high), abs=0.05 * width)


def test_a_heavy_tail_moves_both_limits_up_as_bca_should() -> None:
    values = np.random.default_rng(5).lognormal(size=100)
    bca = bootstrap_interval(values[:, None], lambda means: means[:, 0], seed=0)
    resampled = np.random.default_rng(1).choice(values, size=(4000, 100)).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert bca is not None
    assert bca[0] > low
    assert bca[1] > high


@pytest.mark.parametrize("draw", [lambda g: g.normal(1, 1, 60), lambda g: g.exponential(1, 60)])
def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says(draw: Callable[[np.random.Generator], Float64]) -> None:
    generator, repeats = np.random.default_rng(11), 400
    covered = 0
    for seed in range(repeats):
        low, high = mean_estimate("x", draw(generator), seed=seed).interval or (math.inf, -math.inf)
        covered += low <= 1 <= high
    # Small samples of skewed numbers cost a little: 92 % is the promise at 60, and more than 99 % would be a useless interval.
    assert stats.binom.ppf(0.001, repeats, 0.92) <= covered <= stats.binom.ppf(0.999, repeats, 0.97)


def test_a_ratio_of_sums_is_resampled_by_rows() -> None:
    signal = np.random.default_rng(2).exponential(size=300)
    columns = np.stack([signal, 4 * signal], axis=1)  # every row has the ratio 1/4, so every resample has it too
    estimate = function_of_means("ratio", columns, lambda means: means[:, 0] / means[:, 1], "")
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize(("scores", "match"), [([], "at least one"), ([[1.0]], r"shape \[1, 1\]"), ([1.0, math.nan], "number 1 of 2 is not finite")])
def test_scores_that_are_no_scores_are_named(scores: list[float], match: str) -> None:
    with pytest.raises(KdedgeError, match=match):
        mean_estimate("accuracy", scores)


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=60))
def test_a_bootstrap_interval_stays_within_the_scores(scores: list[float]) -> None:
    estimate = mean_estimate("x", scores)
    assert estimate.low is not None
    assert estimate.high is not None
    slack = 1e-9 * max(1.0, max(map(abs, scores)))
    assert min(scores) - slack <= estimate.low <= estimate.high <= max(scores) + slack or estimate.unit == "fraction"


# ---- paired differences ----------------------------------------------------------------------------------------------------


def test_mcnemar_by_hand() -> None:
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == mcnemar(lost, gained)
    if gained + lost:
        assert mcnemar(gained, lost) == pytest.approx(
            stats.binomtest(gained, gained + lost).pvalue, rel=1e-6, abs=1e-290
        )  # the peer underflows first


def test_newcombe_gives_the_published_interval() -> None:
    # Airway hyper-responsiveness before and after transplantation, 21 children: Fagerland, Lydersen, Laake 2014, Stat. Med. 33:2850.
    assert newcombe(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0))
def test_newcombe_holds_the_difference_and_mirrors(cells: tuple[int, int, int, int]) -> None:
    both, first, second, neither = cells
    low, high = newcombe(*cells)
    assert -1 <= low <= (first - second) / sum(cells) <= high <= 1
    swapped = newcombe(both, second, first, neither)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("shares", [(0.85, 0.03, 0.05, 0.07), (0.9, 0.0, 0.02, 0.08), (0.4, 0.2, 0.2, 0.2)])
def test_newcombe_covers_the_true_difference(shares: tuple[float, ...]) -> None:
    repeats = 1000
    tables = np.random.default_rng(4).multinomial(200, shares, size=repeats)
    truth = shares[1] - shares[2]
    covered = 0
    for table in tables:
        low, high = newcombe(*map(int, table))
        covered += low <= truth <= high
    assert covered >= stats.binom.ppf(0.001, repeats, 0.94)


def test_paired_zero_one_scores_count_what_changed() -> None:
    before = [1.0] * 10 + [0.0] * 10
    after = [1.0] * 7 + [0.0] * 3 + [1.0] * 1 + [0.0] * 9
    found = paired_difference("accuracy", after, before)
    assert (found.gained, found.lost, found.estimate.value) == (1, 3, -0.1)
    assert found.p_value == mcnemar(1, 3)
    assert found.estimate.interval == newcombe(7, 1, 3, 9)
    assert found.estimate.unit == "fraction"


def test_paired_graded_scores_get_a_bootstrap_of_the_differences() -> None:
    generator = np.random.default_rng(8)
    hard = generator.normal(0, 10, size=80)  # examples differ much, the two models little: only pairing can see it
    found = paired_difference("score", hard + 0.5 + generator.normal(0, 0.1, 80), hard, unit="points")
    assert found.p_value is None
    assert found.gained == 80
    assert found.estimate.low is not None
    assert found.estimate.low > 0.4
    assert paired_difference("score", hard, hard, unit="points").estimate.interval == (0.0, 0.0)


def test_unequal_lengths_cannot_be_paired() -> None:
    with pytest.raises(KdedgeError, match="3 scores cannot be paired with 2"):
        paired_difference("accuracy", [1, 0, 1], [1, 0])


# ---- medians ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (12, 3, 10), (15, 4, 12), (20, 6, 15)])
def test_the_median_interval_takes_the_tabled_ranks(n: int, low: int, high: int) -> None:
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1))
    assert median_interval(values) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_below_six_launches_there_is_no_interval(n: int) -> None:
    assert median_interval(np.arange(n)) is None
    estimate = median_estimate("latency_median", [2.0] * n, "ms")
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.0, None, None, n)


@given(st.integers(6, 1200))
def test_the_median_interval_covers_at_least_95_percent_and_the_next_narrower_does_not(n: int) -> None:
    low, high = median_interval(np.arange(1, n + 1)) or (0, 0)
    rank = int(low)
    assert high == n + 1 - rank
    assert 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5) >= 0.95 - 1e-12
    assert 1 - 2 * stats.binom.cdf(rank, n, 0.5) < 0.95


@given(st.lists(st.floats(0.01, 1e4), min_size=6, max_size=40), st.floats(0.1, 10))
def test_the_median_interval_follows_a_change_of_unit(values: list[float], scale: float) -> None:
    low, high = median_interval(values) or (0, 0)
    assert low <= np.median(values) <= high
    assert median_interval(np.array(values) * scale) == pytest.approx((low * scale, high * scale))


# ---- means over runs -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400))
def test_students_t_is_the_tabled_one(degrees: int) -> None:
    assert student_t(degrees) == pytest.approx(float(stats.t.ppf(0.975, degrees)), rel=1e-9)


def test_three_runs_have_an_interval_worked_out_by_hand() -> None:
    # mean 3, standard deviation 1, t(2) = 4.3027: 4.3027 / sqrt(3) = 2.4841.
    estimate = mean_over_runs("gain", [2.0, 3.0, 4.0], "points")
    assert estimate.value == 3.0
    assert estimate.interval == pytest.approx((0.51586, 5.48414), abs=1e-5)
    assert (estimate.n, estimate.unit) == (3, "points")


@pytest.mark.parametrize("runs", [[0.5], [0.1 + 0.2, 0.3, 0.3]])
def test_runs_that_show_no_spread_have_no_interval(runs: list[float]) -> None:
    assert mean_over_runs("gain", runs, "").interval is None


def test_no_degree_of_freedom_is_refused() -> None:
    with pytest.raises(KdedgeError, match="at least one degree"):
        student_t(0)


def test_the_t_interval_of_three_normal_runs_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(1.0, 2.0, (4000, 3))
    inside = [low <= 1.0 <= high for low, high in (mean_over_runs("x", row, "").interval or (np.nan, np.nan) for row in draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
