"""A package that is missing is a sentence, at the beginning of a run; what a recipe does not need is not asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import small_recipes

from kdedge.checks import check_installed
from kdedge.errors import MissingExtra
from kdedge.installed import need
from kdedge.recipe import Recipe
from kdedge.recipe_file import load_recipe
from kdedge.tuning import tune
from kdedge.workspace import Workspace


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    need("anything", "onnx", "json")
    with pytest.raises(MissingExtra, match=r"making artifacts needs `no_such_package`, .*'kdedge\[onnx\]'"):
        need("making artifacts", "onnx", "json", "no_such_package")


def recipe(**values: Any) -> Recipe:
    plain = {"name": "r", "task": "image-classification", "data": {"train": "npz:d.npz", "test": "npz:d.npz"}, "student": {"model": "onnx:s.onnx"}}
    return Recipe.model_validate({**plain, "export": [{"target": "onnxruntime-x86", "precision": ["fp32"]}], **values})


def test_a_search_asks_for_what_its_page_takes_before_a_teacher_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, workspace, real = load_recipe(small_recipes.write(tmp_path)), Workspace(tmp_path / "workspace"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else real(name, *more))
    with pytest.raises(MissingExtra, match=r"`matplotlib`.*kdedge\[report\]"):
        tune(given, workspace, trials=1)
    assert workspace.events == []


TRAINED: dict[str, Any] = {"student": {"model": "kdedge:cnn"}, "teacher": {"model": "onnx:t.onnx"}, "distill": {}}
OPENVINO = [{"target": "openvino", "precision": ["fp32"]}]


@pytest.mark.parametrize(
    ("missing", "values", "wanted", "extra"),
    [
        ("torch", {}, {}, None),
        ("torch", TRAINED, {}, "train"),
        ("torch", {"teacher": {"model": "transformers:folder"}}, {}, "train"),
        ("openvino", {}, {}, None),
        ("openvino", {"export": OPENVINO}, {}, "openvino"),
        ("openvino", {"export": OPENVINO}, {"export": False}, None),
        ("onnxscript", {}, {}, "onnx"),
        ("onnxscript", {}, {"export": False}, None),
        ("matplotlib", {}, {}, "report"),
        ("matplotlib", {}, {"report": False}, None),
    ],
)
def test_a_run_asks_for_what_it_will_import_and_for_nothing_else(
    missing: str, values: dict[str, Any], wanted: dict[str, bool], extra: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    if extra is None:
        check_installed(recipe(**values), **{"export": True, "report": True, **wanted})
        return
    with pytest.raises(MissingExtra, match=rf"`{missing}`.*kdedge\[{extra}\]"):
        check_installed(recipe(**values), **{"export": True, "report": True, **wanted})
