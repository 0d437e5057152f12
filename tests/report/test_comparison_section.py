"""The page, the terminal and the JSON say what a comparison found, and that an undecided one is undecided."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import made_results as made
import pytest

from kdedge.fidelity.comparison import compare
from kdedge.report.comparison import comparison, lines
from kdedge.report.layout import Prose, Table
from kdedge.report.page import page_of, render
from kdedge.report.result import RunResult
from kdedge.trained import SeedScores, TrainingCost

TAUGHT = ((0.70, 0.84), (0.88, 0.86), (0.60, 0.88))
ALONE = ((0.70, 0.82), (0.60, 0.83), (0.60, 0.84))
COSTS = (TrainingCost("distilled", (100.0, 140.0, None), 30.0), TrainingCost("no teacher", (90.0, 90.0, 90.0)))


def scores(curves: tuple[tuple[float, ...], ...]) -> tuple[SeedScores, ...]:
    return tuple(SeedScores(seed, epochs) for seed, epochs in enumerate(curves))


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    found = compare("accuracy", "fraction", 10_000, [("distilled", scores(TAUGHT)), ("no teacher", scores(ALONE))])
    return made.whole_result(tmp_path).having(comparison=found, costs=COSTS)


def undecided(result: RunResult) -> RunResult:
    found = compare("accuracy", "fraction", 10_000, [("distilled", scores(TAUGHT[:2])), ("no teacher", scores(ALONE[:2]))])
    return result.having(comparison=found)


def tables(result: RunResult) -> list[Table]:
    section = comparison(result)
    assert section is not None
    return [block for block in section.blocks if isinstance(block, Table)]


def test_an_arm_has_mean_spread_best_epoch_and_cost(result: RunResult) -> None:
    arms, _ = tables(result)
    assert [" ".join(part for part in (cell.text, cell.note) if part) for cell in arms.rows[0]] == [
        "distilled 3 seeds",
        "86.0 % [81.0, 91.0]",
        "2.00 %",
        "84.00 % to 88.00 %",
        "86.7 % [80.9, 92.4]",
        "2.0 min",
        "30.0 s",
    ]
    assert [cell.text for cell in arms.rows[1]][-2:] == ["1.5 min", "-"]
    assert "optimistic" in arms.head[4]


def test_each_seed_has_its_difference_and_the_mean_has_the_interval(result: RunResult) -> None:
    _, seeds = tables(result)
    assert [row[3].text for row in seeds.rows] == ["+2.00 points", "+3.00 points", "+4.00 points", "3.0 points"]
    assert (seeds.rows[-1][3].note, seeds.rows[-1][3].badge) == ("[0.5, 5.5]", "")
    assert (seeds.rows[1][4].text, seeds.rows[1][4].note) == ("88.00 %", "epoch 1 of 2")


def test_an_undecided_difference_is_marked_and_said(result: RunResult) -> None:
    _, seeds = tables(undecided(result))
    assert seeds.rows[-1][3].badge == "inconclusive"
    section = comparison(undecided(result))
    assert section is not None
    (prose,) = (block for block in section.blocks if isinstance(block, Prose))
    assert "undecided, 2 seeds are too few" in prose.lines[0]
    assert any("undecided" in line for line in lines(undecided(result)))


def test_a_time_that_is_not_known_is_said_to_be_so(result: RunResult) -> None:
    section = comparison(result)
    assert section is not None
    (prose,) = (block for block in section.blocks if isinstance(block, Prose))
    assert "Of 1 students the time is not known" in prose.lines[1]


def test_the_section_stands_on_the_page_and_only_where_something_was_compared(result: RunResult) -> None:
    page = page_of(result, made.TASK)
    assert "comparison" in [section.anchor for section in page.sections]
    assert "What the teacher was worth" in render(page)
    assert comparison(result.having(comparison=None)) is None
    assert lines(result.having(comparison=None)) == []


def test_hostile_names_stay_text(result: RunResult) -> None:
    assert result.comparison is not None
    arms = tuple(replace(arm, name=arm.name + made.HOSTILE) for arm in result.comparison.arms)
    page = render(page_of(result.having(comparison=replace(result.comparison, arms=arms, metric=made.HOSTILE, reason=made.HOSTILE)), made.TASK))
    assert "<script>" not in page
    assert "<img" not in page


def test_the_json_holds_every_seed_and_epoch(result: RunResult) -> None:
    found = json.loads(json.dumps(result.as_json(), allow_nan=False))["comparison"]
    assert set(found) == {"metric", "examples", "arms", "gain", "differences", "decided", "reason"}
    assert set(found["arms"][0]) == {"name", "last", "best", "sd", "range", "seeds", "seconds", "teacher_seconds"}
    assert found["arms"][0]["seeds"][1] == {"seed": 1, "last": 0.86, "best": 0.88, "best_epoch": 1, "epochs": [0.88, 0.86]}
    assert found["arms"][0]["seconds"] == [100.0, 140.0, None]
    assert found["decided"] is True
    assert "comparison" not in result.having(comparison=None).as_json()


def test_the_terminal_shows_both_arms_and_the_verdict(result: RunResult) -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=400)
    from kdedge.cli.table import print_result

    print_result(result, console)
    said = console.file.getvalue()
    assert "distilled: accuracy 86.0 % [81.0, 91.0] over 3 seeds, sd 2.00 %, range 84.00 % to 88.00 %" in said
    assert "best epoch, chosen on the test data: 86.7 %, training 2.0 min" in said
    assert "3.0 points [0.5, 5.5]: better" in said
