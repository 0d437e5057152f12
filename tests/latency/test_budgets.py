from __future__ import annotations

import numpy as np
import pytest
from scipy import signal, stats

from kdedge.errors import MeasurementError
from kdedge.latency.budgets import autocorrelation, order_bounds, percentile_bounds


def ar1(generator: np.random.Generator, rho: float, shape: tuple[int, ...]) -> np.ndarray:
    noise = generator.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - rho * rho)
    found: np.ndarray = signal.lfilter([1.0], [1.0, -rho], noise, axis=-1)
    return found


def test_44_samples_are_the_fewest_that_bound_a_p90_at_99_percent() -> None:
    ordered = np.arange(1.0, 45.0)
    assert order_bounds(ordered[:43], 0.9, 43)[1] is None  # 0.9^43 = 0.0108
    assert order_bounds(ordered, 0.9, 44)[1] == 44.0  # 0.9^44 = 0.0097


@pytest.mark.parametrize(("n", "p"), [(100, 0.9), (500, 0.9), (64, 0.5), (1000, 0.95)])
def test_bounds_are_the_ranks_of_the_binomial(n: int, p: float) -> None:
    low, high = order_bounds(np.arange(1.0, n + 1), p, n)
    ranks = np.arange(1, n + 1)
    below = stats.binom.cdf(ranks - 1, n, p)
    assert high == ranks[below >= 0.99][0]
    assert low == ranks[below <= 0.01][-1]


def test_fewer_effective_samples_widen_the_bounds() -> None:
    ordered = np.arange(1.0, 1001.0)
    widths = []
    for effective in (1000, 500, 200, 60):
        low, high = order_bounds(ordered, 0.9, effective)
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths == sorted(widths)
    assert order_bounds(ordered, 0.9, 0.5) == (None, None)


def test_the_correlation_of_neighbours_is_found_through_levels_and_outliers() -> None:
    generator = np.random.default_rng(0)
    series = 100 + generator.normal(0, 5, (20, 1)) + ar1(generator, 0.4, (20, 500))
    series[generator.random(series.shape) < 0.01] += 1000
    assert autocorrelation(list(series)) == pytest.approx(0.4, abs=0.06)
    assert autocorrelation([np.ones(10)]) == 0.0


@pytest.mark.parametrize(("launch_sd", "rho"), [(0.0, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_bounds_of_a_p90_cover_it_although_iterations_depend_on_one_another(launch_sd: float, rho: float) -> None:
    """10 launches of 200: the share of bounds that miss stays within the 99.9 % bound of 1 % (2 % where launches differ, as the function says), and
    with all iterations counted as independent it does not."""
    generator = np.random.default_rng(1)
    repeats, quantile = 300, stats.norm.ppf(0.9) * np.sqrt(1 + launch_sd**2)
    missed = naive = 0
    for _ in range(repeats):
        launches = generator.normal(0, launch_sd, (10, 1)) + ar1(generator, rho, (10, 200))
        high = percentile_bounds(list(launches), 0.9).high
        missed += high is not None and high < quantile
        plain = order_bounds(np.sort(launches.ravel()), 0.9, launches.size)[1]
        naive += plain is not None and plain < quantile
    level = 0.01 if launch_sd == 0 else 0.02
    assert missed <= stats.binom.ppf(0.999, repeats, level)
    if launch_sd or rho:
        assert naive > stats.binom.ppf(0.999, repeats, 0.01)


def test_bounds_lie_around_what_was_seen_and_too_few_samples_have_none_above() -> None:
    generator = np.random.default_rng(0)
    bounds = percentile_bounds([30 + generator.standard_normal(200) for _ in range(10)], 0.9)
    assert bounds.low is not None
    assert bounds.high is not None
    assert bounds.low < bounds.value < bounds.high
    few = percentile_bounds([30 + generator.standard_normal(20) for _ in range(3)], 0.99)
    assert few.high is None  # 0.99^459 = 0.0099: 459 are the fewest


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(MeasurementError, match="at least 3 launches"):
        percentile_bounds([np.ones(100)] * 2, 0.9)
