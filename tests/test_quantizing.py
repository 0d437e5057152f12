"""The recipe's quantization runs as it says, and what it made is told with the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from small_recipes import arrays, write

from kdedge.artifact import Artifact
from kdedge.checks import check_recipe
from kdedge.errors import RecipeError
from kdedge.exporters.quantize.ranges import read_table
from kdedge.pipeline import run
from kdedge.quantizing import dialects_of
from kdedge.recipe import ExportSection
from kdedge.recipe_file import load_recipe
from kdedge.workspace import StageEvent, Workspace

INTEGERS = [{"target": "onnxruntime-x86", "precision": ["int8", "mixed"]}, {"target": "openvino", "precision": ["int8"]}]
SETTINGS: dict[str, object] = {
    "observer": "best",
    "recover": ["equalization", "bias_correction", "adaptive_rounding"],
    "aware": {"steps": 3, "batch_size": 8},
    "mixed": {"kl_student": "<= 1", "trials": 2},
}


def artifacts_of(folder: Path, quantize: Mapping[str, object], seen: list[StageEvent]) -> tuple[Artifact, ...]:
    recipe = load_recipe(
        write(folder, quantize=quantize, export=INTEGERS, teacher=None, distill={"epochs": 1, "batch_size": 16, "losses": [{"ce": 1.0}]})
    )
    return run(recipe, Workspace(folder.parent / "workspace", seen.append), until="export").artifacts


def made(events: list[StageEvent], name: str) -> list[bool]:
    return [not event.cached for event in events if event.name.startswith(name)]


def test_every_step_of_the_recipes_quantization_runs_once_a_dialect_and_is_told_with_the_artifact(tmp_path: Path) -> None:
    seen: list[StageEvent] = []
    found = artifacts_of(tmp_path / "recipe", SETTINGS, seen)
    assert [(artifact.target, artifact.precision) for artifact in found] == [
        ("onnxruntime-x86", "int8"),
        ("onnxruntime-x86", "mixed"),
        ("openvino", "int8"),
    ]
    counted = {name: len(made(seen, name)) for name in ("calibrate.calibrate", "recover.recover", "aware.aware", "mixed.find_mixed")}
    assert counted == {"calibrate.calibrate": 1, "recover.recover": 2, "aware.aware": 2, "mixed.find_mixed": 1}
    for artifact in found:
        for step in ("equalization", "adaptive_rounding", "bias_correction", "aware"):
            assert any(step in note for note in artifact.notes), (step, artifact.notes)
    assert found[1].trials


def test_another_budget_for_mixed_calibrates_recovers_and_trains_nothing_again(tmp_path: Path) -> None:
    first: list[StageEvent] = []
    again: list[StageEvent] = []
    artifacts_of(tmp_path / "recipe", SETTINGS, first)
    artifacts_of(tmp_path / "recipe", {**SETTINGS, "mixed": {"kl_student": "<= 2", "trials": 2}}, again)
    for name in ("calibrate.calibrate", "recover.recover", "aware.aware"):
        assert set(made(again, name)) == {False}
    assert made(again, "mixed.find_mixed") == [True]


def test_mixed_without_a_budget_is_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "recipe", export=INTEGERS))
    with pytest.raises(RecipeError, match=r"export\[0\]\.precision: `mixed` .* quantize\.mixed"):
        check_recipe(recipe)


def test_a_dialect_is_made_once_however_many_targets_ask_and_none_where_nobody_asks_for_integers() -> None:
    rows = [("openvino", "int8"), ("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "mixed"), ("openvino", "int8"), ("tensorrt", "fp16")]
    asked = [ExportSection.model_validate({"target": target, "precision": [precision]}) for target, precision in rows]
    assert dialects_of(asked) == ("openvino", "onnxruntime-x86")


def test_what_calibration_saw_is_the_same_whatever_comes_after_it(tmp_path: Path) -> None:
    plain = artifacts_of(tmp_path / "recipe", {"observer": "mse", "mixed": SETTINGS["mixed"]}, [])
    assert plain[0].lineage.ranges_sha256 == plain[2].lineage.ranges_sha256
    tables = list((tmp_path / "workspace").rglob("ranges.json"))
    assert {read_table(path).samples for path in tables} == {16}
    assert arrays()["x_train"].shape[0] == 48
