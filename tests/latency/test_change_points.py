from __future__ import annotations

import numpy as np
import pytest
from scipy import signal, stats

from kdedge.errors import MeasurementError
from kdedge.latency.change_points import change_points, correlation_around, distances, energies, whitened


def noise(seed: int, n: int, rho: float = 0.0, sd: float = 0.015) -> np.ndarray:
    found: np.ndarray = signal.lfilter([np.sqrt(1 - rho * rho)], [1.0, -rho], np.random.default_rng(seed).normal(0, sd, n + 50))[50:]
    return found


def test_the_energy_of_a_split_by_hand() -> None:
    """0, 0, 2, 2 in two halves: E|X - Y| = 2, nothing within; 2 x 2 / 4 x (2 x 2) = 4."""
    assert energies(distances(np.array([0.0, 0.0, 2.0, 2.0])), 2).tolist() == [4.0]


def test_energies_are_those_of_the_definition() -> None:
    values = np.random.default_rng(0).normal(size=9)
    found = energies(distances(values), 3)
    for place, m in enumerate(range(3, 7)):
        left, right = values[:m], values[m:]
        between = np.abs(left[:, None] - right[None, :]).mean()
        within = [np.abs(part[:, None] - part[None, :]).sum() / (part.size * (part.size - 1)) for part in (left, right)]
        assert found[place] == pytest.approx(m * (9 - m) / 9 * (2 * between - sum(within)))


def test_a_step_of_five_percent_is_found_with_its_range_of_runs() -> None:
    found_near = 0
    for seed in range(30):
        logs = noise(seed, 30)
        logs[18:] += np.log(1.05)
        found = change_points(np.exp(logs))
        found_near += any(point.first <= 17 and point.last >= 18 for point in found)  # the true change lies in the range
        for point in found:
            assert point.after == point.before - 1
            assert point.first <= point.after < point.before <= point.last
            assert point.p_value >= 1 / 1000
    assert found_near >= 25


def test_a_clear_step_is_where_it_is() -> None:
    logs = noise(0, 20, sd=0.002)
    logs[8:] += np.log(1.10)
    (point,) = change_points(np.exp(logs))
    assert (point.after, point.before, point.first, point.last) == (7, 8, 7, 8)
    assert point.change == pytest.approx(10, abs=0.5)
    assert point.p_value == 0.001


def test_two_steps_are_two_and_a_small_one_is_none() -> None:
    logs = noise(1, 45, sd=0.003)
    logs[15:] += np.log(1.08)
    logs[30:] += np.log(0.90)
    assert [point.before for point in change_points(np.exp(logs))] == [15, 30]
    logs = noise(1, 45, sd=0.003)
    logs[20:] += np.log(1.02)
    assert change_points(np.exp(logs)) == ()  # below the margin of 3 %
    assert [point.before for point in change_points(np.exp(logs), margin=0.01)] == [20]


@pytest.mark.parametrize("place", [0, 1, 12, 22, 23])
def test_a_lone_spike_is_no_change(place: int) -> None:
    for seed in range(5):
        logs = noise(seed, 24)
        logs[place] += np.log(2)
        assert change_points(np.exp(logs)) == ()


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_noise_whose_neighbours_are_alike_raises_few_false_alarms(rho: float) -> None:
    """Without any margin, at 5 %: the alarms stay within the 99.9 % bound of 5 % (7 % where rho is 0.6 and 24 runs tell it only roughly)."""
    series = 150
    alarms = sum(bool(change_points(np.exp(noise(seed, 24, rho)), 1e-9, level=0.05, seed=seed)) for seed in range(series))
    assert alarms <= stats.binom.ppf(0.999, series, 0.05 if rho < 0.5 else 0.07)


def test_a_plain_permutation_would_raise_many() -> None:
    """The same noise, not whitened: the test above can see."""
    alarms = 0
    for seed in range(60):
        apart = distances(noise(seed, 24, 0.6))
        generator = np.random.default_rng(seed)
        shuffles = [generator.permutation(24) for _ in range(199)]
        exceeding = sum(energies(apart[np.ix_(order, order)], 3).max() >= energies(apart, 3).max() for order in shuffles)
        alarms += (1 + exceeding) / 200 <= 0.05
    assert alarms > stats.binom.ppf(0.999, 60, 0.07)


def test_the_same_history_gives_the_same_answer() -> None:
    logs = noise(3, 30)
    logs[20:] += 0.06
    assert change_points(np.exp(logs), seed=5) == change_points(np.exp(logs), seed=5)


def test_short_and_still_histories_have_no_change() -> None:
    assert change_points([]) == ()
    assert change_points([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]) == ()  # six runs: one is lost to whitening
    assert change_points([1.0] * 40) == ()


def test_whitening_takes_out_the_correlation_and_not_the_step() -> None:
    logs = noise(0, 4000, 0.5)
    logs[2000:] += 1.0
    rho = correlation_around(logs, 2000)
    assert rho == pytest.approx(0.5, abs=0.05)
    white = whitened(logs, rho)
    assert np.corrcoef(white[:1990], white[1:1991])[0, 1] == pytest.approx(0, abs=0.05)
    assert white[2010:].mean() - white[:1990].mean() == pytest.approx(1 - rho, abs=0.01)


def test_what_means_nothing_is_refused() -> None:
    for wrong in ([0.0], [float("nan")], [[1.0]]):
        with pytest.raises(MeasurementError, match="one positive number a run"):
            change_points(wrong)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="at least 999 permutations"):
        change_points([1.0], permutations=100)
