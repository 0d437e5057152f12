"""A new task, loss, dialect or device is one new file and one line in the dict that lists it: here both are a test's, and the run is whole.

(For a runtime the same is held by tests/runtimes/test_worker_travels.py: it must lie in the folder that travels.)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import kdedge
from kdedge.api import run
from kdedge.devices import DEVICES
from kdedge.distill.losses import LOSSES
from kdedge.exporters.dialects import DIALECTS
from kdedge.recipe import Recipe
from kdedge.targets import TARGETS, Target
from kdedge.tasks import TASKS

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")

PACKAGE = Path(kdedge.__file__).parent
RECIPE: dict[str, Any] = {
    "name": "extended",
    "task": "certainty",
    "data": {"train": "sklearn:digits", "test": "sklearn:digits", "limit_train": 128, "limit_test": 40, "calibration": 32},
    "teacher": {"model": "kdedge:cnn", "arguments": {"width": 4, "depth": 0, "stages": 1}, "train": {"epochs": 1}},
    "student": {"model": "kdedge:cnn", "arguments": {"width": 4, "depth": 0, "stages": 1}},
    "distill": {"epochs": 1, "losses": [{"ce": 1.0}, {"logit": 0.5, "scale": 2.0}]},
    "export": [{"target": "own-target", "precision": ["int8"]}],
    "devices": ["own-device"],
    "profile": {"launches": 1, "warmup_seconds": 0, "warmup_iterations": 1, "min_seconds": 0.01, "min_iterations": 1},
    "gate": {"mean_probability": ">= 0.01"},
}


def test_a_task_a_loss_a_dialect_and_a_device_that_are_listed_go_through_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "certainty", "extension_for_tests:TASK")
    monkeypatch.setitem(LOSSES, "logit", "extension_for_tests:logit_loss")
    monkeypatch.setitem(DIALECTS, "own-dialect", "extension_for_tests:DIALECT")
    monkeypatch.setitem(DEVICES, "own-device", "extension_for_tests")
    target = Target("own-target", "own-dialect", "onnx", "onnxruntime", ("int8",), ("x86_64", "aarch64"), {"": {"threads": 1}})
    monkeypatch.setitem(TARGETS, "own-target", target)
    result = run(Recipe.model_validate(RECIPE), workspace=tmp_path)
    (cell,) = result.cells
    assert (cell.status, cell.reason, cell.device, cell.artifact.dialect) == ("ok", "", "own-device", "own-dialect")
    metric = cell.fidelity.figures["metric"]
    assert (metric.name, metric.unit, metric.n) == ("mean_probability", "", 40)
    assert metric.low is not None
    assert metric.low < metric.value
    assert result.as_json()["student"]["metric"]["name"] == "mean_probability"
    assert result.verdict is not None
    assert result.verdict.verdict == "pass"
    assert [bundle.target for bundle in result.bundles] == ["own-target"]
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "mean_probability" in page
    assert "accuracy" not in page.lower()
    (metrics,) = tmp_path.glob("stages/trainer.distill-*/metrics.jsonl")
    assert set(json.loads(metrics.read_text().splitlines()[-1])["terms"]) == {"ce", "logit"}


# Tasks, the kinds of input that belong to one, and its metric.
_OF_A_TASK = re.compile(r"(image|text)[_-]classification|ImageEncoder|TextEncoder|[\"']accuracy[\"']")


@pytest.mark.parametrize("part", ["pipeline.py", "api.py", "fidelity", "latency", "report", "runtimes", "devices"])
def test_nothing_between_the_task_and_the_report_knows_which_task_it_is(part: str) -> None:
    files = [PACKAGE / part] if part.endswith(".py") else sorted(path for path in (PACKAGE / part).rglob("*") if path.suffix in (".py", ".jinja"))
    assert files
    wrong = [f"{path}:{number}: {line}" for path in files for number, line in enumerate(path.read_text().splitlines(), 1) if _OF_A_TASK.search(line)]
    assert not wrong, "\n".join(wrong)
