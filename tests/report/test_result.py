"""What machines read has the keys that were promised, and what people find in `runs/` is whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_results as made
import pytest

from kdedge.gate import decide, parse_policy
from kdedge.measured import Latency
from kdedge.report.result import RunResult, publish

FIGURES = {"metric", "agreement_teacher", "agreement_student", "kl_student", "kl_teacher", "sqnr_db", "latency_median", "latency_p90"}
CELL = FIGURES | {"target", "precision", "path", "sha256", "size_bytes", "device", "status", "reason", "largest_error", "peak_memory_mb", "executed"}
CELL |= {"integer_share", "audit", "trials"}


def as_read(result: RunResult) -> dict[str, Any]:
    """The object as a strict reader of JSON gets it."""
    found: dict[str, Any] = json.loads(json.dumps(result.as_json(), allow_nan=False))
    return found


def test_the_json_has_the_promised_keys_and_no_others(tmp_path: Path) -> None:
    found = as_read(made.whole_result(tmp_path))
    assert set(found) == {"recipe", "verdict", "exit_code", "teacher", "student", "artifacts", "report", "bundles"}
    assert set(found["teacher"]) == {"metric"}
    assert set(found["student"]) == {"metric", "agreement_teacher"}
    assert [set(cell) for cell in found["artifacts"]] == [CELL] * 4
    figures = [found["teacher"]["metric"], *found["student"].values(), *(cell[name] for cell in found["artifacts"][:2] for name in FIGURES)]
    assert len(figures) == 3 + 2 * len(FIGURES)
    assert {frozenset(figure) for figure in figures} == {frozenset({"name", "value", "low", "high", "n", "unit"})}
    assert found["artifacts"][0]["executed"] == {"int8": 6, "fp32": 2}
    assert (found["verdict"], found["exit_code"]) == ("fail", 1)


def test_what_was_not_measured_is_null_and_has_a_reason(tmp_path: Path) -> None:
    _, _, failed, absent = as_read(made.whole_result(tmp_path))["artifacts"]
    for cell in (failed, absent):
        assert [cell[name] for name in FIGURES] == [None] * len(FIGURES)
    assert (failed["status"], failed["reason"]) == ("failed", "the worker died: signal 11 (SIGSEGV)")
    assert (absent["status"], absent["reason"]) == ("not-run", f"{made.NO_DEVICE}; rtx-checked: {made.CHECK}")


def test_a_proxys_latency_is_never_given_out(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    board = made.measured(tmp_path, made.artifact(tmp_path, "tensorrt", "int8"), wrong=(0, 1), ms=77.0, device="emulated", proxy=True)
    (cell,) = as_read(result.having(cells=(board,), verdict=None))["artifacts"]
    assert (cell["latency_median"], cell["latency_p90"], cell["peak_memory_mb"]) == (None, None, None)
    assert cell["agreement_student"]["value"] == 1.0
    assert cell["reason"] == "proxy: emulated is no device of tensorrt, so its latency does not count"


def test_a_run_that_stopped_at_export_has_the_same_keys_with_nothing_in_them(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    found = as_read(result.having(cells=(), verdict=None, bundles=()))
    assert [set(cell) for cell in found["artifacts"]] == [CELL] * 4
    assert {cell["status"] for cell in found["artifacts"]} == {"not-run"}
    assert found["artifacts"][3]["reason"].endswith(f"rtx-checked: {made.CHECK}")
    assert (found["verdict"], found["exit_code"]) == (None, 0)


def test_without_a_teacher_its_place_is_null(tmp_path: Path) -> None:
    found = as_read(made.whole_result(tmp_path, teacher=False))
    assert found["teacher"] is None
    assert found["student"]["agreement_teacher"] is None
    assert found["artifacts"][0]["agreement_teacher"] is None


@pytest.mark.parametrize(
    ("gate", "verdict", "code"),
    [({"accuracy": ">= 0.80"}, "fail", 1), ({"accuracy": ">= 0.93"}, "inconclusive", 3), ({"accuracy": ">= 0.80"}, "pass", 0)],
)
def test_the_exit_code_is_the_verdicts(tmp_path: Path, gate: dict[str, str], verdict: str, code: int) -> None:
    result = made.whole_result(tmp_path)
    cells = result.cells if verdict == "fail" else result.cells[:2]  # the third failed
    judged = result.having(cells=cells, verdict=decide(parse_policy(gate), cells))
    assert (as_read(judged)["verdict"], judged.exit_code) == (verdict, code)


def test_a_run_without_a_gate_says_by_its_exit_code_what_broke_down_and_what_could_not_be_measured(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path).having(verdict=None)
    first, second, broken, not_run = result.cells
    assert result.having(cells=()).exit_code == 0
    assert result.having(cells=(first, second, not_run)).exit_code == 0
    assert result.exit_code == 1  # nothing of OpenVINO runs
    beside = replace(broken, artifact=replace(broken.artifact, target=first.artifact.target))
    assert result.having(cells=(first, beside)).exit_code == 0  # one of its target's artifacts works, as in a gate
    hot = replace(first, status="failed", latency=Latency("failed", "invalid: hot", launches=1, invalid=("hot",)))
    assert result.having(cells=(hot, second)).exit_code == 4
    assert result.having(cells=(hot, second, broken)).exit_code == 1
    assert result.having(cells=(replace(hot, proxy=True),)).exit_code == 0


# ---- publishing ------------------------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(tmp_path: Path) -> tuple[RunResult, Path]:
    result = made.whole_result(tmp_path / "made")
    page = tmp_path / "made" / "report.html"
    page.write_text("a page")
    return result.having(report=page), tmp_path / "runs" / "made"


def test_report_result_and_bundles_lie_side_by_side(tmp_path: Path) -> None:
    result, folder = published(tmp_path)
    there = publish(result, folder)
    assert (there.report, there.record) == (folder / "report.html", folder / "result.json")
    assert [bundle.path for bundle in there.bundles] == [folder / "bundles" / bundle.name for bundle in result.bundles]
    assert json.loads((folder / "result.json").read_text()) == as_read(there)
    names = {"report.html", "result.json"}
    names |= {f"bundles/{bundle.name}/{name}" for bundle in result.bundles for name in ("manifest.json", "artifact/model.onnx")}
    assert set(listing(folder)) == names


def test_publishing_again_changes_nothing_and_repairs_what_was_changed(tmp_path: Path) -> None:
    result, folder = published(tmp_path)
    publish(result, folder)
    first = listing(folder)
    publish(publish(result, folder), folder)
    assert listing(folder) == first
    damaged = folder / "bundles" / result.bundles[0].name / "artifact" / "model.onnx"
    damaged.write_bytes(b"grapH")
    publish(result, folder)
    assert listing(folder) == first


def test_a_bundle_that_no_longer_ships_is_taken_away_and_other_folders_stay(tmp_path: Path) -> None:
    result, folder = published(tmp_path)
    publish(result, folder)
    (folder / "bundles" / "mine").mkdir()
    publish(result.having(bundles=result.bundles[:1]), folder)
    assert sorted(path.name for path in (folder / "bundles").iterdir()) == sorted([result.bundles[0].name, "mine"])


def test_a_report_of_an_earlier_run_does_not_lie_beside_other_bundles(tmp_path: Path) -> None:
    result, folder = published(tmp_path)
    publish(result, folder)
    publish(result.having(report=None, bundles=()), folder)
    assert set(listing(folder)) == {"result.json"}


def test_a_copy_that_breaks_off_leaves_the_bundle_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, folder = published(tmp_path)
    publish(result, folder)
    before = listing(folder)
    (result.bundles[0].path / "artifact" / "model.onnx").write_bytes(b"another graph")

    def broken(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "half").write_text("half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copytree", broken)
    with pytest.raises(OSError, match="No space left"):
        publish(result, folder)
    assert listing(folder) == before


def test_what_a_killed_attempt_left_is_cleared_away(tmp_path: Path) -> None:
    result, folder = published(tmp_path)
    leftovers = [folder / "bundles" / f".{result.bundles[0].name}.{end}" for end in ("new", "old")]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "half").write_text("half")
    (folder / "result.json.partial").write_text("{")
    publish(result, folder)
    assert [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial")] == []
