from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.errors import MeasurementError
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import MEDIAN, P90, Order, Pair, Timed, orders
from kdedge.latency.verdicts import CheckRule, CheckVerdict, judge, metric_test

ONE = CheckRule(Looks((10,)), metrics=(MEDIAN,))
TWO = CheckRule(Looks((10,), tests=2))


def pairs_of(slow_downs: Sequence[float], p90: Sequence[float] | None = None, dropped: Sequence[int] = ()) -> list[Pair]:
    """Pairs whose candidate is slower by the given percent; a little noise keeps ranks apart."""
    found = []
    for number, (slow, order) in enumerate(zip(slow_downs, orders(len(slow_downs), 0), strict=True)):
        tail = slow if p90 is None else p90[number]
        problems = ("throttled",) if number in dropped else ()
        found.append(Pair(number, order, Timed(1.0, 1.2, 100), Timed(1 + slow / 100, 1.2 * (1 + tail / 100), 100, problems)))
    return found


NOISE = [0.1, -0.2, 0.3, -0.4, 0.5, -0.5, 0.4, -0.3, 0.2, -0.1]


def around(percent: float) -> list[float]:
    return [percent + each for each in NOISE]


@pytest.mark.parametrize(
    ("slow_down", "state", "code"),
    [(6.0, "regressed", 1), (0.0, "equivalent", 0), (2.0, "equivalent", 0), (3.0, "inconclusive", 3), (-1.0, "equivalent", 0), (-6.0, "improved", 0)],
)
def test_five_verdicts_and_their_exit_codes(slow_down: float, state: str, code: int) -> None:
    found = judge(pairs_of(around(slow_down)), ONE)
    assert (found.state, found.exit_code) == (state, code)
    assert found.tests[0].effect.value == pytest.approx(slow_down, abs=0.1)
    assert found.final


def test_a_verdict_says_what_it_rests_on() -> None:
    found = judge(pairs_of(around(6.0)), ONE)
    # All ten lie beyond the margin: p = 2^-10.
    assert found.tests[0].p_regressed == 2**-10
    assert found.tests[0].sign_p == 2**-10
    assert (found.tests[0].slower, found.tests[0].faster) == (10, 0)
    assert found.reason.startswith("median is slower by more than 3 %: 6.0")
    assert "(p 0.00098)" in found.reason
    assert found.tests[0].bounds is not None
    assert found.tests[0].bounds[0] > 3  # the interval at the test's level lies beyond the margin exactly where the test rejects
    assert found.noise == pytest.approx(np.std(np.log1p(np.array(around(6.0)) / 100), ddof=1))
    assert found.detectable_after is not None
    assert 0.03 < found.detectable_after < 0.04


def test_the_bounds_and_the_tests_agree() -> None:
    generator = np.random.default_rng(0)
    delta = math.log1p(0.03)
    for centre in (0.0, delta, 2 * delta):
        for values in centre + 0.01 * generator.standard_normal((150, 12)):
            found = metric_test(MEDIAN, values, 0.03, 0.01)
            assert found.bounds is not None
            assert (found.bounds[0] > 3) == (found.p_regressed <= 0.01)
            assert (found.bounds[1] < 3) == (found.p_equivalent <= 0.01)
            assert (found.bounds[1] < 100 * math.expm1(-delta)) == (found.p_improved <= 0.01)


def test_throttled_pairs_are_dropped_and_named_and_too_few_are_invalid() -> None:
    regressed = pairs_of(around(6.0), dropped=(4, 5, 6, 7, 8, 9))
    found = judge(regressed, ONE)
    assert (found.state, found.exit_code) == ("invalid", 4)
    assert found.reason == "4 pairs count of the 10 that were declared, half of them in each order: throttled (6 launches)"
    assert found.notes == ("6 of 10 pairs dropped: throttled (6 launches)",)
    assert found.tests == ()


def test_replacements_make_a_check_whole_again() -> None:
    run = pairs_of(around(6.0), dropped=(2, 3))
    spares: list[tuple[int, Order]] = [(10, run[2].order), (11, run[3].order)]
    run += [Pair(number, order, Timed(1.0, 1.2, 100), Timed(1.061, 1.27, 100)) for number, order in spares]
    found = judge(run, ONE)
    assert found.state == "regressed"
    assert found.counted == (0, 1, 4, 5, 6, 7, 8, 9, 10, 11)
    # Two spares of one order cannot stand for both.
    run[11] = Pair(11, run[10].order, run[11].baseline, run[11].candidate)
    assert judge(run, ONE).state == "invalid"


def test_other_environments_are_invalid_unless_allowed_and_then_told() -> None:
    run = pairs_of(around(0.0))
    refused = judge(run, ONE, mismatches=["runtime version: 1.20 and 1.21"])
    assert (refused.state, refused.exit_code) == ("invalid", 4)
    assert "runtime version: 1.20 and 1.21" in refused.reason
    allowed = judge(run, ONE, mismatches=["runtime version: 1.20 and 1.21"], allow_mismatch=True)
    assert allowed.state == "equivalent"
    assert allowed.notes == ("environments differ, which was allowed: runtime version: 1.20 and 1.21",)


def test_only_declared_looks_are_taken_and_only_the_last_is_the_end() -> None:
    rule = CheckRule(Looks((10, 14)), metrics=(MEDIAN,))
    undecided = pairs_of([*around(3.0), 3.1, 2.9, 3.2, 2.8])
    assert not judge(undecided, rule, 10).final
    assert judge(undecided, rule, 14).final
    assert judge(pairs_of([*around(6.0), 6, 6, 6, 6]), rule, 10).final
    with pytest.raises(MeasurementError, match="a look after 12 pairs was not declared"):
        judge(undecided, rule, 12)


def test_a_look_uses_the_first_pairs_only() -> None:
    rule = CheckRule(Looks((10, 14)), metrics=(MEDIAN,))
    run = pairs_of([*around(0.0), 50, 60, 70, 80])
    assert judge(run, rule, 10).counted == tuple(range(10))
    assert judge(run, rule, 10).state == "equivalent"


def test_noise_is_answered_by_how_many_pairs_it_takes() -> None:
    found = judge(pairs_of([5, -5, 6, -6, 4, -4, 3, -3, 2, -2]), ONE, pair_seconds=6.0)
    assert found.state == "inconclusive"
    assert found.pairs_needed is not None
    assert found.pairs_needed > 10
    assert found.seconds_needed == 6.0 * found.pairs_needed
    assert f"cannot decide at this noise, needs {found.pairs_needed} pairs, about" in found.reason


def test_a_change_at_the_margin_is_told_from_noise() -> None:
    found = judge(pairs_of(around(3.0)), ONE)
    assert found.state == "inconclusive"
    assert "the true change is close to the margin of 3 %" in found.reason


def test_a_slower_tail_alone_is_a_regression() -> None:
    found = judge(pairs_of(around(0.0), p90=around(10.0)), TWO)
    assert found.state == "regressed"
    assert found.reason.startswith("p90 is slower by more than 3 %")
    assert [test.state for test in found.tests] == ["equivalent", "regressed"]


def test_a_tail_that_could_not_be_told_is_named_where_the_median_passes() -> None:
    found = judge(pairs_of(around(0.0), p90=[7.0 + number if number % 3 else -number for number in range(10)]), TWO)
    assert [test.state for test in found.tests] == ["equivalent", "inconclusive"]
    assert found.state == "equivalent"
    assert any(note.startswith("p90: cannot be told from 3 %: ") for note in found.notes)


def test_launches_too_short_for_a_p90_are_judged_by_the_median_and_say_so() -> None:
    run = [Pair(one.number, one.order, Timed(1.0, None, 20), Timed(one.candidate.median_ms, None, 20)) for one in pairs_of(around(6.0))]
    found = judge(run, TWO)
    assert found.state == "regressed"
    assert [test.metric for test in found.tests] == [MEDIAN]
    assert found.notes == ("no p90: at least one launch is too short for it",)


def test_two_metrics_share_the_error_rate() -> None:
    assert TWO.looks.share == 0.005
    # Nine of ten beyond the margin and the least one within: p = 2/1024 for one metric.
    values = [2.9, *([6.0 + each for each in NOISE[1:]])]
    assert judge(pairs_of(values), ONE).tests[0].p_regressed == 2 / 1024
    assert judge(pairs_of(values), TWO).p_regressed == pytest.approx(4 / 1024)
    with pytest.raises(MeasurementError, match="2 metrics are checked, but the looks share alpha among 1 tests"):
        CheckRule(Looks((10,)))


def test_where_the_sign_test_points_the_other_way_nothing_is_claimed() -> None:
    """20 pairs: 9 far beyond the margin, 11 just within it. By ranks it is slower, by counts it is not."""
    values = np.log1p(0.03) + np.array([-0.001 - 0.0001 * k for k in range(11)] + [0.1 + 0.001 * k for k in range(9)])
    found = metric_test(MEDIAN, values, 0.03, 0.10)
    assert found.p_regressed <= 0.10
    assert found.state == "inconclusive"
    assert "the signed-rank test says regressed, most pairs say otherwise" in found.note
    # Nor is it flagged in a family, where p values are compared.
    pairs = [Pair(number, "AB" if number % 2 else "BA", Timed(1.0), Timed(math.exp(value))) for number, value in enumerate(values)]
    verdict = judge(pairs, CheckRule(Looks((20,), 0.10), 0.03, (MEDIAN,)))
    assert verdict.p_regressed == 1.0
    # More pairs of this kind would not decide, and it is not the margin that they lie close to.
    assert verdict.reason.endswith("the differences are too skewed to decide")
    assert verdict.pairs_needed is None


def test_a_verdict_is_plain_versioned_json() -> None:
    found: CheckVerdict = judge(pairs_of(around(6.0)), TWO, detectable_before=math.inf)
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert (record["schema"], record["state"], record["exit_code"]) == (1, "regressed", 1)
    assert [metric["metric"] for metric in record["metrics"]] == [MEDIAN, P90]
    assert len(record["pairs"]) == 10
    assert record["detectable_before"] is None
    assert record["looks"] == [10]


@settings(deadline=None)  # the first call draws what power means for ten pairs
@given(st.lists(st.floats(-0.1, 0.1), min_size=10, max_size=10), st.lists(st.floats(-0.1, 0.1), min_size=10, max_size=10), st.booleans())
def test_a_cell_of_a_family_is_flagged_by_its_p_value_where_it_is_flagged_alone(medians: list[float], p90s: list[float], without: bool) -> None:
    rule = CheckRule(Looks((10, 14), alpha=0.05, tests=2))
    order: tuple[Order, Order] = ("AB", "BA")
    run = [
        Pair(number, order[number % 2], Timed(1.0, 1.0, 100), Timed(math.exp(median), None if without else math.exp(p90), 100))
        for number, (median, p90) in enumerate(zip(medians, p90s, strict=True))
    ]
    found = judge(run, rule, 10)
    assert found.tests
    alarmed = any(test.state == "regressed" for test in found.tests)
    # Not measuring a metric earns nothing: its share of alpha is spent.
    assert alarmed == (found.p_regressed <= 0.05 * (1 + 1e-12))
    assert judge((), rule).p_regressed == 1.0
