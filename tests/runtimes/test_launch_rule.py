"""A launch is warm when both warm-up minima are met, and done when both timed minima are met or the time is over."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runtime import FakeSession, fake_session

from kdedge.runtimes import launch
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, LaunchRule


class Clock:
    """A clock that moves only when a call takes time, so that a rule can be checked on paper."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call_ns: int) -> None:
        self.now = 0
        self.calls = 0
        self._call_ns = call_ns
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def call(self) -> None:
        self.calls += 1
        self.now += self._call_ns


@pytest.mark.parametrize(
    ("call_ms", "min_iterations", "min_seconds", "max_seconds", "expected"),
    [
        (100, 5, 2.0, 60.0, 20),  # the time decides
        (100, 64, 2.0, 60.0, 64),  # the count decides
        (100, 64, 2.0, 3.0, 30),  # the limit decides
        (5000, 64, 2.0, 1.0, 1),  # never less than one
        (1000, 1, 0.0, 60.0, 1),
        (1, 20000, 1.0, 60.0, 20000),  # more than one block of storage
    ],
)
def test_the_loop_ends_when_both_minima_are_met_or_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, call_ms: int, min_iterations: int, min_seconds: float, max_seconds: float, expected: int
) -> None:
    clock = Clock(monkeypatch, call_ms * 1_000_000)
    samples = launch.timed(clock.call, min_iterations, min_seconds, max_seconds)
    assert clock.calls == len(samples) == expected
    assert samples.dtype == np.int64
    assert set(samples.tolist()) == {call_ms * 1_000_000}


def test_the_garbage_collector_rests_during_the_loop_and_comes_back_after_an_error() -> None:
    seen = []
    launch.timed(lambda: seen.append(gc.isenabled()), 3, 0.0, 1.0)
    assert seen == [False] * 3
    assert gc.isenabled()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch.timed(fail, 1, 0.0, 1.0)
    assert gc.isenabled()


def test_first_inference_warm_up_and_samples_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1_000_000)

    class Session(FakeSession):
        def run(self, inputs):  # type: ignore[no-untyped-def]
            clock.call()
            if clock.calls == 1:
                clock.now += 7_000_000
            return super().run(inputs)

    session: Any = Session("double")
    rule = LaunchRule(warmup_seconds=0.0, warmup_iterations=3, min_seconds=0.0, min_iterations=5, max_seconds=1.0)
    first, warmup, samples, loop = launch.time_session(session, {"image": np.zeros((1, 1), np.float32)}, rule)
    assert first == 8_000_000
    assert warmup.tolist() == [1_000_000] * 3
    assert samples.tolist() == [1_000_000] * 5
    assert loop["seconds"] == pytest.approx(5e-3)  # of the timed iterations alone


def test_a_launch_times_one_full_batch_of_the_first_bucket(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    session = fake_session()
    rule = LaunchRule(0.0, 2, 0.0, 4, 5.0)
    result = launch.run(Job("launch", "fake", {"main": ["m"]}, {}, [{"image": "x.npy"}], batch=3, launch=rule), str(tmp_path), session)
    assert session.batches == [3] * (1 + 2 + 4)
    assert (result.status, result.iterations, result.examples) == ("ok", 4, 3)
    samples = np.load(tmp_path / "samples_ns.npy")
    assert len(np.load(tmp_path / "warmup_ns.npy")) == 2
    assert result.loop_seconds == pytest.approx(samples.sum() / 1e9)
    assert result.first_inference_ms is not None
    assert result.peak_memory_bytes is not None
    assert result.peak_memory_bytes > 1 << 20


@pytest.mark.parametrize("change", [{"min_iterations": 0}, {"max_seconds": 0.0}, {"warmup_seconds": -1.0}])
def test_a_rule_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RuntimeFailure, match="the launch rule needs"):
        launch.check_rule(replace(LaunchRule(), **change))
