"""What a device told of itself while launches ran is said in a few words, and what it did not tell is not said."""

from __future__ import annotations

from typing import Any

from kdedge.latency.observed import observed
from kdedge.runtimes.job import Result


def launch(before: dict[str, Any], after: dict[str, Any], **facts: Any) -> Result:
    return Result("ok", facts=facts, evidence={"before": before, "after": after, "machine": {"power_mode": "15W"}}, loop_seconds=2.0)


def test_a_device_that_tells_nothing_is_said_nothing_of() -> None:
    assert observed([Result("ok")]) == {}
    assert observed([]) == {}


def test_clocks_and_heat_are_from_the_least_to_the_most() -> None:
    cool = {"cpu_khz": {"cpu0": 1_000_000, "cpu1": 2_400_000}, "temperatures_c": {"a": 30.0, "b": 45.0}, "governors": ["schedutil"]}
    warm = {
        "cpu_khz": {"cpu0": 1_800_000, "cpu1": 600_000},
        "temperatures_c": {"a": 61.2},
        "governors": ["schedutil"],
        "gpu_hz": {"gpu": 625_000_000},
    }
    assert observed([launch(cool, warm)]) == {
        "CPU clock": "1.8 to 2.4 GHz",
        "GPU clock": "625 MHz",
        "governor": "schedutil",
        "power mode": "15W",
        "hottest zone": "45 to 61.2 °C",
    }


def test_what_a_sustained_launch_saw_on_its_way_counts_too() -> None:
    hot = {"temperatures_c": {"a": 90.0}, "seconds": 60.0, "iteration": 100}
    found = observed([launch({"temperatures_c": {"a": 40.0}}, {"temperatures_c": {"a": 70.0}}, sustained={"observations": [hot]})])
    assert found["hottest zone"] == "40 to 90 °C"


def test_throttling_is_counted_by_launches_and_only_where_the_device_tells_it() -> None:
    calm, slowed = launch({"throttle_events": 3}, {"throttle_events": 3}), launch({"throttle_events": 3}, {"throttle_events": 9})
    assert observed([calm, calm])["throttled"] == "never"
    assert observed([calm, slowed, slowed])["throttled"] == "in 2 of 3 launches"
    quota = launch({"cgroup_throttled_us": 0, "throttle_events": 0}, {"cgroup_throttled_us": 1_000_000, "throttle_events": 0})
    assert observed([quota])["throttled"] == "never"
    assert "throttled" not in observed([launch({}, {})])
