"""Models of the quantization benchmark may be measured on different days and machines; a line of one is never mixed with another's."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/quantization_runs.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quantization_runs")


def found(distance: float, distilled: bool = False) -> Any:
    """What a contest found on eight examples, in one runtime; the peer's distance is 1."""
    contest, measure = (importlib.import_module(f"quantization_{name}") for name in ("contest", "measure"))
    arms = {"float": 0.0, contest.OURS: distance, "peer": 1.0, **({contest.DISTILLED: distance / 2} if distilled else {})}
    scores = {who: measure.Scores(np.full(8, gap), np.ones(8), np.ones((8, 2))) for who, gap in arms.items()}
    result = contest.Found("kl", examples=8, scores={"onnxruntime": scores}, executed={"onnxruntime": {}})
    result.best["onnxruntime"] = "peer"
    return result


def test_a_finished_model_is_read_back_and_one_that_is_measured_again_replaces_it(runs: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "runs.jsonl"
    assert runs.read(log) == {}
    second, first = runs.measured("resnet56", found(0.5)), runs.measured("resnet20", found(0.7))
    assert runs.keep(log, second)
    assert runs.keep(log, first)
    assert list(runs.read(log).items()) == [("resnet20", first), ("resnet56", second)]
    assert runs.keep(log, runs.measured("resnet20", found(0.6)))
    assert runs.read(log)["resnet20"].figures["kl_ratio_to_best_peer"]["onnxruntime"]["value"] == pytest.approx(0.6)
    assert runs.read(log)["resnet56"] == second


def test_a_line_that_was_cut_off_is_no_finished_model(runs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "runs.jsonl"
    runs.keep(log, runs.measured("resnet20", found(0.7)))
    log.write_text(log.read_text() + '{"model": "resnet56", "day"')
    assert list(runs.read(log)) == ["resnet20"]
    assert "a line is no finished model" in capsys.readouterr().err


def test_the_arm_that_takes_hours_is_not_lost_to_a_run_without_it(runs: ModuleType, tmp_path: Path) -> None:
    log, trained = tmp_path / "runs.jsonl", runs.measured("resnet20", found(0.7, distilled=True))
    assert runs.keep(log, trained)
    assert not runs.keep(log, runs.measured("resnet20", found(0.6)))
    assert runs.read(log) == {"resnet20": trained}
    assert runs.keep(log, runs.measured("resnet20", found(0.6, distilled=True)))


def test_the_page_says_of_each_model_where_it_was_measured_and_which_are_missing(runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runs.measured("resnet20", found(0.7))
    monkeypatch.setattr(runs, "processor", lambda: "Another CPU")
    text = "\n".join(runs.page({"resnet20": first, "resnet56": runs.measured("resnet56", found(0.5))}))
    assert f"resnet20 (8 test examples): {first.day}, {first.machine}.\n" in text
    assert "one thread on Another CPU" not in first.machine
    assert "resnet56 (8 test examples): " in text
    assert text.count("one thread on Another CPU") == 1
    assert "| resnet20, onnxruntime | **kdedge** | 0.7" in text
    assert text.endswith("\nNot measured yet: efficientnet-lite0, all-MiniLM-L6-v2.")


def test_a_training_that_was_dropped_is_said_to_be_so(runs: ModuleType) -> None:
    result = found(0.5, distilled=True)
    for kept, label in ((True, "| **kdedge distilled** |"), (False, "| **kdedge distilled** (dropped) |")):
        result.made["kdedge distilled"] = {"steps": {"onnxruntime": [{"name": "equalization", "kept": False}, {"name": "aware", "kept": kept}]}}
        assert [label in row for row in runs.measured("resnet20", result).rows] == [False, True, False, False]


def test_outputs_and_times_of_another_processor_are_not_taken_for_this_ones(runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = importlib.import_module("quantization_contest")
    here = contest._said("onnxruntime")
    monkeypatch.setattr(contest, "processor", lambda: "Another CPU")
    assert contest._said("onnxruntime") != here


def test_outputs_and_times_are_not_taken_from_a_run_with_other_options_or_another_way_of_timing(
    runs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = importlib.import_module("quantization_contest")
    here = contest._said("onnxruntime")
    monkeypatch.setitem(contest.OPTIONS, "onnxruntime", {"threads": 2, "spinning": False})
    with_other_options = contest._said("onnxruntime")
    monkeypatch.setattr(contest, "RULE", replace(contest.RULE, warmup_seconds=9.0))
    assert len({here, with_other_options, contest._said("onnxruntime")}) == 3


@pytest.mark.parametrize("who", ["peer", "ours"])
def test_how_long_a_quantizer_took_is_not_taken_from_another_processor(
    runs: ModuleType, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest, models = (importlib.import_module(f"quantization_{name}") for name in ("contest", "models"))
    subject, kept, asked = models.Subject("net", tmp_path), contest.Kept(tmp_path / "parts"), []
    for path in (subject.float, subject.fixed, subject.calibration):
        path.write_text(path.name)

    def child(command: list[str], folder: Path) -> dict[str, Any]:
        asked.append(command)
        out = Path(command[5]) if who == "peer" else Path(command[4]) / "onnxruntime.onnx"
        out.parent.mkdir(exist_ok=True)
        out.touch()
        return {"seconds": 1.0}

    def make() -> None:
        if who == "peer":
            contest._theirs("onnxruntime-minmax", Path(sys.executable), subject, kept)
        else:
            contest._ours(contest.OURS, subject, kept, ("onnxruntime",), True, contest.Settings())

    monkeypatch.setattr(contest, "_child", child)
    make()
    make()
    assert len(asked) == 1
    monkeypatch.setattr(contest, "processor", lambda: "Another CPU")
    make()
    assert len(asked) == 2


def test_a_start_measures_what_no_earlier_one_has(
    runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, asked = importlib.import_module("quantization"), []
    page, log = tmp_path / "page.md", tmp_path / "runs.jsonl"
    page.write_text("<!-- quantization: begin -->\n<!-- quantization: end -->\n")
    runs.keep(log, runs.measured("resnet56", found(0.5)))

    def contest(name: str, *_: Any) -> Any:
        asked.append(name)
        return found(0.7)

    for name, value in {"contest": contest, "RUNS": log, "PAGE": page, "data_root": lambda: tmp_path}.items():
        monkeypatch.setattr(program, name, value)
    monkeypatch.setattr("sys.argv", ["quantization.py", "--peers-python", __file__])
    program.main()
    assert asked == ["resnet20", "efficientnet-lite0", "all-MiniLM-L6-v2"]
    assert list(runs.read(log)) == list(program.CONTESTS)
    assert "Not measured yet" not in page.read_text()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: figures["kl_ratio_to_best_peer"]["onnxruntime"]["value"] for name, figures in last["models"].items()} == pytest.approx(
        {"resnet20": 0.7, "resnet56": 0.5, "efficientnet-lite0": 0.7, "all-MiniLM-L6-v2": 0.7}
    )
