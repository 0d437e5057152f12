from __future__ import annotations

from typing import Any

import pytest

from kdedge.latency.validity import concerns, describe
from kdedge.runtimes.job import Result

QUIET: dict[str, Any] = {
    "throttle_events": 7,
    "cgroup_throttled_us": 1000,
    "steal_ticks": 50,
    "cpu_khz": {"cpu0": 3_000_000, "cpu1": 800_000},
    "load_average": [0.9, 0.5, 0.1],
    "affinity": [0, 1],
}


def result(seconds: float = 2.0, after: dict[str, Any] | None = None, **before: Any) -> Result:
    return Result("ok", loop_seconds=seconds, evidence={"before": {**QUIET, **before}, "after": {**QUIET, **before, **(after or {})}})


def test_a_quiet_machine_raises_no_concern_and_neither_does_one_that_tells_nothing() -> None:
    assert concerns(result()) == {}
    assert concerns(Result("ok")) == {}
    assert describe([result(), Result("ok")]) == []


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"throttle_events": 9}, {"throttled": 2.0}),
        ({"cgroup_throttled_us": 41_000}, {"quota": 40.0}),
        ({"steal_ticks": 52}, {}),  # 20 ms of 2 s: 1 %, as much as a quiet host has
        ({"steal_ticks": 60}, {"stolen": 100.0}),
        ({"cpu_khz": {"cpu0": 1_500_000, "cpu1": 800_000}}, {"clock": 50.0}),
        ({"cpu_khz": {"cpu0": 3_000_000, "cpu1": 400_000}}, {}),  # an idle core may slow down
    ],
)
def test_what_changed_during_a_launch_is_a_concern(after: dict[str, Any], expected: dict[str, float]) -> None:
    assert concerns(result(after=after)) == pytest.approx(expected)


def test_a_machine_that_was_busy_before_is_a_concern() -> None:
    assert concerns(result(load_average=[5.0, 1.0, 1.0])) == {"busy": 2.5}


def test_people_read_how_many_launches_were_touched_and_the_worst() -> None:
    launches = [result(), result(after={"throttle_events": 8}), result(after={"throttle_events": 19})]
    assert describe(launches) == ["2 of 3 launches: the CPU throttled because of heat (up to 12 events)"]
