"""A teacher's own classes: which of its outputs is which class of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_world import COLOURS, image_data

from kdedge.errors import ModelError
from kdedge.models.catalog import resolve
from kdedge.models.class_names import class_map, named
from kdedge.recipe import TeacherSection


def test_each_class_of_the_data_is_found_by_its_name() -> None:
    assert class_map(("a", "b"), ("a", "b"), "t") == ()
    assert class_map(("b", "a"), ("a", "b"), "t") == (1, 0)
    assert class_map(("x", "b", "y", "a"), ("a", "b"), "t") == (3, 1)
    assert class_map(("a", "b", "c"), ("a", "b"), "t") == (0, 1)  # a map, though the first are in order: the rest is cut


def test_classes_that_are_missing_are_said_with_both_lists() -> None:
    with pytest.raises(ModelError) as error:
        class_map(("cats", "dog"), ("cat", "dog", "eel"), "teacher `t`")
    assert str(error.value) == (
        "teacher `t`: its classes lack `cat`; did you mean `cats`? and 1 more; its own are 2 (cats, dog), the data's are 3 (cat, dog, eel): "
        "all classes of the data must be among them, by the same names"
    )
    assert named([str(number) for number in range(1000)]).endswith("18, 19, and 980 more)")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"")
    return path


def test_a_teacher_with_classes_of_its_own_has_as_many_outputs(weights: Path) -> None:
    own = ("black", *COLOURS, "white")
    spec = resolve(TeacherSection(model="kdedge:cnn", weights=weights, normalize="none", classes=own), image_data(), as_is=True)
    assert spec.classes == own
    assert spec.arguments["classes"] == 5
    same = resolve(
        TeacherSection(model="kdedge:cnn", weights=weights, normalize="none", arguments={"classes": 5}, classes=own), image_data(), as_is=True
    )
    assert same.arguments["classes"] == 5


def test_its_arguments_must_agree_with_its_classes(weights: Path) -> None:
    section = TeacherSection(model="kdedge:cnn", weights=weights, normalize="none", arguments={"classes": 3}, classes=(*COLOURS, "white"))
    with pytest.raises(ModelError, match=r"arguments\.classes is 3, `classes` names 4 classes; remove it, `classes` says it"):
        resolve(section, image_data())


def test_a_teacher_that_lacks_a_class_is_refused_before_it_is_opened(weights: Path) -> None:
    section = TeacherSection(model="kdedge:cnn", weights=weights, normalize="none", classes=("red", "green", "black"))
    with pytest.raises(ModelError, match=r"teacher `kdedge:cnn`: its classes lack `blue`.*its own are 3 .*the data's are 3"):
        resolve(section, image_data())


def test_classes_of_ones_own_are_for_weights_that_are_given() -> None:
    with pytest.raises(ValueError, match="a teacher that is trained learns the data's: remove one of them"):
        TeacherSection.model_validate({"model": "kdedge:cnn", "train": {"epochs": 1}, "classes": ["a", "b"]})
    with pytest.raises(ValueError, match="`a` is listed twice"):
        TeacherSection.model_validate({"model": "mine:factory", "classes": ["a", "b", "a"]})
