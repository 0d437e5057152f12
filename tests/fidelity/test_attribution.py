from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import ImportPath
from kdedge.fidelity.attribution import attribute
from kdedge.intervals import mcnemar
from kdedge.measured import Cell, Fidelity, Latency, References

TASK = ImportPath("kdedge.tasks.image_classification:TASK")
SIZE = 40


def outputs(path: Path, right: int) -> dict[str, Path]:
    """Logits of a two-class model that is right on the first `right` of 40 examples, whose labels are all 0."""
    logits = np.zeros((SIZE, 2), np.float32)
    logits[:right, 0] = 1
    logits[right:, 1] = 1
    np.save(path, logits)
    return {"logits": path}


@pytest.fixture(name="references")
def _references(tmp_path: Path) -> References:
    np.save(tmp_path / "labels.npy", np.zeros(SIZE, np.int64))
    return References(tmp_path / "labels.npy", outputs(tmp_path / "s.npy", 36), outputs(tmp_path / "t.npy", 38), {})


def cell(linear: Any, path: Path, precision: str, right: int, device: str = "local", status: Any = "ok", target: str = "onnxruntime-x86") -> Cell:
    artifact = linear.artifact(precision=precision, target=target, sha256=f"{target}{precision}")
    fidelity = Fidelity("ok", "", outputs=outputs(path / f"{target}{precision}{device}.npy", right)) if status == "ok" else Fidelity(status, "why")
    return Cell(artifact, device, status, "", fidelity, Latency("not-run", ""))


def test_the_chain_tells_teacher_student_float_quantized_apart(linear: Any, tmp_path: Path, references: References) -> None:
    floating, quantized = cell(linear, tmp_path, "fp32", 36), cell(linear, tmp_path, "int8", 33)
    steps = attribute(quantized, [floating, quantized], references, TASK)
    assert [step.name for step in steps] == ["teacher", "student", "onnxruntime-x86 fp32 on local", "onnxruntime-x86 int8 on local"]
    assert [step.metric.value for step in steps] == [38 / 40, 36 / 40, 36 / 40, 33 / 40]
    assert steps[0].difference is None
    differences = [step.difference.value for step in steps[1:] if step.difference is not None]
    assert differences == [pytest.approx(-2 / 40), 0.0, pytest.approx(-3 / 40)]
    assert sum(differences) == pytest.approx(steps[-1].metric.value - steps[0].metric.value)  # the steps make up the whole loss
    assert [(step.gained, step.lost) for step in steps] == [(0, 0), (0, 2), (0, 0), (0, 3)]
    assert steps[-1].p_value == mcnemar(0, 3)
    assert all(step.difference.interval is not None for step in steps[1:] if step.difference is not None)


def test_what_another_device_adds_is_a_step_of_its_own(linear: Any, tmp_path: Path, references: References) -> None:
    cells = [cell(linear, tmp_path, "fp16", 36), cell(linear, tmp_path, "int8", 35), cell(linear, tmp_path, "int8", 30, device="board")]
    steps = attribute(cells[-1], cells, references, TASK)
    assert [step.name for step in steps[2:]] == [
        "onnxruntime-x86 fp16 on local",
        "onnxruntime-x86 int8 on local",
        "onnxruntime-x86 int8 on board",
    ]
    assert (steps[-1].gained, steps[-1].lost) == (0, 5)


def test_fp32_stands_for_float_where_there_are_both_and_other_targets_never_do(linear: Any, tmp_path: Path, references: References) -> None:
    cells = [cell(linear, tmp_path, "fp16", 36), cell(linear, tmp_path, "fp32", 36), cell(linear, tmp_path, "int8", 35)]
    foreign = cell(linear, tmp_path, "fp32", 36, target="openvino")
    assert attribute(cells[-1], [foreign, *cells], references, TASK)[2].name == "onnxruntime-x86 fp32 on local"
    assert [step.name for step in attribute(cells[-1], [foreign, cells[-1]], references, TASK)] == [
        "teacher",
        "student",
        "onnxruntime-x86 int8 on local",
    ]


def test_a_float_artifact_has_no_quantization_step(linear: Any, tmp_path: Path, references: References) -> None:
    floating, quantized = cell(linear, tmp_path, "fp32", 36), cell(linear, tmp_path, "int8", 33)
    assert [step.name for step in attribute(floating, [floating, quantized], references, TASK)] == [
        "teacher",
        "student",
        "onnxruntime-x86 fp32 on local",
    ]


def test_a_cell_that_failed_has_the_steps_before_it(linear: Any, tmp_path: Path, references: References) -> None:
    floating, dead = cell(linear, tmp_path, "fp32", 36), cell(linear, tmp_path, "int8", 0, status="failed")
    assert [step.name for step in attribute(dead, [floating, dead], references, TASK)][-1] == "onnxruntime-x86 fp32 on local"
