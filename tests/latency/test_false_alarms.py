"""What the check may never do, on simulated devices: 2,000 sessions a scenario, seeded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from kdedge.devices.simulation import SCENARIOS, Scenario, draw_session
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import MEDIAN, Order, Pair, Timed, orders, timed
from kdedge.latency.power import detectable, detectable_among
from kdedge.latency.signed_rank import signed_rank
from kdedge.latency.verdicts import CheckRule, judge, metric_test

Float64 = npt.NDArray[np.float64]

REPEATS = 2000
PAIRS = 10
ITERATIONS = 128
LAUNCH_SECONDS = 6.0  # 20 launches in two minutes: the drift and the step of the scenarios lie within
MARGIN, ALPHA = 0.03, 0.01
NOISY = [name for name in SCENARIOS if name not in ("throttle", "disconnects")]
MOST = stats.binom.ppf(0.999, REPEATS, ALPHA)


def sessions(scenario: Scenario, slow_down: float, seed: int) -> list[tuple[tuple[Order, ...], Float64]]:
    """Half of the sessions begin with AB and half with BA, as the seed of a check draws it: (orders, samples [sessions, launches, iterations])."""
    found = []
    for start in (0, 1):
        order = next(drawn for drawn in (orders(PAIRS, number) for number in range(20)) if drawn[0] == ("AB", "BA")[start])
        bases = [1.0 * (1 + slow_down if arm == "B" else 1.0) for both in order for arm in both]
        found.append((order, draw_session(scenario, 2 * seed + start, bases, REPEATS // 2, ITERATIONS, LAUNCH_SECONDS)[0]))
    return found


def log_ratios(order: tuple[Order, ...], samples: Float64) -> Float64:
    """[sessions, pairs]."""
    medians = np.log(np.median(samples, axis=-1))
    candidates = [2 * number + both.index("B") for number, both in enumerate(order)]
    baselines = [2 * number + both.index("A") for number, both in enumerate(order)]
    ratios: Float64 = medians[:, candidates] - medians[:, baselines]
    return ratios


@pytest.mark.parametrize("name", NOISY)
def test_identical_artifacts_are_never_flagged_more_often_than_alpha_where_iterations_are(name: str) -> None:
    """The same sessions show a naive test that counts iterations to flag far more than it says: so the test can see what it guards against."""
    states: Counter[str] = Counter()
    naive: list[float] = []
    seen: list[Float64] = []
    at_margin = 0
    for order, samples in sessions(SCENARIOS[name], 0.0, seed=1):
        ratios = log_ratios(order, samples)
        states.update(metric_test(MEDIAN, row, MARGIN, ALPHA).state for row in ratios)
        naive += np.asarray(stats.mannwhitneyu(samples[:, 0], samples[:, 1], axis=-1).pvalue).tolist()
        # The worst case: a true slow-down of just the margin. The model is multiplicative, so the same noise serves.
        at_margin += sum(signed_rank(row).p_greater <= ALPHA for row in ratios)
        seen.append(ratios)
    assert sum(states.values()) == REPEATS
    assert states["regressed"] <= MOST
    assert states["improved"] <= MOST
    assert at_margin <= MOST
    assert np.mean(np.asarray(naive) <= 0.05) > 0.25, "a naive test at 5 % should have failed here"
    # A check that always says `inconclusive` raises no false alarm either. Where a slow-down of twice the margin (in logarithms) is promised to be
    # found with some power, no change lies as far from the margin and must be proven as often.
    differences = np.concatenate(seen).ravel()
    for power in (0.5, 0.8, 0.95):
        if (detectable_among(differences, PAIRS, MARGIN, ALPHA, power) or np.inf) <= (1 + MARGIN) ** 2 - 1:
            assert states["equivalent"] >= stats.binom.ppf(0.001, REPEATS, power)
        else:
            assert name == "bimodal" or (name, power) == ("noisy", 0.95)


def test_a_slow_down_at_the_margin_is_at_worst_flagged_with_alpha_and_called_equivalent_with_alpha() -> None:
    states: Counter[str] = Counter()
    for order, samples in sessions(SCENARIOS["noisy"], MARGIN, seed=2):
        states.update(metric_test(MEDIAN, row, MARGIN, ALPHA).state for row in log_ratios(order, samples))
    assert 0 < states["regressed"] <= MOST
    assert 0 < states["equivalent"] <= MOST


def test_slow_downs_are_found_as_promised_and_the_more_the_larger() -> None:
    scenario = SCENARIOS["noisy"]
    order, samples = sessions(scenario, 0.0, seed=3)[0]
    ratios = log_ratios(order, samples)
    promised = detectable(float(ratios.std(ddof=1)), PAIRS, MARGIN, ALPHA)
    assert 0.04 < promised < 0.10
    found = []
    for slow_down in (0.0, 0.02, 0.04, promised, 0.08, 0.10):
        shifted = ratios + np.log1p(slow_down)
        found.append(np.mean([signed_rank(row - np.log1p(MARGIN)).p_greater <= ALPHA for row in shifted]))
    assert found == sorted(found)
    assert found[0] <= 0.002
    assert found[3] >= 0.8 - 3.3 * np.sqrt(0.16 / len(ratios))
    assert found[-1] >= 0.99


def test_all_a_then_all_b_would_flag_the_drift_that_abba_cancels() -> None:
    samples, _ = draw_session(replace(SCENARIOS["drift"], drift_per_minute=0.08), 4, [1.0] * (2 * PAIRS), 200, ITERATIONS, LAUNCH_SECONDS)
    medians = np.log(np.median(samples, axis=-1))
    apart = medians[:, PAIRS:] - medians[:, :PAIRS]
    in_turns = log_ratios(orders(PAIRS, 0), samples)
    rule = stats.binom.ppf(0.999, 200, ALPHA)
    assert sum(metric_test(MEDIAN, row, MARGIN, ALPHA).state == "regressed" for row in apart) > 100
    assert sum(metric_test(MEDIAN, row, MARGIN, ALPHA).state == "regressed" for row in in_turns) <= rule


def test_stopping_when_it_looks_good_would_raise_false_alarms_and_declared_looks_do_not() -> None:
    """At the margin, 1,500 sessions of up to 26 pairs: a look after every second pair from 8 on, at the full alpha, against three declared looks."""
    ratios = np.random.default_rng(5).normal(0, 0.02, (1500, 26))
    often = declared = 0
    looks = Looks((10, 18, 26))
    for row in ratios:
        often += any(signed_rank(row[:pairs]).p_greater <= ALPHA for pairs in range(8, 27, 2))
        declared += any(signed_rank(row[:pairs]).p_greater <= looks.share for pairs in looks.pairs)
    most = stats.binom.ppf(0.999, len(ratios), ALPHA)
    assert often > most
    assert declared <= most


@pytest.mark.parametrize("slow_down", [0.0, 0.10])
def test_throttling_in_the_middle_is_invalid_never_regressed(slow_down: float) -> None:
    """Even where the candidate is slower: what was measured of it then is not its speed."""
    scenario = replace(SCENARIOS["throttle"], throttle_at=40.0)
    order = orders(PAIRS, 0)
    bases = [1.0 * (1 + slow_down if arm == "B" else 1.0) for both in order for arm in both]
    samples, throttled = draw_session(scenario, 6, bases, 100, ITERATIONS, LAUNCH_SECONDS)
    assert 0 < throttled.sum() < throttled.size
    rule = CheckRule(Looks((PAIRS,)), MARGIN, (MEDIAN,))
    for session in samples:
        launches = [timed(one, ["throttled"] if hot else []) for one, hot in zip(session, throttled, strict=True)]
        found = judge(_paired(order, launches), rule)
        assert (found.state, found.exit_code) == ("invalid", 4)
        assert "throttled" in found.reason


def _paired(order: tuple[Order, ...], launches: list[Timed]) -> list[Pair]:
    both = [(launches[2 * number + each.index("A")], launches[2 * number + each.index("B")]) for number, each in enumerate(order)]
    return [Pair(number, order[number], baseline, candidate) for number, (baseline, candidate) in enumerate(both)]
