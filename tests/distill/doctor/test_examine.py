"""Faults are planted in a tiny world, and the doctor finds them; in a healthy one it finds nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_world import CLASSES, SIDE, Tiny, image_data, spec, training
from torch import Tensor, nn
from torch.nn import functional as F

from kdedge.artifact import ImportPath, ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.doctor import Diagnosis, Finding
from kdedge.distill.doctor.case import Case
from kdedge.distill.doctor.examine import examine
from kdedge.distill.lessons import Lesson
from kdedge.distill.loop import train
from kdedge.distill.spec import TeacherSpec
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec, spec_of
from kdedge.recipe import OptimizerSection
from kdedge.workspace import Workspace

LOSSES = ({"ce": 0.5}, {"kd": 0.5, "temperature": 2.0})


class Restless(Tiny):
    """Draws even in eval."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(F.dropout(image))


def restless(classes: int, width: int = 8) -> nn.Module:
    return Restless(classes, width, 0.0)


class HalfUsed(Tiny):
    """Has a layer that nothing uses."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, 4, 0.0)
        self.unused = nn.Linear(2, 2)


def half_used(classes: int) -> nn.Module:
    return HalfUsed(classes)


def linear_of(module: nn.Module) -> nn.Linear:
    found = module.get_submodule("inner.linear")
    assert isinstance(found, nn.Linear)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedData, ModelFiles]:
    """120 images and a teacher that knows them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    data = image_data(folder / "data", 120)
    # Far from the data's own statistics, so that a teacher without them is lost.
    data = replace(data, statistics={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    (folder / "teacher").mkdir()
    course = training(epochs=30, optimizer=OptimizerSection(lr=0.1))
    with accelerated("fp32") as accelerator:
        files = train(accelerator, spec(width=16, dropout=0.0), course, data, 0, folder=folder / "teacher", what="teacher")
    torch.set_num_threads(threads)
    module = build(spec_of(files))
    with torch.no_grad():
        for parameter in linear_of(module).parameters():
            parameter.div_(3)  # as right as before, and less sure of it
    (folder / "softer").mkdir()
    return data, to_files(spec_of(files), module, folder / "softer")


def diagnosis(
    data: PreparedData,
    teacher: ModelFiles | None,
    folder: Path,
    *losses: dict[str, Any],
    student: ModelSpec | None = None,
    taps: bool = False,
    **changes: Any,
) -> Diagnosis:
    student = student or spec(dropout=0.0)
    taught = teacher is not None or bool(changes.get("teachers"))
    course = training(*(losses or LOSSES), teacher=taught, views=2)
    lesson = Lesson("", student, course, taught_by=() if taught else None)
    members = (TeacherSpec(spec_of(teacher)),) if teacher is not None else ()
    files = TeacherFiles((teacher,), (1.0,)) if teacher is not None else None
    # The test split is no file at all: it is never opened.
    nowhere = replace(data.splits["train"], arguments={**data.splits["train"].arguments, "images": folder / "nowhere.npy"})
    data = replace(data, splits={"train": data.splits["train"], "test": nowhere})
    case = Case("tiny", data, members, files, (lesson,), student, ("crop1",), 0)
    return examine(replace(case, **changes), Workspace(folder / "workspace"), taps=taps)


def urgent(found: Diagnosis) -> dict[str, Finding]:
    return {each.check: each for each in found.findings if each.level in ("error", "warning")}


def test_a_healthy_recipe_has_nothing_to_complain_about(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    found = diagnosis(*world, tmp_path)
    assert [each for each in found.findings if each.level != "ok"] == []
    checks = ("class balance", "teacher accuracy", "augmentation", "sharpness", "class counts", "size", "gradients", "teacher mode", "terms", "cache")
    assert sorted(each.check for each in found.findings) == sorted(checks)


def test_a_warm_up_as_long_as_the_training_is_found(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    lesson = Lesson("", spec(dropout=0.0), training(*LOSSES, teacher=True, views=2, epochs=2, warmup_epochs=3))
    found = urgent(diagnosis(*world, tmp_path, lessons=(lesson,)))
    assert list(found) == ["warm-up"]
    assert "`warmup_epochs` is 3 and `epochs` 2" in found["warm-up"].message


def test_a_wrong_normalisation_is_found_and_the_right_one_named(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    data, teacher = world
    found = urgent(diagnosis(data, replace(teacher, normalize=((-1.0, 0.0, 1.0), (0.2, 2.0, 0.3))), tmp_path))["teacher accuracy"]
    assert found.level == "error"
    assert found.advice.startswith(
        ("set teacher.normalize: data", "set teacher.normalize: imagenet", "set teacher.normalize: cifar10", "set teacher.normalize: {mean: [0.5")
    )
    assert found.figures["trials"]["`normalize: data`"] > 0.9


def test_a_wrong_order_of_labels_is_found_and_named(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    data, teacher = world
    module = build(spec_of(teacher))
    with torch.no_grad():
        for parameter in linear_of(module).parameters():
            parameter.copy_(parameter[[0, 2, 1]].clone())
    (tmp_path / "shuffled").mkdir()
    found = urgent(diagnosis(data, to_files(spec_of(teacher), module, tmp_path / "shuffled"), tmp_path))["teacher accuracy"]
    assert found.level == "error"
    assert "left <-> right" in found.message
    assert "teacher.classes: [dark, right, left]" in found.advice


def test_weights_that_know_nothing_are_an_error(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    torch.manual_seed(1)
    fresh = spec(width=16, dropout=0.0)
    module = build(fresh)
    with torch.no_grad():
        linear_of(module).weight.zero_()
    (tmp_path / "fresh").mkdir()
    found = urgent(diagnosis(world[0], to_files(fresh, module, tmp_path / "fresh"), tmp_path))["teacher accuracy"]
    assert found.level == "error"
    assert "no more than guessing" in found.message


def test_a_teacher_that_is_random_in_eval_is_found(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    data, teacher = world
    noisy = replace(teacher, factory=ImportPath(f"{__name__}:restless"), arguments={"classes": len(CLASSES), "width": 16})
    assert "random even in eval" in urgent(diagnosis(data, noisy, tmp_path))["teacher mode"].message


def test_a_parameter_that_gets_no_gradient_is_named(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    student = replace(spec(), factory=ImportPath(f"{__name__}:half_used"), arguments={"classes": len(CLASSES)})
    assert "unused.weight" in urgent(diagnosis(*world, tmp_path, student=student))["gradients"].message


def test_a_frozen_student_is_an_error(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    assert urgent(diagnosis(*world, tmp_path, student=spec("frozen")))["gradients"].level == "error"


def test_a_term_a_thousand_times_too_loud_is_named(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    found = urgent(diagnosis(*world, tmp_path, {"ce": 1.0}, {"kd": 1e6, "temperature": 2.0}))["terms"]
    assert "the gradient of kd" in found.message
    assert "for kd (now 1e+06)" in found.advice


def test_a_student_larger_than_its_teacher_is_found(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    assert urgent(diagnosis(*world, tmp_path, student=spec(width=32)))["size"].level == "warning"


def test_layers_are_listed_and_pairs_checked(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    found = diagnosis(*world, tmp_path, {"ce": 1.0}, {"fitnet": 1.0, "layers": ["norm"]}, taps=True)
    shapes = {whose: {layer.name: layer.shape for layer in layers} for whose, layers in found.layers.items()}
    assert shapes["student"]["norm"] == (4, SIDE, SIDE)
    assert shapes["teacher"]["norm"] == (16, SIDE, SIDE)
    layers = next(each for each in found.findings if each.check == "layers")
    assert (layers.level, layers.figures["fitnet"]["trained_parameters"]) == ("ok", 4 * 16 + 16)


def test_a_stage_of_hints_before_soft_targets_is_no_fault(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    hints = Lesson("stage 1", spec(dropout=0.0), training({"fitnet": 1.0, "layers": ["conv"]}, teacher=True, views=2))
    soft = Lesson("stage 2", spec(dropout=0.0), training(*LOSSES, teacher=True, views=2), continues=True)
    whole = diagnosis(*world, tmp_path, lessons=(hints, soft))
    assert urgent(whole) == {}
    said = {each.check: each for each in whole.findings}
    assert "in this stage no gradient reaches" in said["gradients (stage 1)"].message
    assert said["gradients (stage 2)"].level == "ok"
    assert "whole feature maps (conv), which are too large to keep" in said["cache (stage 1)"].message
    # Where nothing follows, the same is a fault.
    assert urgent(diagnosis(*world, tmp_path, lessons=(hints,)))["gradients (stage 1)"].level == "warning"


def test_a_layer_that_is_not_there_is_an_error(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    found = urgent(diagnosis(*world, tmp_path, {"ce": 1.0}, {"at": 1.0, "layers": ["nurm"]}))
    assert any(each.level == "error" and "no layer `nurm`" in each.message for each in found.values())


def test_a_teacher_that_is_not_trained_yet_is_said_and_the_rest_is_looked_at(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    teachers = (TeacherSpec(spec(width=8), training(augment=())),)
    found = diagnosis(world[0], None, tmp_path, {"ce": 1.0}, {"fitnet": 1.0, "layers": ["norm"]}, teachers=teachers)
    assert "trains its teacher" in next(each for each in found.findings if each.check == "teacher").message
    assert {"layers", "gradients"} <= {each.check for each in found.findings}
    assert not {"teacher accuracy", "terms"} & {each.check for each in found.findings}


def test_a_class_without_examples_is_a_warning(tmp_path: Path) -> None:
    data = image_data(tmp_path / "data", classes=(*CLASSES, "absent"))
    student = spec(classes=(*CLASSES, "absent"), dropout=0.0)
    found = urgent(diagnosis(data, None, tmp_path, {"ce": 1.0}, student=student))
    assert "`absent`" in found["class balance"].message


def test_the_same_recipe_gives_the_same_findings(world: tuple[PreparedData, ModelFiles], tmp_path: Path) -> None:
    def said() -> list[tuple[str, str]]:
        return [(each.check, each.message) for each in diagnosis(*world, tmp_path).findings if each.check != "size"]

    before = np.random.get_state()[1].copy()  # type: ignore[index]
    assert said() == said()
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
