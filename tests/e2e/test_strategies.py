"""The examples of the strategies, cut down, each from its recipe to its verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kdedge.api import run
from kdedge.artifact import ModelFiles
from kdedge.report.result import RunResult

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    *("data.limit_train=300", "data.limit_test=96", "data.calibration=32", "distill.epochs=2"),
    *("export=[{target: onnxruntime-x86, precision: [fp32]}]", "profile={launches: 1, warmup_seconds: 0.02, min_seconds: 0.05}"),
    'gate={size: "<= 2 MB"}',
)
NARROW = "teacher.arguments.width=8"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ran(example: str, workspace: Path, *overrides: str) -> RunResult:
    result = run(EXAMPLES / example, workspace=workspace, overrides=(*SMALL, *overrides))
    assert result.verdict is not None
    assert (result.verdict.verdict, result.exit_code) == ("pass", 0)
    (cell,) = result.cells
    assert cell.status == "ok", cell.reason
    # Ten classes: better than a guess after a few steps.
    low = cell.fidelity.figures["metric"].low
    assert low is not None
    assert low > 0.1
    return result


def terms(result: RunResult) -> list[set[str]]:
    """The terms that counted, a lesson each."""
    return [{name for line in lesson.metrics.read_text().splitlines() for name in json.loads(line)["terms"]} for lesson in result.training]


def test_hints_first_then_soft_targets(tmp_path: Path) -> None:
    result = ran("digits-two-stage.yaml", tmp_path, NARROW, "teacher.train.epochs=3", "distill.stages.0.epochs=1", "distill.stages.1.epochs=3")
    assert [(lesson.label, lesson.epochs) for lesson in result.training] == [("stage 1", 1), ("stage 2", 3)]
    assert terms(result) == [{"fitnet", "at"}, {"ce", "kd"}]


def test_a_net_that_is_its_own_teacher_over_generations(tmp_path: Path) -> None:
    result = ran("digits-self-distillation.yaml", tmp_path, "distill.generations.count=3", "distill.epochs=3")
    assert [lesson.label for lesson in result.training] == ["generation 1", "generation 2", "generation 3"]
    assert terms(result) == [{"ce", "byot"}, {"ce", "kd", "byot"}, {"ce", "kd", "byot"}]


def test_three_teachers_of_different_kinds(tmp_path: Path) -> None:
    epochs = [f"teacher.{place}.train.epochs=2" for place in range(3)]
    result = ran("digits-ensemble.yaml", tmp_path, *epochs, "teacher.0.arguments.width=8", "distill.epochs=6")
    assert result.teacher is not None
    assert len(result.teacher.members) == 3


def test_an_onnx_file_teaches_mixtures_of_examples_without_labels(tmp_path: Path) -> None:
    trained = run(
        EXAMPLES / "digits.yaml",
        workspace=tmp_path,
        until="distill",
        overrides=("data.limit_train=300", NARROW, "teacher.train.epochs=3", "distill.epochs=1"),
    )
    assert trained.teacher is not None
    teacher = tmp_path / "teacher.onnx"
    export_as_the_example_says(trained.teacher.members[0], teacher)
    result = ran("digits-onnx-teacher.yaml", tmp_path, f"teacher.model=onnx:{teacher}", "data.limit_unlabelled=300", "distill.epochs=4")
    assert terms(result) == [{"kd"}]
    assert result.teacher is not None
    assert result.teacher.members[0].onnx is not None


def export_as_the_example_says(files: ModelFiles, path: Path) -> None:
    """Run the call that stands in the example's comment."""
    from kdedge.models.load import load

    class Logits(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = load(files)

        def forward(self, image: Any) -> Any:
            return self.model(image)["logits"]

    comment = " ".join(line.lstrip("# ") for line in (EXAMPLES / "digits-onnx-teacher.yaml").read_text().splitlines() if line.startswith("#"))
    (call,) = re.findall(r"torch\.onnx\.export\(.*?dynamo=True\)", comment)
    assert '"examples/digits-teacher.onnx"' in call
    eval(call.replace('"examples/digits-teacher.onnx"', "path"), {"torch": torch, "model": Logits(), "path": path})
