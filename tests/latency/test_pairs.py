from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.errors import MeasurementError
from kdedge.latency.pairs import MEDIAN, P90, Order, Pair, Timed, counted, failed, orders, replacements, timed, timed_launch
from kdedge.latency.summary import Launch
from kdedge.runtimes.job import Result

GOOD = Timed(1.0, 1.2, 100)
BAD = Timed(1.0, 1.2, 100, ("throttled",))


def pair(number: int, order: Order, valid: bool = True) -> Pair:
    return Pair(number, order, GOOD if valid else BAD, GOOD)


def test_launches_run_abba_and_the_seed_draws_who_begins() -> None:
    seen = {orders(4, seed) for seed in range(20)}
    assert seen == {("AB", "BA", "AB", "BA"), ("BA", "AB", "BA", "AB")}
    assert orders(6, 7) == orders(6, 7)
    for wrong in (0, 3):
        with pytest.raises(MeasurementError, match="pairs come in twos"):
            orders(wrong, 0)


def test_a_linear_drift_cancels_over_two_pairs() -> None:
    for seed in range(4):
        launches = "".join(orders(8, seed))
        places = {arm: sum(number for number, each in enumerate(launches) if each == arm) for arm in "AB"}
        assert places["A"] == places["B"]


def test_a_ratio_is_candidate_over_baseline_whatever_ran_first() -> None:
    for order in ("AB", "BA"):
        found = Pair(0, order, Timed(1.0, 1.1, 70), Timed(1.05, None, 70))
        assert found.log_ratio() == pytest.approx(math.log(1.05))
        assert found.log_ratio(P90) is None


def test_what_touches_one_launch_drops_the_pair() -> None:
    touched = Pair(0, "AB", GOOD, BAD)
    assert (touched.valid, touched.problems) == (False, ("candidate: throttled",))
    assert Pair(0, "AB", failed("signal 9"), GOOD).problems == ("baseline: signal 9",)
    assert Pair(0, "AB", Timed(None), GOOD).problems == ("baseline: not measured",)
    assert touched.as_json()["log_ratio"] is None


def test_a_dropped_pair_is_replaced_in_its_own_order() -> None:
    run = [pair(0, "AB"), pair(1, "BA", valid=False), pair(2, "AB"), pair(3, "BA")]
    assert replacements(run, 4, "AB") == ("BA",)
    assert replacements([*run, pair(4, "BA")], 4, "AB") == ()
    assert replacements([], 4, "BA") == orders(4, next(seed for seed in range(9) if orders(2, seed)[0] == "BA"))


@given(st.lists(st.tuples(st.sampled_from(["AB", "BA"]), st.booleans()), max_size=20), st.integers(1, 6))
def test_with_its_replacements_any_run_is_balanced(run: list[tuple[Any, bool]], half: int) -> None:
    pairs = [pair(number, order, valid) for number, (order, valid) in enumerate(run)]
    pairs += [pair(100 + number, order) for number, order in enumerate(replacements(pairs, 2 * half, "AB"))]
    kept = counted(pairs, 2 * half)
    assert sum(each.order == "AB" for each in kept) == sum(each.order == "BA" for each in kept) == half
    assert all(each.valid for each in kept)
    assert [each.number for each in kept] == sorted(each.number for each in kept)


def test_a_launch_is_its_median_and_its_p90_where_it_is_long_enough() -> None:
    samples = np.arange(1.0, 101.0)
    assert timed(samples) == Timed(50.5, 90.0, 100)
    assert timed(samples[:63]).value(P90) is None
    assert timed(samples[:63]).value(MEDIAN) == 32.0
    for wrong in ([], [0.0], [[1.0]]):
        with pytest.raises(MeasurementError):
            timed(wrong)


def test_a_launch_that_throttled_or_failed_has_a_problem() -> None:
    evidence = {"before": {"throttle_events": 0}, "after": {"throttle_events": 3}}
    found = timed_launch(Launch(np.ones(64), Result("ok", evidence=evidence)))
    assert found.problems == ("the CPU throttled because of heat",)  # without its figure, so that causes are counted together
    assert timed_launch(Launch(np.ones(64), Result("ok"))).problems == ()
    assert timed_launch(Launch(np.empty(0), Result("failed", "signal 11"))) == failed("signal 11")
    waits = [{"threads": {"7": {"ran_ns": ran, "waited_ns": waited}}} for ran, waited in ((0, 0), (600_000_000, 400_000_000))]
    loop = {"seconds": 1.0, "cores": 2, "before": waits[0], "after": waits[1]}
    found = timed_launch(Launch(np.ones(64), Result("ok", facts={"loop": loop})))
    assert found.problems == ("the loop waited while others had its core",)


def test_a_launch_whose_iterations_no_clock_can_tell_does_not_count() -> None:
    found = timed_launch(Launch(np.array([0.1] * 63 + [0.0]), Result("ok")))
    assert found.median_ms is None
    assert found.problems == ("at least one iteration was shorter than the clock of this device can tell",)
