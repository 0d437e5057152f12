"""Whether several teachers beat the best of them is said on the page, in the JSON and by the program; of one teacher nothing is said."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import made_results as made
import pytest
from rich.console import Console

from kdedge.cli.table import print_result
from kdedge.estimate import FRACTION, Estimate
from kdedge.measured import EnsembleScores
from kdedge.report.layout import Prose, Table
from kdedge.report.page import page_of, render
from kdedge.report.result import RunResult
from kdedge.report.teachers import teachers, warning


def compared(folder: Path, change: float, low: float | None, high: float | None) -> RunResult:
    """Two members of which the second is better; the difference of the ensemble to it, with its interval."""
    result = made.whole_result(folder)
    assert result.teacher is not None
    difference = Estimate("accuracy difference", change, low, high, made.SIZE, FRACTION)
    ensemble = EnsembleScores((made.share("accuracy", 30), made.share("accuracy", 36)), 1, difference, 5, 2, 0.453125)
    teacher = dataclasses.replace(result.teacher, weights=(0.25, 0.75), temperatures=(1.0, 2.5), maps=((), (2, 0)))
    return result.having(teacher=teacher, references=dataclasses.replace(result.references, ensemble=ensemble))


def printed(result: RunResult) -> str:
    file = io.StringIO()
    print_result(result, Console(file=file, width=120, highlight=False, color_system=None))
    return " ".join(file.getvalue().split())


def test_a_row_a_member_and_one_for_all(tmp_path: Path) -> None:
    section = teachers(compared(tmp_path, 0.1, 0.02, 0.2))
    assert section is not None
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert table.head == ("teacher", "weight", "temperature", "accuracy", "against the best member", "gained / lost, p")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["big:one", "0.25", "1", "75.0 %", "-", "-"],
        ["big:two", "0.75", "2.5", "90.0 %", "-", "-"],
        ["all together", "-", "-", "100.0 %", "10.0 %", "5 / 2, p = 0.45"],
    ]
    assert [row[0].note for row in table.rows] == ["", "2 of its 3 classes, the best member", ""]
    assert table.rows[1][3].note == "[86.0, 94.0]"
    assert table.rows[2][4].note == "[2.0, 20.0]"


def test_an_ensemble_that_beats_its_best_member_is_no_reason_to_warn(tmp_path: Path) -> None:
    result = compared(tmp_path, 0.1, 0.02, 0.2)
    assert warning(result) == ""
    assert "warning" not in printed(result)
    assert "Warning" not in render(page_of(result, made.TASK))


@pytest.mark.parametrize(
    ("change", "low", "high", "words"),
    [
        (-0.05, -0.1, -0.01, ("are not better than the best of them, `big:two`: -5", "leave the others out of `teacher`, raise the `weight`")),
        (-0.01, -0.1, 0.08, ("are not better than the best of them",)),
        (0.0, None, None, ("are not better than the best of them",)),
        (0.05, -0.01, 0.1, ("it is not proven that the teachers together beat the best of them, `big:two`", "more test examples", "p = 0.45")),
        (0.05, None, None, ("it is not proven",)),
    ],
)
def test_an_ensemble_that_does_not_is_warned_of_with_what_to_do(
    tmp_path: Path, change: float, low: float | None, high: float | None, words: tuple[str, ...]
) -> None:
    result = compared(tmp_path, change, low, high)
    section = teachers(result)
    assert section is not None
    prose = section.blocks[0]
    assert isinstance(prose, Prose)
    for said in (warning(result), printed(result), prose.lines[0]):
        for word in words:
            assert word in said
    assert "on 40 test examples" in warning(result)
    assert "warning: " in printed(result)
    assert "Warning: " in render(page_of(result, made.TASK))


@pytest.mark.parametrize(
    ("low", "high", "better"), [(0.01, 0.2, True), (-0.2, -0.01, False), (-0.1, 0.1, None), (0.0, 0.0, False), (None, None, None)]
)
def test_better_is_what_the_whole_interval_says(tmp_path: Path, low: float | None, high: float | None, better: bool | None) -> None:
    result = compared(tmp_path, 0.0, low, high)
    assert result.references.ensemble is not None
    assert result.references.ensemble.better is better
    assert result.as_json()["teacher"]["difference_to_best"]["better"] is better


def test_the_json_has_the_members_beside_the_metric(tmp_path: Path) -> None:
    found = compared(tmp_path, 0.05, -0.01, 0.1).as_json()["teacher"]
    assert set(found) == {"metric", "members", "best_member", "difference_to_best"}
    assert [(one["name"], one["weight"], one["temperature"], one["metric"]["value"]) for one in found["members"]] == [
        ("big:one", 0.25, 1.0, 0.75),
        ("big:two", 0.75, 2.5, 0.9),
    ]
    assert found["best_member"] == 1
    figure = {"name": "accuracy difference", "value": 0.05, "low": -0.01, "high": 0.1, "n": 40, "unit": "fraction"}
    assert found["difference_to_best"] == {**figure, "gained": 5, "lost": 2, "p_value": 0.453125, "better": None}


def test_of_one_teacher_nothing_is_said(tmp_path: Path) -> None:
    for teacher in (True, False):
        result = made.whole_result(tmp_path, teacher=teacher)
        assert teachers(result) is None
        assert warning(result) == ""
    assert set(made.whole_result(tmp_path).as_json()["teacher"]) == {"metric"}


def test_members_of_one_name_are_told_apart_by_number(tmp_path: Path) -> None:
    result = compared(tmp_path, 0.0, -0.1, 0.1)
    assert result.teacher is not None
    same = dataclasses.replace(result.teacher, members=(result.teacher.members[0],) * 2)
    assert "`big:one (2 of 2)`" in warning(result.having(teacher=same))


def test_names_of_members_stay_text(tmp_path: Path) -> None:
    result = compared(tmp_path, 0.0, -0.1, 0.1)
    assert result.teacher is not None
    hostile = tuple(dataclasses.replace(one, name=made.HOSTILE) for one in result.teacher.members)
    page = render(page_of(result.having(teacher=dataclasses.replace(result.teacher, members=hostile)), made.TASK))
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
