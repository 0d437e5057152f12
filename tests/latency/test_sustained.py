"""One long launch: the first minute against the steady state, and when throttling began."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdedge.latency.sustained import sustained_figures


def watched(seconds: float, ended: str = "time", **at: Any) -> dict[str, Any]:
    """Observations each two seconds; `at`: fact -> function of the second."""
    seen = [{"seconds": float(t), **{name: of(t) for name, of in at.items()}} for t in np.arange(0.0, seconds + 1, 2.0)]
    return {"ended": ended, "seconds": seconds, "observations": seen}


def figures_of(samples_ms: np.ndarray, seen: dict[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The figures of a launch whose observations took no time."""
    ends = np.cumsum(samples_ms) / 1e3
    observations = [{"iteration": int(np.searchsorted(ends, one["seconds"] + 1e-6)), **one} for one in seen["observations"]]
    return sustained_figures(samples_ms, {**seen, "observations": observations})


def stream(*parts: tuple[float, float]) -> np.ndarray:
    """(seconds, ms an iteration) one after the other."""
    return np.concatenate([np.full(round(seconds * 1000 / ms), ms) for seconds, ms in parts])


def test_a_machine_that_throttles_is_fast_in_the_first_minute_and_slow_for_good() -> None:
    figures, notes = figures_of(stream((200, 10.0), (400, 15.0)), watched(600))
    assert (figures["first_minute_ms"], figures["steady_ms"], figures["steady_ratio"]) == (10.0, 15.0, 1.5)
    assert figures["throttled_after_seconds"] == pytest.approx(200, abs=10)
    assert "no counter of the device says why" in notes[-1]


def test_a_counter_says_when_throttling_began_before_the_latency_does() -> None:
    seen = watched(600, throttle_events=lambda t: 0 if t < 130 else 4)
    figures, notes = figures_of(stream((200, 10.0), (400, 15.0)), seen)
    assert figures["throttled_after_seconds"] == 130.0
    assert notes[-1] == "after 130 s: the CPU throttled because of heat (up to 4 events)"


def test_a_steady_machine_has_no_time_to_throttle() -> None:
    figures, notes = figures_of(stream((300, 10.0)), watched(300, "flat", temperatures_c=lambda t: {"cpu": 50.0}))
    assert "throttled_after_seconds" not in figures
    assert figures["steady_ratio"] == 1.0
    assert notes == ("the temperature was flat after 300 s",)


def test_the_time_that_observing_takes_is_time_too() -> None:
    # 10 ms an iteration; each 2 s of them are followed by 0.5 s of reading sensors. After 80 s of iterations, which are 100 s, it gets slow.
    seen = [{"iteration": 200 * number, "seconds": 2.5 * number} for number in range(81)]
    figures, _ = sustained_figures(
        np.concatenate([np.full(8000, 10.0), np.full(8000, 12.0)]), {"ended": "time", "seconds": 216.0, "observations": seen}
    )
    assert figures["throttled_after_seconds"] == 100.0


def test_a_launch_that_was_never_fast_did_not_turn_slow() -> None:
    # All of it lies within the first ten seconds: a third of 10 ms, the rest of 12.
    figures, _ = figures_of(stream((1, 10.0), (3, 12.0)), watched(4))
    assert (figures["steady_ratio"], "throttled_after_seconds" in figures) == (1.2, False)


def test_a_slow_spell_that_ends_is_no_throttling() -> None:
    figures, _ = figures_of(stream((200, 10.0), (60, 20.0), (340, 10.0)), watched(600))
    assert "throttled_after_seconds" not in figures


def test_a_short_launch_compares_its_thirds() -> None:
    figures, _ = figures_of(stream((30, 10.0), (30, 11.0), (30, 12.0)), watched(90))
    assert (figures["first_minute_ms"], figures["steady_ms"]) == (10.0, 12.0)


def test_one_iteration_is_both_its_first_minute_and_its_steady_state() -> None:
    figures, _ = figures_of(np.array([900_000.0]), watched(900))
    assert (figures["first_minute_ms"], figures["steady_ms"]) == (900_000.0, 900_000.0)
