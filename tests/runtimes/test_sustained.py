"""A sustained launch ends after its time, or once the machine is as hot as it gets; what it saw meanwhile is kept."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runtime import fake_session

from kdedge.runtimes import launch, sustained
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, LaunchRule, SustainedRule, read_job, write_job

RULE = SustainedRule(seconds=600, least_seconds=180, flat_seconds=120, flat_c_per_minute=0.5, observe_seconds=2)


class Machine:
    """A machine whose clock moves by calls alone and whose heat is a function of the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call_ms: float, heat: Any) -> None:
        self.now = 0
        self._call_ns = int(call_ms * 1e6)
        self._heat = heat
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def call(self) -> None:
        self.now += self._call_ns

    def observe(self) -> dict[str, Any]:
        return {"temperatures_c": {"cpu": self._heat(self.now / 1e9), "board": 30.0}} if self._heat else {}


def test_a_machine_that_gets_no_hotter_is_done_before_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 100, lambda seconds: min(80.0, 40.0 + seconds / 5))  # flat from 200 s on
    samples, watched = sustained.sustained(machine.call, machine.observe, RULE)
    assert watched["ended"] == "flat"
    # 12 C a minute until 200 s: a straight line through 120 s is below 0.5 C a minute only once nearly all of it is flat.
    assert 200 + 80 < watched["seconds"] <= 200 + 122
    assert len(samples) == watched["observations"][-1]["iteration"]


# 1 C a minute, up or down; and a machine that tells no temperature.
@pytest.mark.parametrize("heat", [lambda seconds: 40 + seconds / 60, lambda seconds: 90 - seconds / 60, None])
def test_a_machine_whose_heat_changes_or_that_tells_nothing_runs_for_the_whole_time(heat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 250, heat)
    samples, watched = sustained.sustained(machine.call, machine.observe, RULE)
    assert (watched["ended"], watched["seconds"]) == ("time", 600.0)
    assert len(samples) == 2400
    assert set(samples.tolist()) == {250_000_000}


def test_flat_from_the_start_still_takes_three_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 100, lambda seconds: 45.0)
    assert sustained.sustained(machine.call, machine.observe, RULE)[1]["seconds"] == pytest.approx(180.0, abs=2.1)


def test_one_slow_call_is_enough_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 700_000, None)
    samples, watched = sustained.sustained(machine.call, machine.observe, RULE)
    assert (len(samples), watched["ended"]) == (1, "time")


def test_the_slope_is_that_of_the_hottest_zone_by_least_squares() -> None:
    observations = [{"seconds": 10.0 * n, "temperatures_c": {"a": 20.0, "b": 40 + 0.5 * n}} for n in range(7)]  # 0.5 C in 10 s
    assert sustained.slope_of(observations, 0.0) == pytest.approx(3.0)
    assert sustained.slope_of(observations, 30.0) is None  # four observations
    assert sustained.slope_of([{"seconds": 1.0}] * 9, 0.0) is None


def test_a_sustained_launch_needs_no_warm_up_and_keeps_its_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    rule = SustainedRule(seconds=0.05, observe_seconds=0.01)
    job = Job("launch", "fake", {"main": ["m"]}, {}, [{"image": "x.npy"}], batch=2, launch=LaunchRule(), sustained=rule)
    write_job(str(tmp_path), job)
    assert asdict(read_job(str(tmp_path))) == asdict(job)
    result = launch.run(job, str(tmp_path), fake_session())
    assert result.iterations == len(np.load(tmp_path / "samples_ns.npy")) > 0
    assert len(np.load(tmp_path / "warmup_ns.npy")) == 0
    assert result.facts["sustained"]["ended"] == "time"
    assert result.facts["sustained"]["observations"][0]["iteration"] == 0


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"observe_seconds": -1.0}, {"flat_c_per_minute": 0.0}, {"least_seconds": -1.0}])
def test_a_rule_that_means_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(RuntimeFailure, match="the sustained rule needs"):
        sustained.check_rule(replace(RULE, **change))
