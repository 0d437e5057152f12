"""The table at the end of a run fits its window, cuts nothing, and says what is not sure."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import made_results as made
import pytest
from rich.console import Console

from kdedge.cli.table import print_result
from kdedge.gate import decide, parse_policy
from kdedge.report.result import RunResult


def printed(result: RunResult, width: int) -> list[str]:
    """The lines of a window of this width, without colours."""
    file = io.StringIO()
    print_result(result, Console(file=file, width=width, highlight=False, color_system=None))
    return file.getvalue().splitlines()


def heading(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("artifact"))


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    return made.whole_result(tmp_path)


def test_a_wide_window_shows_every_figure_with_its_interval(result: RunResult) -> None:
    lines = printed(result, 140)
    assert " ".join(heading(lines).split()) == "artifact accuracy as student as teacher median size ran as gate"
    row = next(number for number, line in enumerate(lines) if line.startswith("onnxruntime-x86 int8"))
    assert " ".join(lines[row].split()) == "onnxruntime-x86 int8 92.5 % 97.5 % 92.5 % 0.0760 ms 120.0 KB 6 int8 pass"
    assert lines[row + 1].rstrip().endswith(" 2 fp32")
    for interval in ("[88.5, 96.5]", "[93.5, 100.0]", "[0.0745, 0.0783]"):
        assert interval in lines[row + 1]


def test_what_a_narrower_window_leaves_out_is_said_in_the_report(result: RunResult) -> None:
    # What matters least goes first, and only as much of it as the window is short of.
    shown = [heading(printed(result, width)) for width in (140, 105, 95, 82)]
    assert [("ran as" in line, "as teacher" in line, "size" in line) for line in shown] == [
        (True, True, True),
        (False, True, True),
        (False, False, True),
        (False, False, False),
    ]
    assert all("median" in line and "as student" in line and "gate" in line for line in shown)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_nothing_is_cut_and_no_row_is_wider_than_the_window(result: RunResult, width: int) -> None:
    lines = printed(result.having(bundles=()), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("onnxruntime-x86 int8", "92.5 %", "[88.5, 96.5]", "0.0760 ms", "[0.0745, 0.0783]", "signal 11 (SIGSEGV)", "gate: fail"):
        assert part in text
    assert "…" not in text


def test_a_window_too_narrow_for_a_table_gets_a_list(result: RunResult) -> None:
    lines = printed(result, 60)
    start = lines.index("onnxruntime-x86 int8 on local: pass")
    assert lines[start + 1 : start + 4] == [
        "  accuracy: 92.5 % [88.5, 96.5]",
        "  as student: 97.5 % [93.5, 100.0]",
        "  as teacher: 92.5 % [88.5, 96.5]",
    ]


def test_what_did_not_run_says_why_and_what_is_known_all_the_same(result: RunResult) -> None:
    text = " ".join(" ".join(printed(result, 120)).split())
    assert "openvino fp32 on local: failed: the worker died: signal 11 (SIGSEGV)" in text
    assert f"tensorrt int8 on local: not-run: {made.NO_DEVICE}; rtx-checked: {made.CHECK}" in text
    assert "tensorrt: not run" in text


def test_equal_notes_are_said_once(result: RunResult) -> None:
    other = dataclasses.replace(result.cells[3], artifact=dataclasses.replace(result.cells[3].artifact, precision="fp16"))
    text = " ".join(" ".join(printed(result.having(cells=(*result.cells[:3], result.cells[3], other), verdict=None), 120)).split())
    assert "tensorrt int8 on local, tensorrt fp16 on local: not-run:" in text


def test_a_proxy_is_marked_and_its_latency_is_not_shown(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    proxy = made.measured(tmp_path, made.artifact(tmp_path, "tensorrt", "int8"), wrong=(0, 1), ms=77.25, device="emulated", proxy=True)
    cells = (*result.cells[:1], proxy)
    lines = printed(result.having(cells=cells, verdict=decide(parse_policy({}), cells)), 160)
    assert "emulated (proxy)" in next(line for line in lines if line.startswith("tensorrt int8"))
    assert "77.2" not in "\n".join(lines)
    assert "device" in heading(lines)  # two devices: each row says which


def test_bundles_and_report_come_last_and_an_unproven_bundle_is_called_so(result: RunResult, tmp_path: Path) -> None:
    lines = printed(result.having(report=tmp_path / "report.html"), 60)
    assert lines[-1] == f"report: {tmp_path}/report.html"  # on one line, to be clicked or copied
    assert lines[-2].startswith("bundle, unproven until checked on the device: ")
    assert lines[-3].startswith("bundle: ")


def test_a_run_that_stopped_early_shows_what_there_is(result: RunResult) -> None:
    exported = printed(result.having(cells=(), verdict=None, bundles=()), 120)
    assert sum(".onnx" in line for line in exported) == 4
    distilled = printed(result.having(cells=(), artifacts=(), verdict=None, bundles=()), 120)
    assert distilled == [
        "teacher: accuracy 100.0 % [96.0, 100.0], 1,108,978 parameters",
        "student: accuracy 95.0 % [91.0, 99.0], 104,042 parameters",
        "the student agrees with the teacher on 95.0 % [91.0, 99.0] of the test examples",
    ]


def test_without_a_teacher_there_is_no_column_for_one(tmp_path: Path) -> None:
    lines = printed(made.whole_result(tmp_path, teacher=False), 140)
    assert "teacher" not in "\n".join(lines[:8])


def test_names_are_not_read_as_markup(result: RunResult) -> None:
    cells = tuple(dataclasses.replace(cell, device="[red]board[/red]") for cell in result.cells)
    text = "\n".join(printed(result.having(cells=cells, verdict=None), 60))
    assert "[red]board[/red]" in text


@pytest.mark.parametrize("width", [60, 200])
@pytest.mark.parametrize("measured", [True, False])
def test_names_out_of_files_do_not_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, measured: bool) -> None:
    monkeypatch.setattr(made, "HOSTILE", "\x1b[2J\nHOSTILE")
    result = made.hostile_result(tmp_path)
    early = {} if measured else {"cells": (), "verdict": None}
    lines = printed(result.having(report=tmp_path / f"report{made.HOSTILE}", **early), width)
    assert "\x1b" not in "\n".join(lines)
    assert not [line for line in lines if line.strip().startswith("HOSTILE")]
    assert "\\x1b[2J\\nHOSTILE" in "".join(lines)
