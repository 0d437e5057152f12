from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import distill_world
import numpy as np
import pytest
import torch
from distill_world import StopAfter, StoppedError, image_data, made, outcome, spec, training
from safetensors.torch import load_file

from kdedge import progress
from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.loop import train
from kdedge.distill.spec import TeacherSpec, TrainingSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill
from kdedge.errors import TrainingError
from kdedge.models.load import load

SEED = 5
KD = ({"ce": 0.5}, {"kd": 2.0, "temperature": 2.0})
# Every feature that has a state of its own: dropout, momentum, EMA, clipping, warm-up, views.
FULL: dict[str, Any] = {"ema": 0.9, "clip_norm": 1.0, "warmup_epochs": 1.0, "views": 2}


@pytest.fixture
def teacher(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    return obtain((TeacherSpec(spec(width=8), training(epochs=2)),), data, SEED, folder=made(tmp_path / "teacher"))


class Heard(progress.Silent):
    """What a run tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int, str]] = []

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        self.told.append((what, done, total, note))


def run_stopped_after(step: int, how: TrainingSpec, teacher: TeacherFiles | None, data: PreparedData, folder: Path) -> None:
    with progress.listening(StopAfter(step)), pytest.raises(StoppedError):
        distill(spec(), how, teacher, data, SEED, folder=folder)


# ---- resuming


# 12 steps, four an epoch; 4 and 8 are the ends of epochs, 12 is the last step. The listener hears of a step before its checkpoint.
@pytest.mark.parametrize(("optimizer", "stops"), [("sgd", (1, 2, 4, 5, 8, 9, 12)), ("adamw", (5, 8))])
def test_a_run_stopped_anywhere_and_resumed_equals_an_unbroken_run_to_the_byte(
    data: PreparedData, teacher: TeacherFiles, tmp_path: Path, optimizer: str, stops: tuple[int, ...]
) -> None:
    how = training(*KD, teacher=True, checkpoint_seconds=0.0, optimizer={"name": optimizer, "lr": 0.01}, **FULL)
    straight = made(tmp_path / "straight")
    distill(spec(), how, teacher, data, SEED, folder=straight)
    assert set(outcome(straight)) == {"model.safetensors", "metrics.jsonl"}
    for step in stops:
        folder = made(tmp_path / f"stopped-{step}")
        run_stopped_after(step, how, teacher, data, folder)
        with progress.listening(heard := Heard()):
            distill(spec(), how, teacher, data, SEED, folder=folder)
        assert heard.told[0][1] == step, "the run did not go on where it was stopped"
        assert outcome(folder) == outcome(straight), f"stopped at {step}"


def test_a_run_in_bf16_and_channels_last_resumes_to_the_same_bytes(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    how = training(*KD, teacher=True, checkpoint_seconds=0.0, precision="bf16", channels_last=True, **FULL)
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    distill(spec(), how, teacher, data, SEED, folder=straight)
    run_stopped_after(6, how, teacher, data, broken)
    distill(spec(), how, teacher, data, SEED, folder=broken)
    assert outcome(broken) == outcome(straight)


def test_a_run_stopped_again_and_again_equals_an_unbroken_run(data: PreparedData, tmp_path: Path) -> None:
    how = training(checkpoint_seconds=0.0, **FULL)
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    distill(spec(), how, None, data, SEED, folder=straight)
    for step in (2, 3, 6, 11, 12):
        run_stopped_after(step, how, None, data, broken)
    distill(spec(), how, None, data, SEED, folder=broken)
    assert outcome(broken) == outcome(straight)


def test_how_often_checkpoints_are_written_changes_no_byte(data: PreparedData, tmp_path: Path) -> None:
    often, seldom = made(tmp_path / "often"), made(tmp_path / "seldom")
    distill(spec(), training(checkpoint_seconds=0.0, **FULL), None, data, SEED, folder=often)
    distill(spec(), training(checkpoint_seconds=1e9, **FULL), None, data, SEED, folder=seldom)
    assert outcome(often) == outcome(seldom)


def test_a_damaged_checkpoint_costs_a_step_and_changes_no_byte(data: PreparedData, tmp_path: Path) -> None:
    how = training(checkpoint_seconds=0.0, **FULL)
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    distill(spec(), how, None, data, SEED, folder=straight)
    run_stopped_after(7, how, None, data, broken)
    newest = broken / "checkpoint.bin"
    newest.write_bytes(newest.read_bytes()[:-100])
    distill(spec(), how, None, data, SEED, folder=broken)
    assert outcome(broken) == outcome(straight)


def test_a_run_killed_after_its_weights_were_written_trains_no_step_again(data: PreparedData, tmp_path: Path) -> None:
    how = training()
    folder = made(tmp_path / "run")
    first = distill(spec(), how, None, data, SEED, folder=folder)
    before = outcome(folder)
    (folder / "checkpoint.previous.bin").write_bytes(b"left by a kill while checkpoints were removed")
    with progress.listening(StopAfter(0)):
        assert distill(spec(), how, None, data, SEED, folder=folder) == first
    assert outcome(folder) == before


_KILLED = """
import os, signal, sys
from pathlib import Path
from kdedge import progress
from distill_world import image_data, spec, training
from kdedge.distill.trainer import distill

class Kill(progress.Silent):
    def advance(self, what, done, total, note):
        if done == 6:
            os.kill(os.getpid(), signal.SIGKILL)

with progress.listening(Kill()):
    distill(spec(), training(ema=0.9, checkpoint_seconds=0.0), None, image_data(Path(sys.argv[1])), 5, folder=Path(sys.argv[2]))
"""


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    data = image_data(tmp_path / "data")
    straight, killed = made(tmp_path / "straight"), made(tmp_path / "killed")
    # Sums are split by threads: the bytes are the same for the same number of them.
    environment = {**os.environ, "PYTHONPATH": str(Path(distill_world.__file__).parent), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "data"), str(killed)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (killed / "checkpoint.bin").exists()
    how = training(ema=0.9, checkpoint_seconds=0.0)
    distill(spec(), how, None, data, SEED, folder=straight)
    distill(spec(), how, None, data, SEED, folder=killed)
    assert outcome(killed) == outcome(straight)


# ---- what a run depends on


def test_the_same_inputs_give_the_same_bytes_whatever_the_processs_random_state(data: PreparedData, tmp_path: Path) -> None:
    found = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        folder = made(tmp_path / str(number))
        distill(spec(), training(), None, data, SEED, folder=folder)
        found.append(outcome(folder))
    assert found[0] == found[1]


def test_another_seed_gives_another_student_and_the_sections_seed_is_used_where_there_is_one(data: PreparedData, tmp_path: Path) -> None:
    def weights(name: str, how: TrainingSpec, seed: int) -> bytes:
        folder = made(tmp_path / name)
        distill(spec(), how, None, data, seed, folder=folder)
        return outcome(folder)["model.safetensors"]

    one = weights("one", training(), 1)
    assert weights("two", training(), 2) != one
    assert weights("given", training(seed=1), 2) == one


def test_the_process_is_left_as_it_was(data: PreparedData, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    torch.manual_seed(3)
    expected = torch.rand(1), AcceleratorState._shared_state.copy()
    torch.manual_seed(3)
    distill(spec(), training(epochs=1), None, data, SEED, folder=made(tmp_path / "run"))
    assert torch.rand(1) == expected[0]
    assert dict(AcceleratorState._shared_state) == dict(expected[1])
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "section", [{"precision": "bf16"}, {"channels_last": True}, {"schedule": "multistep"}, {"optimizer": {"name": "adamw", "lr": 0.01}}]
)
def test_a_run_learns_what_its_data_shows(data: PreparedData, tmp_path: Path, section: dict[str, Any]) -> None:
    files = distill(spec(width=8, dropout=0.0), training(epochs=8, **section), None, data, SEED, folder=made(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert all(value.dtype != torch.bfloat16 for value in load_file(files.weights).values())


def test_a_teacher_in_one_precision_and_a_student_in_another_train_in_one_process(data: PreparedData, tmp_path: Path) -> None:
    teacher = obtain((TeacherSpec(spec(), training(epochs=1, precision="bf16")),), data, SEED, folder=made(tmp_path / "teacher"))
    distill(spec(), training(*KD, teacher=True, epochs=1), teacher, data, SEED, folder=made(tmp_path / "student"))


# ---- what comes out


def test_the_student_can_be_built_again_from_its_files(data: PreparedData, tmp_path: Path) -> None:
    student = spec(width=6)
    files = distill(student, training(epochs=1), None, data, SEED, folder=made(tmp_path / "run"))
    assert files == ModelFiles(
        name=student.name,
        factory=student.factory,
        arguments=student.arguments,
        weights=tmp_path / "run" / "model.safetensors",
        onnx=None,
        inputs=student.inputs,
        outputs=student.outputs,
        encoder=student.encoder,
        classes=student.classes,
        normalize=student.normalize,
        parameters=3 * 6 * 9 + 6 + 2 * 6 + 54 * 3 + 3,
    )
    model = load(files)
    assert model(torch.zeros(2, 3, 6, 6))["logits"].shape == (2, 3)


def test_the_average_is_exported_with_its_batch_statistics(data: PreparedData, tmp_path: Path) -> None:
    plain = distill(spec(), training(), None, data, SEED, folder=made(tmp_path / "plain"))
    # A decay of 0 follows the model exactly, so the last average is the last state; any other decay is none of its states.
    zero = distill(spec(), training(ema=0.0), None, data, SEED, folder=made(tmp_path / "zero"))
    slow = distill(spec(), training(ema=0.9), None, data, SEED, folder=made(tmp_path / "slow"))
    last, same, average = (load_file(str(files.weights)) for files in (plain, zero, slow))
    assert all(torch.equal(last[name], same[name]) for name in last)
    assert not torch.equal(last["conv.weight"], average["conv.weight"])
    assert not torch.equal(last["norm.running_mean"], average["norm.running_mean"])
    assert average["norm.num_batches_tracked"] == 12


def test_who_follows_a_run_smoothed_is_told_averages_and_at_last_what_is_exported(data: PreparedData, tmp_path: Path) -> None:
    def followed(smoothed: bool, batch_size: int = 16) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        states: list[dict[str, torch.Tensor]] = []
        folder = made(tmp_path / f"{smoothed} {batch_size}")
        with accelerated("fp32") as accelerator:
            files = train(
                accelerator,
                spec(),
                training(batch_size=batch_size),
                data,
                SEED,
                folder=folder,
                what="student",
                after_epoch=lambda _, state: states.append({name: value.clone() for name, value in state.items()}),
                smoothed=smoothed,
            )
        return states, load_file(str(files.weights))

    (plain, _), (smooth, exported) = followed(False), followed(True)
    assert len(plain) == len(smooth) == 3
    for name in ("conv.weight", "norm.running_mean"):
        assert all(not torch.equal(one[name], other[name]) for one, other in zip(plain[:-1], smooth[:-1], strict=True))
    assert all(torch.equal(plain[-1][name], smooth[-1][name]) and torch.equal(exported[name], plain[-1][name]) for name in exported)
    # Over half an epoch of two steps there is nothing to average.
    (plain, _), (smooth, _) = followed(False, 25), followed(True, 25)
    assert all(torch.equal(one[name], other[name]) for one, other in zip(plain, smooth, strict=True) for name in one)


def test_metrics_hold_each_term_before_and_after_weighting(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    distill(spec(), training(*KD, teacher=True), teacher, data, SEED, folder=made(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 1), (8, 2), (12, 3)]
    for line in lines:
        assert list(line["terms"]) == ["ce", "kd"]
        assert line["terms"]["ce"]["weighted"] == 0.5 * line["terms"]["ce"]["raw"] > 0
        assert line["terms"]["kd"]["weighted"] == 2.0 * line["terms"]["kd"]["raw"] > 0
        assert line["loss"] == pytest.approx(sum(term["weighted"] for term in line["terms"].values()))
        assert set(line) == {"step", "epoch", "lr", "loss", "terms"}  # no time of day, no duration


def test_progress_counts_to_the_last_step_and_tells_the_loss(data: PreparedData, tmp_path: Path) -> None:
    with progress.listening(heard := Heard()):
        distill(spec(), training(), None, data, SEED, folder=made(tmp_path / "run"))
    assert heard.told[-1][:3] == ("distill", 12, 12)
    assert heard.told[-1][3].startswith("epoch 3/3, loss ")


# ---- what must not go wrong unseen


def test_a_term_that_becomes_no_number_is_named_with_its_step_and_the_last_good_state_is_kept(data: PreparedData, tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    distill_world._calls = 0
    how = training({"ce": 1.0}, {"distill_world:overflowing": 0.1, "good_calls": 5}, checkpoint_seconds=0.0)
    with pytest.raises(TrainingError, match=r"the loss term `distill_world:overflowing` became inf in step 6 \(epoch 2 of 3\)"):
        distill(spec(), how, None, data, SEED, folder=folder)
    newest = torch.load(io.BytesIO((folder / "checkpoint.bin").read_bytes()[32:]), weights_only=True)
    assert newest["step"] == 5
    assert all(torch.isfinite(value).all() for value in newest["model"].values())
    assert not (folder / "model.safetensors").exists()


def test_the_first_bad_step_is_named_even_when_it_is_looked_at_later(data: PreparedData, tmp_path: Path) -> None:
    distill_world._calls = 0
    how = training({"distill_world:overflowing": 0.1, "good_calls": 1}, {"ce": 1.0})
    with pytest.raises(TrainingError, match=r"`distill_world:overflowing` became inf in step 2 \(epoch 1 of 3\)"):
        distill(spec(), how, None, data, SEED, folder=made(tmp_path / "run"))


def test_a_learning_rate_that_explodes_ends_the_run_with_a_sentence(data: PreparedData, tmp_path: Path) -> None:
    how = training(optimizer={"lr": 1e30}, schedule="constant")
    with pytest.raises(TrainingError, match=r"`ce` became (nan|inf) in step|are not finite after step"):
        distill(spec(), how, None, data, SEED, folder=made(tmp_path / "run"))


def test_class_counts_of_student_teacher_and_data_must_agree(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    wide = dataclasses.replace(spec(), arguments={"classes": 5})
    with pytest.raises(TrainingError, match=r"`tiny` gives 5 classes, the data has 3 \(dark, left, right\)"):
        distill(wide, training(*KD, teacher=True), teacher, data, SEED, folder=made(tmp_path / "student"))
    member = dataclasses.replace(teacher.members[0], arguments={"classes": 5}, weights=None)
    with pytest.raises(TrainingError, match=r"teacher `tiny` gives 5 classes, the data \(and the student\) has 3 \(dark, left, right\)"):
        distill(spec(), training(*KD, teacher=True), TeacherFiles((member,), (1.0,)), data, SEED, folder=made(tmp_path / "teacher5"))
    with pytest.raises(TrainingError, match=r"other classes than the data's 3 \(dark, left, right\): for 2 \(a, b\)"):
        distill(spec(classes=("a", "b")), training(), None, data, SEED, folder=made(tmp_path / "names"))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"distill_world:per_example": 1.0}, r"`distill_world:per_example` returned \[1[23]\]: a loss returns one number"),
        ({"distill_world:of_wrong_shape": 1.0}, r"`distill_world:of_wrong_shape` failed on student_logits \[1[23], 3\], labels \[1[23]\]: "),
    ],
)
def test_a_users_loss_that_fails_is_named(data: PreparedData, tmp_path: Path, losses: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        distill(spec(), training(losses), None, data, SEED, folder=made(tmp_path / "run"))


def test_a_model_that_cannot_be_trained_is_refused(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="`frozen` has no parameter that can be trained"):
        distill(spec("frozen"), training(), None, data, SEED, folder=made(tmp_path / "frozen"))
    onnx = dataclasses.replace(spec(), factory=None, onnx=tmp_path / "model.onnx")
    with pytest.raises(TrainingError, match="is an ONNX file, which cannot be trained"):
        distill(onnx, training(), None, data, SEED, folder=made(tmp_path / "onnx"))


def test_an_error_in_the_data_ends_the_run_and_its_thread(data: PreparedData, tmp_path: Path) -> None:
    import threading

    from kdedge.errors import RecipeError

    with pytest.raises(RecipeError, match="augmentation"):
        distill(spec(), training(augment=("blur",)), None, data, SEED, folder=made(tmp_path / "run"))
    assert not [thread for thread in threading.enumerate() if thread.name == "kdedge-batches"]
