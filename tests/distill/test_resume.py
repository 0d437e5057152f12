"""Everything that a run can have of its own is taken up where it was left: to the byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import distill_world
import pytest
import torch
from distill_world import StopAfter, StoppedError, made, outcome, spec, training

from kdedge import progress
from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.distill.checkpoint import load_checkpoint
from kdedge.distill.lessons import lessons
from kdedge.distill.spec import TeacherSpec, TrainingSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.terms import terms_of
from kdedge.distill.trainer import distill
from kdedge.errors import TrainingError
from kdedge.recipe import DistillSection, ModelSection, OptimizerSection, StageSection
from kdedge.training import teach
from kdedge.workspace import Workspace

SEED = 5
CE, KD = {"ce": 0.5}, {"kd": 1.0, "temperature": 2.0}
LATE_HINT = {"fitnet": 0.5, "layers": ["conv"], "start": 0.4, "stop": 0.8}
# What has a state of its own or depends on the step: 12 steps, four an epoch.
WAYS: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
    "average": ((CE,), {"ema": 0.9}),
    "adapter": ((CE, {"fitnet": 0.5, "layers": ["conv"]}), {}),
    "memory": ((CE, {"crd": 0.1, "layers": ["norm"], "negatives": 8, "dimension": 4}), {}),
    "variances": ((CE, {"vid": 0.1, "layers": ["norm"]}), {}),
    "learned temperature": ((CE, {"kd": 1.0, "temperature": {"learned": {"warmup_epochs": 2}}}), {}),
    "schedules": (({"ce": {0: 1.0, 1: 0.2}}, {"kd": {0: 0.0, 0.3: 2.0}, "temperature": {0: 1.0, 1: 4.0}}), {}),
    "late hint, sgd": ((CE, KD, LATE_HINT), {}),
    "late hint, adamw": ((CE, KD, LATE_HINT), {"optimizer": OptimizerSection(name="adamw", lr=0.01)}),
    "pieces": ((CE, KD), {"accumulate": 3}),
    "clipping": ((CE, KD), {"clip_norm": 0.05}),
    "bf16": ((CE, KD), {"precision": "bf16"}),
    "channels last": ((CE, KD), {"channels_last": True}),
    "views": ((CE, KD), {"views": 2}),
}


@pytest.fixture
def teacher(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    return obtain((TeacherSpec(spec(width=8), training(epochs=1)),), data, SEED, folder=made(tmp_path / "teacher"))


def stopped_and_resumed(step: int, how: TrainingSpec, teacher: TeacherFiles | None, data: PreparedData, folder: Path) -> dict[str, bytes]:
    with progress.listening(StopAfter(step)), pytest.raises(StoppedError):
        distill(spec(), how, teacher, data, SEED, folder=folder)
    distill(spec(), how, teacher, data, SEED, folder=folder)
    return outcome(folder)


def straight(how: TrainingSpec, teacher: TeacherFiles | None, data: PreparedData, folder: Path) -> dict[str, bytes]:
    distill(spec(), how, teacher, data, SEED, folder=made(folder))
    return outcome(folder)


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_to_the_same_bytes(data: PreparedData, teacher: TeacherFiles, tmp_path: Path, way: str) -> None:
    losses, section = WAYS[way]
    how = training(*losses, teacher=True, checkpoint_seconds=0.0, **section)
    expected = straight(how, teacher, data, tmp_path / "straight")
    # The late term begins with step 6 and ends with step 10: before, within and after it; 8 is the end of an epoch.
    for step in (5, 8, 10) if way.startswith("late") else (5, 8):
        assert stopped_and_resumed(step, how, teacher, data, made(tmp_path / f"{step}")) == expected, f"stopped at {step}"


def test_peers_are_taken_up_too(data: PreparedData, tmp_path: Path) -> None:
    losses = DistillSection(losses=(CE, {"mutual": 1.0}), peers=(ModelSection(model="distill_world:tiny"),))
    how = dataclasses.replace(training(checkpoint_seconds=0.0, ema=0.5), terms=terms_of(losses, False), peers=(spec(), spec(width=6)))
    expected = straight(how, None, data, tmp_path / "straight")
    for step in (4, 7):
        assert stopped_and_resumed(step, how, None, data, made(tmp_path / f"{step}")) == expected, f"stopped at {step}"


def test_what_is_kept_of_each_epoch_is_the_same_after_a_stop(data: PreparedData, tmp_path: Path) -> None:
    how = dataclasses.replace(training(checkpoint_seconds=0.0), snapshots=True)
    folders = made(tmp_path / "straight"), made(tmp_path / "stopped")
    distill(spec(), how, None, data, SEED, folder=folders[0])
    with progress.listening(StopAfter(6)), pytest.raises(StoppedError):
        distill(spec(), how, None, data, SEED, folder=folders[1])
    distill(spec(), how, None, data, SEED, folder=folders[1])
    kept = [{path.name: path.read_bytes() for path in (folder / "epochs").iterdir()} for folder in folders]
    assert sorted(kept[0]) == ["0001.safetensors", "0002.safetensors", "0003.safetensors"]
    assert kept[0] == kept[1]
    assert kept[0]["0003.safetensors"] == (folders[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_a_course_of_two_stages_goes_on_in_the_stage_where_it_stopped(data: PreparedData, teacher: TeacherFiles, tmp_path: Path, stop: int) -> None:
    section = DistillSection(
        epochs=2,
        batch_size=16,
        checkpoint_seconds=0.0,
        optimizer=OptimizerSection(lr=0.05),
        stages=(StageSection(losses=(CE, {"fitnet": 0.5, "layers": ["conv"]})), StageSection(epochs=1, losses=(CE, KD))),
    )
    course = lessons(section, spec(), has_teacher=True, augment=("crop1",), seed=SEED)
    assert len(course) == 2

    def taught(workspace: Workspace) -> bytes:
        model = spec()
        for lesson in course:
            trained = teach(lesson, model, teacher, data, SEED, workspace).model
            model = dataclasses.replace(model, weights=trained.weights)
        assert model.weights is not None
        return model.weights.read_bytes()

    expected = taught(Workspace(tmp_path / "one"))
    # Steps 1 to 8 are of the first stage, 9 to 12 of the second. A step is heard of before it is saved, so that it is done again.
    with progress.listening(StopInCourse(stop)), pytest.raises(StoppedError):
        taught(Workspace(tmp_path / "two"))
    with progress.listening(heard := FirstSteps()):
        assert taught(workspace := Workspace(tmp_path / "two")) == expected
    assert heard.first == ([("distill stage 1", stop), ("distill stage 2", 1)] if stop <= 8 else [("distill stage 2", stop - 8)])
    assert [event.cached for event in workspace.events] == [stop > 8, False]


class StopInCourse(progress.Silent):
    """Ends a course at a step, counted over its lessons."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        self.left -= 1
        if self.left <= 0:
            raise StoppedError


class FirstSteps(progress.Silent):
    """Of which step each run was heard first."""

    def __init__(self) -> None:
        self.first: list[tuple[str, int]] = []

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if what not in [name for name, _ in self.first]:
            self.first.append((what, done))


def test_after_a_value_that_is_no_number_the_next_run_goes_on_from_the_last_good_step(data: PreparedData, tmp_path: Path) -> None:
    how = training({"ce": 1.0}, {"distill_world:overflowing": 0.1, "good_calls": 6}, checkpoint_seconds=0.0)
    distill_world._calls = -1000
    expected = straight(how, None, data, tmp_path / "straight")
    folder = made(tmp_path / "broken")
    distill_world._calls = 0
    with pytest.raises(TrainingError, match=r"`distill_world:overflowing` became inf in step 7 \(epoch 2 of 3\)"):
        distill(spec(), how, None, data, SEED, folder=folder)
    # Whatever made the value (here: a count in this process) is gone.
    distill_world._calls = -1000
    with progress.listening(heard := FirstSteps()):
        distill(spec(), how, None, data, SEED, folder=folder)
    assert heard.first == [("distill", 7)]
    assert outcome(folder) == expected


def test_a_gradient_that_overflows_in_a_part_of_a_loss_leaves_the_last_good_state(data: PreparedData, tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    hint = {"distill_world:fragile": 1.0, "adapter": "distill_world:Fragile", "good_calls": 5}
    distill_world._calls = 0
    with pytest.raises(TrainingError, match=r"the weights `learned\.1\.parts\.0\.scale` are not finite after step 6"):
        distill(spec(), training(CE, hint, checkpoint_seconds=0.0), None, data, SEED, folder=folder)
    state = torch.load(_payload(folder / "checkpoint.bin"), weights_only=True)
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["learned"].values())


def test_a_model_that_holds_infinities_on_purpose_is_trained(data: PreparedData, tmp_path: Path) -> None:
    distill(spec("masked"), training(epochs=1), None, data, SEED, folder=made(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run", "") is None


def _payload(path: Path) -> Any:
    import io

    return io.BytesIO(path.read_bytes()[32:])
