"""The history as people see it: series, plots, and steps as warnings."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from history_world import FINGERPRINT, NOON

from kdedge.latency.history.records import Kind, LaunchRecord, Session
from kdedge.latency.history.store import History, open_history
from kdedge.regression.trends import WIDTH, lines_of, plot, trends


@pytest.fixture
def history(tmp_path: Path) -> History:
    return open_history(str(tmp_path / "history.sqlite"))


def add(history: History, values: tuple[float, ...], *, line: str = "digits/int8", device: str = "board", arm: str = "", start: int = 0) -> None:
    """A session a value."""
    for number, value in enumerate(values, start):
        sha256 = f"{number:064d}"
        launches = tuple(LaunchRecord(line, sha256, value, 100, arm, pair) for pair in range(3))
        kind: Kind = "check" if arm else "profile"
        history.add(Session(f"{line}-{arm}-{device}-{number}", kind, NOON + timedelta(hours=number), device, FINGERPRINT, launches))


def test_a_step_is_a_warning_with_the_runs_between_which_it_lies(history: History) -> None:
    wiggle = (0.0, 0.002, -0.001, 0.001, -0.002, 0.0015)
    add(history, tuple(1.0 + each for each in wiggle * 2) + tuple(1.1 + each for each in wiggle * 2))
    (trend,) = trends(history)
    assert len(trend.points) == 24
    (warning,) = trend.warnings
    assert "10.0 % slower from " in warning or "9.9 % slower from " in warning or "10.1 % slower from " in warning
    (change,) = trend.changes
    assert change.first <= 11 <= change.last + 1
    assert json.loads(json.dumps(trend.as_json()))["warnings"] == [warning]
    assert any(line.startswith("  warning: ") for line in lines_of(trend))
    (wide,) = trends(history, margin=0.2)
    assert wide.warnings == ()


def test_series_are_chosen_by_line_and_device(history: History) -> None:
    add(history, (1.0,))
    add(history, (2.0,), line="other/fp32")
    add(history, (3.0,), device="phone")
    assert {(trend.key.line, trend.key.device) for trend in trends(history)} == {
        ("digits/int8", "board"),
        ("digits/int8", "phone"),
        ("other/fp32", "board"),
    }
    assert [trend.key.line for trend in trends(history, "OTHER")] == ["other/fp32"]
    assert [trend.key.device for trend in trends(history, device="phone")] == ["phone"]
    assert trends(history, "absent") == ()


def test_a_baseline_that_runs_again_and_again_is_no_news(history: History) -> None:
    add(history, (9.0, 9.0, 9.0), arm="A")
    add(history, (1.0, 1.1, 1.2), arm="B")
    (trend,) = trends(history)
    assert [point.value for point in trend.points] == [1.0, 1.1, 1.2]
    add(history, (7.0,), line="baseline only", arm="A")
    assert [trend.key.line for trend in trends(history)] == ["digits/int8"]


def test_blocks_go_from_the_lowest_to_the_highest_and_the_newest_are_shown() -> None:
    assert plot([1.0, 2.0, 8.0]) == "▁▂█"
    assert plot([3.0, 3.0]) == "▁▁"
    assert plot([5.0] * 100 + [6.0]) == "▁" * (WIDTH - 1) + "█"


def test_a_lone_spike_does_not_hide_a_step() -> None:
    assert plot([8.0, 8.1] * 5 + [12.0] + [8.0, 8.1] * 5 + [8.5, 8.6] * 5 + [3.0]) == "▁▂" * 5 + "^" + "▁▂" * 5 + "▇█" * 5 + "v"


def test_of_a_long_history_the_newest_are_looked_at_for_steps(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdedge.regression.trends.LOOKED_AT", 24)
    wiggle = (0.0, 0.002, -0.001, 0.001, -0.002, 0.0015)
    old = tuple(3.0 + each for each in wiggle * 2)
    add(history, old + tuple(1.0 + each for each in wiggle * 2) + tuple(1.1 + each for each in wiggle * 2))
    (trend,) = trends(history)
    assert len(trend.points) == 36
    (change,) = trend.changes  # the step from 3.0 is too long ago
    assert change.before == 24
    assert change.first <= 23 <= change.last + 1
    assert trend.points[change.before].value > 1.09 > trend.points[change.after].value
