from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdedge.devices.simulation import SCENARIOS, Scenario, draw_launch, draw_samples, draw_session, scenario_of, state, time_factor
from kdedge.errors import DeviceError
from kdedge.latency.validity import concerns
from kdedge.runtimes.job import LaunchRule, Result

RULE = LaunchRule(warmup_seconds=0.1, warmup_iterations=10, min_seconds=0.2, min_iterations=64, max_seconds=60)
STILL = Scenario("still", launch_sd=0, iteration_sd=0)


def test_without_any_disturbance_a_launch_takes_what_it_takes() -> None:
    drawn = draw_launch(STILL, (0,), 0.0, 1.05, RULE)
    assert drawn.fate == "ok"
    assert set(drawn.samples_ns.tolist()) == {1_050_000}
    assert drawn.samples_ns.dtype == np.int64
    # 0.2 s at 1.05 ms: 191 iterations; 0.1 s of warm-up: 96.
    assert (drawn.samples_ns.size, drawn.warmup_ns.size) == (191, 96)
    assert drawn.seconds == pytest.approx(STILL.start_seconds + (191 + 96) * 1.05e-3 + drawn.first_ms / 1000)


def test_a_slow_model_stops_at_the_limit_of_time() -> None:
    drawn = draw_launch(STILL, (0,), 0.0, 500.0, replace(RULE, max_seconds=5))
    assert (drawn.samples_ns.size, drawn.warmup_ns.size) == (10, 10)


def test_the_same_seed_gives_the_same_launch_and_another_does_not() -> None:
    first, again, other = (draw_launch(SCENARIOS["noisy"], seed, 3.0, 1.0, RULE) for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(first.samples_ns, again.samples_ns)
    assert not np.array_equal(first.samples_ns, other.samples_ns)


def test_spreads_and_correlation_are_those_of_the_scenario() -> None:
    scenario = Scenario("any", launch_sd=0.02, iteration_sd=0.03, autocorrelation=0.5)
    logs = np.log(draw_samples(scenario, np.random.default_rng(0), np.ones(3000), 0.0, 200))
    levels = logs.mean(axis=1)
    within = logs - levels[:, None]
    assert levels.std() == pytest.approx(0.02, rel=0.06)
    assert within.std() == pytest.approx(0.03, rel=0.03)
    assert np.mean(within[:, 1:] * within[:, :-1]) / within.var() == pytest.approx(0.5, abs=0.02)
    assert logs[:, 0].std() == pytest.approx(np.hypot(0.02, 0.03), rel=0.06)  # stationary from the first iteration on


def test_one_launch_is_drawn_by_the_same_model_as_many() -> None:
    scenario = Scenario("any", launch_sd=0.0, iteration_sd=0.03, autocorrelation=0.7)
    logs = np.log(draw_samples(scenario, np.random.default_rng(0), 1.0, 0.0, 40_000))
    assert logs.shape == (40_000,)
    assert logs.std() == pytest.approx(0.03, rel=0.05)
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(0.7, abs=0.02)


def test_time_drifts_steps_and_throttles() -> None:
    scenario = Scenario("any", drift_per_minute=0.06, step_at=120, step=0.5, throttle_at=180, throttle_factor=2.0)
    seconds = np.array([0.0, 60.0, 120.0, 180.0])
    assert time_factor(scenario, seconds).tolist() == pytest.approx([1.0, 1.06, 1.12 * 1.5, 1.18 * 1.5 * 2])


def test_outliers_cores_and_migrations_come_as_often_as_told() -> None:
    scenario = replace(STILL, outlier_share=0.01, outlier_factor=10)
    samples = draw_samples(scenario, np.random.default_rng(0), np.ones(500), 0.0, 200)
    assert np.mean(samples == 10) == pytest.approx(0.01, abs=0.001)
    scenario = replace(STILL, slow_core_share=0.3, slow_core_factor=1.5, migration_share=0.2)
    samples = draw_samples(scenario, np.random.default_rng(0), np.ones(4000), 0.0, 50)
    assert set(np.unique(samples)) == {1.0, 1.5}
    assert np.mean(samples[:, 0] == 1.5) == pytest.approx(0.3, abs=0.03)
    assert np.mean(samples[:, 0] != samples[:, -1]) == pytest.approx(0.2, abs=0.03)


def test_throttling_leaves_evidence_and_an_undisturbed_launch_none() -> None:
    scenario = scenario_of("throttle", throttle_at=10.0)
    before, during, after = (draw_launch(scenario, (0,), clock, 1.0, RULE) for clock in (5.0, 9.8, 20.0))
    assert concerns(Result("ok", loop_seconds=1.0, evidence=before.evidence)) == {}
    for launch in (during, after):
        assert concerns(Result("ok", loop_seconds=1.0, evidence=launch.evidence))["throttled"] >= 1
    assert np.median(after.samples_ns) > 1.3 * np.median(before.samples_ns)
    assert state(scenario, 20.0)["cpu_khz"]["cpu0"] < state(scenario, 5.0)["cpu_khz"]["cpu0"]


def test_disconnects_and_failures_have_no_samples_and_come_as_often_as_told() -> None:
    fates = [draw_launch(SCENARIOS["disconnects"], (0, number), 0.0, 1.0, RULE) for number in range(600)]
    shares = {fate: np.mean([one.fate == fate for one in fates]) for fate in ("disconnected", "failed")}
    assert shares["disconnected"] == pytest.approx(0.10, abs=0.04)
    assert shares["failed"] == pytest.approx(0.05, abs=0.03)
    assert all(one.samples_ns.size == 0 for one in fates if one.fate != "ok")


def test_a_session_runs_on_one_clock() -> None:
    scenario = replace(STILL, throttle_at=35.0, throttle_factor=2.0)
    samples, throttled = draw_session(scenario, 0, [1.0, 2.0, 1.0, 2.0, 1.0], 3, 10, 10.0)
    assert samples.shape == (3, 5, 10)
    assert samples[0, :, 0].tolist() == [1.0, 2.0, 1.0, 2.0, 2.0]  # the launch at 30 s ends before 35 s
    assert throttled.tolist() == [False, False, False, True, True]  # its device does not


def test_names_and_fields_that_do_not_exist_are_told() -> None:
    with pytest.raises(DeviceError, match=r"no simulated device `hot` \(there is: quiet, noisy"):
        scenario_of("hot")
    with pytest.raises(DeviceError, match="there is no `launch_spread`"):
        scenario_of("quiet", launch_spread=1)
    for wrong in ({"launch_sd": "much"}, {"launch_sd": -1}, {"outlier_share": 2}, {"autocorrelation": 1.0}, {"throttle_factor": 0}):
        with pytest.raises(DeviceError):
            scenario_of("quiet", **wrong)
    with pytest.raises(DeviceError, match="positive time"):
        draw_launch(STILL, (0,), 0.0, 0.0, RULE)
