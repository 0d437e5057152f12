"""What a recipe holds itself to, also when it is made in Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdedge import recipe as recipe_module
from kdedge.recipe import ModelSection, NormalizeSection, Recipe, TeacherSection, TrainSection
from kdedge.recipe_values import Section


def recipe(**changes: Any) -> Recipe:
    plain: dict[str, Any] = {
        "name": "small",
        "task": "image-classification",
        "data": {"train": "npz:a.npz", "test": "npz:a.npz"},
        "student": {"model": "kdedge:cnn"},
        "distill": {},
    }
    return Recipe.model_validate({**plain, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe(**changes)
    return str(caught.value)


def test_a_recipe_made_in_python_keeps_its_paths() -> None:
    made = recipe(teacher=TeacherSection(model="onnx:t.onnx"), student=ModelSection(model="kdedge:cnn", weights=Path("w.safetensors")))
    assert made.data.train == "npz:a.npz"
    assert isinstance(made.teacher, TeacherSection)
    assert made.teacher.model == "onnx:t.onnx"
    assert made.student.weights == Path("w.safetensors")


def test_one_teacher_and_several_are_told_apart() -> None:
    one = {"model": "onnx:t.onnx"}
    assert isinstance(recipe(teacher=one).teacher, TeacherSection)
    assert isinstance(recipe(teacher=[one, one]).teacher, tuple)
    assert "at least 1 item" in refusal(teacher=[])


@pytest.mark.parametrize("teacher", [{"model": "kdedge:resnet20-cifar"}, {"model": "torchvision:resnet18"}, {"model": "timm:resnet18"}])
def test_a_named_teacher_without_weights_must_be_trained(teacher: dict[str, Any]) -> None:
    assert "has no weights and nothing trains it" in refusal(teacher=teacher)
    recipe(teacher={**teacher, "train": {"epochs": 1}})
    recipe(teacher={**teacher, "weights": "w.safetensors"})


def test_a_factory_of_the_users_may_bring_its_own_weights() -> None:
    assert isinstance(recipe(teacher={"model": "mine.models:pretrained"}).teacher, TeacherSection)
    assert recipe(student={"model": "mine.models:pretrained"}, distill=None).distill is None


def test_a_student_must_learn_or_know() -> None:
    assert "nothing trains it" in refusal(distill=None)
    assert recipe(distill=None, student={"model": "onnx:s.onnx"}).distill is None
    assert recipe(distill=None, student={"model": "kdedge:cnn", "weights": "w.safetensors"}).distill is None


def test_an_onnx_file_is_never_trained() -> None:
    assert "an ONNX file cannot be trained" in refusal(student={"model": "onnx:s.onnx"})
    assert "an ONNX file cannot be trained" in refusal(teacher={"model": "onnx:t.onnx", "train": {}})


@pytest.mark.parametrize("kind", ["onnx:t.onnx", "transformers:folder"])
def test_a_model_that_holds_its_weights_takes_no_others(kind: str) -> None:
    assert "remove `weights`" in refusal(teacher={"model": kind, "weights": "w.safetensors"})
    assert "remove `arguments`" in refusal(teacher={"model": kind, "arguments": {"width": 8}})


def test_devices_and_precisions_are_named_once() -> None:
    assert "`local` is listed twice" in refusal(devices=["local", "local"])
    assert "`int8` is listed twice" in refusal(export=[{"target": "openvino", "precision": ["int8", "int8"]}])
    assert "at least 1 item" in refusal(devices=[])


def test_mean_and_std_have_one_number_a_channel() -> None:
    with pytest.raises(ValidationError, match="mean has 3 numbers and std has 1"):
        NormalizeSection(mean=(0.1, 0.2, 0.3), std=(1.0,))
    with pytest.raises(ValidationError, match="greater than 0"):
        NormalizeSection(mean=(0.1,), std=(0.0,))


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([">=", "<=", ">", "<"]), st.sampled_from(["", "%", "ms", " ms", " MB", "µs"])
)
def test_any_comparison_with_a_number_and_a_unit_is_a_condition(number: float, comparison: str, unit: str) -> None:
    assert recipe(gate={"size": f"{comparison} {number}{unit}"}).gate


@pytest.mark.parametrize("text", ["", "2 ms", ">=", ">= fast", "=> 2", "== 2", "<= 2 ms or so", ">= 0.9 0.8"])
def test_what_is_no_comparison_is_refused(text: str) -> None:
    assert "is not a condition" in refusal(gate={"size": text})


def test_the_gate_may_require_targets() -> None:
    assert recipe(gate={"require": "all"}).gate == {"require": "all"}
    assert recipe(gate={"require": ["openvino"]}).gate == {"require": ("openvino",)}


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainSection().epochs = 3


def sections(section: type[Section] = Section) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from sections(each)


def test_every_field_of_a_recipe_is_read_by_something() -> None:
    package = Path(recipe_module.__file__).parent
    folders = [package, *(package / link for link in ("exporters", "runtimes", "devices"))]
    files = [path for folder in folders for path in folder.resolve().rglob("*.py") if path.name != "recipe.py"]
    read = {node.attr for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert {"lr", "keep_float"} <= read
    unread = {f"{section.__name__}.{name}" for section in sections() for name in section.model_fields if name not in read}
    assert not unread
