"""Recipes that reach the student in several lessons, run for real on tiny images: who taught whom, and that a stop changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_recipes
from distill_world import StoppedError

from kdedge import progress
from kdedge.api import run
from kdedge.artifact import ModelFiles, TeacherFiles
from kdedge.distill import trainer
from kdedge.distill.ensemble import Teacher
from kdedge.errors import DataError, RecipeError
from kdedge.report.result import RunResult
from kdedge.trained import TrainedLesson

pytest.importorskip("torch")

CE, KD = {"ce": 0.5}, {"kd": 1.0, "temperature": 2}
WIDE = {"model": "kdedge:cnn", "arguments": {"width": 6, "depth": 0, "stages": 2}}
PLAIN = {"epochs": 1, "batch_size": 16, "checkpoint_seconds": 0}


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[TeacherFiles]:
    """All teachers that students ask, in their order."""
    seen: list[TeacherFiles] = []

    class Spied(Teacher):
        def __init__(self, files: TeacherFiles, *others: Any) -> None:
            seen.append(files)
            super().__init__(files, *others)

    monkeypatch.setattr(trainer, "Teacher", Spied)
    return seen


def write(folder: Path, data: dict[str, Any] | None = None, change: small_recipes.Change | None = None, **distill: Any) -> Path:
    return small_recipes.write(folder, change, data, distill={**PLAIN, "losses": [CE, KD], **distill})


def made(recipe: Path, listener: progress.Listener | None = None) -> RunResult:
    return run(recipe, workspace=recipe.parent / "workspace", until="distill", listener=listener)


def weights(model: ModelFiles) -> bytes:
    assert model.weights is not None
    return model.weights.read_bytes()


def members(teacher: TeacherFiles) -> list[bytes]:
    return [weights(member) for member in teacher.members]


def terms(lesson: TrainedLesson) -> set[str]:
    return {name for line in lesson.metrics.read_text().splitlines() for name in json.loads(line)["terms"]}


# ---- who taught whom


@pytest.mark.parametrize("who", ["last", "average"])
def test_each_generation_is_taught_by_those_before_it(tmp_path: Path, teachers: list[TeacherFiles], who: str) -> None:
    result = made(write(tmp_path, generations={"count": 3, "teacher": who}))
    assert [each.label for each in result.training] == ["generation 1", "generation 2", "generation 3"]
    students = [weights(each.model) for each in result.training]
    assert len(set(students)) == 3
    assert result.student is not None
    assert weights(result.student) == students[2]
    assert result.teacher is not None
    assert [members(each) for each in teachers] == [
        members(result.teacher),
        [students[0]],
        [students[1]] if who == "last" else [students[0], students[1]],
    ]
    assert teachers[2].weights == ((1.0,) if who == "last" else (0.5, 0.5))


def test_without_a_teacher_the_first_generation_learns_from_labels_and_teaches_the_second(tmp_path: Path, teachers: list[TeacherFiles]) -> None:
    result = made(small_recipes.write(tmp_path, teacher=None, distill={**PLAIN, "losses": [CE, KD], "generations": {"count": 2}}))
    assert [terms(each) for each in result.training] == [{"ce"}, {"ce", "kd"}]
    assert [members(each) for each in teachers] == [[weights(result.training[0].model)]]


def test_a_chain_of_assistants_hands_on_what_the_teacher_knows(tmp_path: Path, teachers: list[TeacherFiles]) -> None:
    result = made(write(tmp_path, assistants=[WIDE]))
    assistant, student = result.training
    assert (assistant.label, assistant.model.arguments["width"], student.model.arguments["width"]) == ("assistant 1", 6, 4)
    assert result.teacher is not None
    assert [members(each) for each in teachers] == [members(result.teacher), [weights(assistant.model)]]
    assert result.student == student.model


def test_peers_are_no_lesson_of_their_own(tmp_path: Path) -> None:
    (only,) = made(small_recipes.write(tmp_path, teacher=None, distill={**PLAIN, "losses": [CE, {"mutual": 1.0}], "peers": [WIDE]})).training
    assert terms(only) == {"ce", "mutual"}
    assert only.model.arguments["width"] == 4


# ---- examples without labels


def unlabelled(content: small_recipes.Plain) -> None:
    content["data"] |= {"unlabelled": "npz:data.npz", "augment": ["crop1", "flip"]}


def pool() -> dict[str, Any]:
    """The small data, and sixty more images."""
    generator = np.random.default_rng(3)
    return small_recipes.arrays(x_unlabelled=generator.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8))


def test_labels_first_then_mixtures_of_examples_without_labels(tmp_path: Path) -> None:
    stages = [{"losses": [CE]}, {"losses": [KD], "learn_from": "unlabelled", "mixup": True}]
    first, second = made(write(tmp_path, pool(), unlabelled, stages=stages)).training
    assert [terms(each) for each in (first, second)] == [{"ce"}, {"kd"}]
    steps = [json.loads(each.metrics.read_text().splitlines()[-1])["step"] for each in (first, second)]
    # 48 labelled and 60 unlabelled examples in batches of at most 16.
    assert steps == [3, 4]


def test_other_unlabelled_examples_train_no_teacher_again(tmp_path: Path) -> None:
    recipe = write(tmp_path, pool(), unlabelled, losses=[KD], learn_from="unlabelled")
    first = made(recipe)
    more = pool()
    more["x_unlabelled"] = 255 - more["x_unlabelled"]
    np.savez(tmp_path / "data.npz", **more)
    events: list[Any] = []
    second = run(recipe, workspace=tmp_path / "workspace", until="distill", on_stage=events.append)
    assert {event.name: event.cached for event in events}["teacher.obtain"]
    assert first.student is not None
    assert second.student is not None
    assert weights(first.student) != weights(second.student)


def test_what_cannot_be_mixed_is_refused_before_a_teacher_is_trained(tmp_path: Path) -> None:
    from PIL import Image

    recipe = small_recipes.write(tmp_path, lambda content: content["data"].update(unlabelled="folder:photos", size=[8, 8]))
    content = json.loads(recipe.read_text())
    content["distill"] |= {"losses": [KD], "learn_from": "unlabelled", "mixup": True}
    recipe.write_text(json.dumps(content))
    (tmp_path / "photos").mkdir()
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / "photos" / f"{side}.png")
    with pytest.raises(DataError, match=r"distill\.mixup: .* data\.unlabelled holds images of several sizes"):
        made(recipe)
    assert not list((tmp_path / "workspace" / "stages").glob("teacher.obtain-*"))


def test_layers_of_several_teachers_are_refused_before_one_is_trained(tmp_path: Path) -> None:
    def several(content: small_recipes.Plain) -> None:
        content["teacher"] = [content["teacher"], content["teacher"]]
        content["distill"]["losses"] = [{"ce": 1.0}, {"at": 1000.0, "layers": ["stages.0"]}]

    recipe, said = small_recipes.write(tmp_path, several), "distill.losses[1]: `at` looks at layers of the teacher, and several teachers show none"
    small_recipes.refused(small_recipes.kdedge("recipe", "check", recipe), f"{recipe}:1: {said}")
    with pytest.raises(RecipeError, match=re.escape(said)):
        made(recipe)
    assert not list((tmp_path / "workspace" / "stages").glob("teacher.obtain-*"))


def test_what_is_wrong_with_one_of_several_teachers_is_told_by_its_own_key(tmp_path: Path) -> None:
    def second(content: small_recipes.Plain) -> None:
        other = {**content["teacher"], "train": {"epochs": 1, "losses": [{"kd": 1.0}]}}
        content["teacher"] = [content["teacher"], other]

    recipe = small_recipes.write(tmp_path, second)
    small_recipes.refused(small_recipes.kdedge("recipe", "check", recipe), f"{recipe}:1: teacher[1].train.losses[0]: `kd` compares with a teacher")


# ---- stopped runs


@dataclass
class Stop(progress.Silent):
    """Ends the run when a student's training has told of so many steps."""

    left: int

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if what.startswith("distill"):
            self.left -= 1
            if self.left < 0:
                raise StoppedError(what)


def attempt(recipe: Path) -> RunResult | None:
    """A run that gets two steps further, or ends."""
    try:
        return made(recipe, Stop(2))
    except StoppedError:
        return None


COURSES: dict[str, dict[str, Any]] = {
    "hints, then soft targets": {"stages": [{"losses": [{"fitnet": 1.0, "layers": ["stages.0"]}]}, {"ema": 0.9}]},
    "generations": {"generations": {"count": 3, "teacher": "average"}},
    "assistants": {"assistants": [WIDE]},
    "peers in the second stage": {"peers": [WIDE], "stages": [{}, {"losses": [CE, {"mutual": 1.0}]}]},
}


@pytest.mark.parametrize("name", COURSES)
def test_a_run_stopped_in_every_lesson_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    straight, broken = (write(tmp_path / where, **COURSES[name]) for where in ("straight", "broken"))
    expected = made(straight)
    stops = 0
    while (found := attempt(broken)) is None:
        stops += 1
    # Two steps an attempt: every lesson of three steps is left at least once.
    assert stops >= len(found.training)
    assert len(found.training) > 1
    for one, other in zip(expected.training, found.training, strict=True):
        assert (one.label, weights(one.model), one.metrics.read_bytes()) == (other.label, weights(other.model), other.metrics.read_bytes())
