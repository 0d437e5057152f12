"""What a change makes again: the stages that depend on it, and none before them. Run for real on a few digits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdedge.api import run
from kdedge.errors import ModelError
from kdedge.recipe import Recipe

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

SMALL = {
    "name": "small",
    "task": "image-classification",
    "data": {"train": "sklearn:digits", "test": "sklearn:digits", "limit_train": 128, "limit_test": 40, "calibration": 64},
    "teacher": {"model": "kdedge:cnn", "arguments": {"width": 4, "depth": 0, "stages": 1}, "train": {"epochs": 1}},
    "student": {"model": "kdedge:cnn", "arguments": {"width": 4, "depth": 0, "stages": 1}},
    "distill": {"epochs": 1, "losses": [{"ce": 0.1}, {"kd": 1.0, "temperature": 4}]},
    "export": [{"target": "onnxruntime-x86", "precision": ["fp32", "int8"]}],
}
AFTER_THE_STUDENT = {
    *("references.reference_outputs", "onnx.export", "calibrate.calibrate"),
    *("build.build onnxruntime-x86 fp32", "build.build onnxruntime-x86 int8"),
}
Change = dict[str, object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("pipeline") / "w"
    made_again(workspace)
    return workspace


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Callable[..., set[str]]:
    shutil.copytree(finished, tmp_path / "w")
    return lambda **changes: made_again(tmp_path / "w", **changes)


def made_again(workspace: Path, **changes: Change) -> set[str]:
    """The stages that were not read from the cache; `changes` replace keys inside the sections of `SMALL`."""
    content = {**SMALL, **{key: {**SMALL.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()}}  # type: ignore[dict-item]
    made: set[str] = set()
    run(
        Recipe.model_validate(content),
        workspace=workspace,
        until="export",
        on_stage=lambda event: None if event.cached else made.add(event.name),
    )
    return made


def test_a_finished_run_makes_nothing_again(again: Callable[..., set[str]]) -> None:
    assert again() == set()


def test_a_changed_temperature_makes_the_student_again_and_nothing_before_it(again: Callable[..., set[str]]) -> None:
    assert again(distill={"losses": [{"ce": 0.1}, {"kd": 1.0, "temperature": 2}]}) == {"trainer.distill", *AFTER_THE_STUDENT}


def test_other_test_data_trains_nothing_again(again: Callable[..., set[str]]) -> None:
    assert again(data={"limit_test": 30}) == {"prepare.prepare", "references.reference_outputs"}


def test_other_calibration_data_trains_nothing_again_and_leaves_float_artifacts_alone(again: Callable[..., set[str]]) -> None:
    made = again(data={"calibration": 32})
    assert made == {"prepare.prepare", "onnx.export", "calibrate.calibrate", "build.build onnxruntime-x86 int8"}


def test_another_observer_leaves_float_artifacts_alone(again: Callable[..., set[str]]) -> None:
    assert again(quantize={"observer": "minmax"}) == {"calibrate.calibrate", "build.build onnxruntime-x86 int8"}


def test_gate_profile_and_devices_make_nothing_again_before_measurement(again: Callable[..., set[str]]) -> None:
    assert again(gate={"size": "<= 1 MB"}, profile={"launches": 3}) == set()


def test_how_often_training_is_saved_changes_nothing_that_it_makes(again: Callable[..., set[str]]) -> None:
    assert again(distill={"checkpoint_seconds": 5.0}) == set()


def test_a_student_that_nothing_trains_must_say_its_normalisation(tmp_path: Path) -> None:
    content = {key: value for key, value in SMALL.items() if key not in ("teacher", "distill")} | {"student": {"model": "model_world:pixels"}}
    with pytest.raises(ModelError, match="say with which mean and std"):
        run(Recipe.model_validate(content), workspace=tmp_path, until="distill")
