"""What the strategies do in a training run: which terms count when, who is trained with the student, and what is left of them."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_world import ENCODER, StopAfter, StoppedError, image_data, made, outcome, spec, training
from safetensors.torch import load_file
from torch import Tensor

from kdedge import progress
from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.distill import trainer
from kdedge.distill.batches import Batch, Batches, Plan, augmented
from kdedge.distill.checkpoint import load_checkpoint
from kdedge.distill.ensemble import Teacher
from kdedge.distill.spec import Shown, TeacherSpec, TrainingSpec
from kdedge.distill.step import Placed, Scene, Step
from kdedge.distill.teacher import obtain
from kdedge.distill.terms import terms_of
from kdedge.distill.trainer import distill
from kdedge.errors import TrainingError
from kdedge.models.load import build
from kdedge.recipe import DistillSection

SEED = 5
CE, KD = {"ce": 0.5}, {"kd": 1.0, "temperature": 2.0}
MUTUAL = {"mutual": 1.0}
BYOT = {"byot": 1.0, "layers": ["conv", "norm"]}
STUDENT_KEYS = set(build(spec()).state_dict())


@pytest.fixture
def teacher(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    return obtain((TeacherSpec(spec(width=8), training(epochs=1)),), data, SEED, folder=made(tmp_path / "teacher"))


def terms(folder: Path) -> list[set[str]]:
    """The terms that counted, an epoch each."""
    return [set(json.loads(line)["terms"]) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def together(*losses: dict[str, Any], peers: int = 2, **section: Any) -> TrainingSpec:
    """A training beside peers."""
    how = training(**section)
    own = DistillSection(losses=losses)
    return dataclasses.replace(how, terms=terms_of(own, True), peers=tuple(spec(width=3 + number) for number in range(peers)))


def stopped(step: int, how: TrainingSpec, teacher: TeacherFiles | None, data: PreparedData, folder: Path) -> dict[str, Any]:
    """The state after `step` steps of a run that was stopped there."""
    with progress.listening(StopAfter(step + 1)), pytest.raises(StoppedError):
        distill(spec(), how, teacher, data, SEED, folder=folder)
    newest = torch.load(io.BytesIO((folder / "checkpoint.bin").read_bytes()[32:]), weights_only=True)
    assert newest["step"] == step
    return dict(newest)


# ---- when terms count


def test_labels_first_then_the_teacher_who_is_not_asked_before(
    data: PreparedData, teacher: TeacherFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    class Spied(Teacher):
        def answers(self, inputs: Placed, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
            asked.append(tuple(wanted))
            return super().answers(inputs, batch, wanted)

    monkeypatch.setattr(trainer, "Teacher", Spied)
    distill(spec(), training(CE, {**KD, "start": 0.5}, teacher=True, epochs=4), teacher, data, SEED, folder=made(tmp_path / "run"))
    assert terms(tmp_path / "run") == [{"ce"}, {"ce"}, {"ce", "kd"}, {"ce", "kd"}]
    # The dry run, and the eight steps of the second half.
    assert asked == [("logits",)] * 9


def test_the_teacher_stops_early(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    how = training(CE, {**KD, "stop": 0.75}, teacher=True, epochs=4)
    distill(spec(), how, teacher, data, SEED, folder=made(tmp_path / "run"))
    assert terms(tmp_path / "run") == [{"ce", "kd"}] * 3 + [{"ce"}]


def test_hints_first_then_soft_targets_from_the_same_weights_with_a_new_optimizer(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    hints, soft = training({"fitnet": 1.0, "layers": ["conv"]}, teacher=True), training(CE, KD, teacher=True)
    first = distill(spec(), hints, teacher, data, SEED, folder=made(tmp_path / "first"))
    assert terms(tmp_path / "first") == [{"fitnet"}] * 3
    state = load_file(str(first.weights))
    assert set(state) == STUDENT_KEYS, "an adapter is among the exported weights"
    # A rate so small that no weight moves: what comes out is what went in, and not a new student.
    still = dataclasses.replace(soft, section=soft.section.model_copy(update={"optimizer": soft.section.optimizer.model_copy(update={"lr": 1e-30})}))
    second = distill(dataclasses.replace(spec(), weights=first.weights), still, teacher, data, SEED, folder=made(tmp_path / "second"))
    assert terms(tmp_path / "second") == [{"ce", "kd"}] * 3
    after = load_file(str(second.weights))
    assert all(torch.allclose(after[name], state[name], rtol=0, atol=1e-20) for name in state if "running" not in name and "num_batches" not in name)
    assert not torch.equal(load_file(str(first.weights))["conv.weight"], build_fresh()["conv.weight"])


def build_fresh() -> dict[str, Tensor]:
    from kdedge.distill.seeding import derived, seed_everything

    with torch.random.fork_rng():
        seed_everything(derived(SEED, "weights"))
        return dict(build(spec()).state_dict())


# ---- a temperature of its own will


@pytest.mark.parametrize(("sign", "direction"), [(1.0, 1), (-1.0, -1)])
def test_a_learned_temperature_moves_to_where_the_loss_is_larger(data: PreparedData, tmp_path: Path, sign: float, direction: int) -> None:
    entry = {"distill_world:warm": 1.0, "sign": sign, "temperature": {"learned": {"warmup_epochs": 0}}}
    state = stopped(6, training(entry, checkpoint_seconds=0.0), None, data, made(tmp_path / "run"))
    assert direction * (float(state["learned"]["0.temperature.theta"]) - 1.0) > 1e-3


def test_a_learned_temperature_rests_at_first_and_is_not_exported(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    how = training({"kd": 1.0, "temperature": "learned"}, teacher=True, checkpoint_seconds=0.0)
    # The strength of the reversed gradient grows from 0: the first step changes nothing.
    assert float(stopped(1, how, teacher, data, made(tmp_path / "one"))["learned"]["0.temperature.theta"]) == 1.0
    assert float(stopped(6, how, teacher, data, made(tmp_path / "six"))["learned"]["0.temperature.theta"]) != 1.0
    files = distill(spec(), how, teacher, data, SEED, folder=made(tmp_path / "run"))
    assert set(load_file(str(files.weights))) == STUDENT_KEYS


# ---- peers


def test_peers_are_trained_with_the_student_and_not_exported(data: PreparedData, tmp_path: Path) -> None:
    how = together(CE, MUTUAL, checkpoint_seconds=0.0)
    one, six = stopped(1, how, None, data, made(tmp_path / "one")), stopped(6, how, None, data, made(tmp_path / "six"))
    assert set(one) > {"peer0", "peer1"}
    for peer in ("peer0", "peer1"):
        assert not torch.equal(one[peer]["conv.weight"], six[peer]["conv.weight"])
    files = distill(spec(), how, None, data, SEED, folder=made(tmp_path / "run"))
    assert set(load_file(str(files.weights))) == STUDENT_KEYS
    assert terms(tmp_path / "run") == [{"ce", "mutual"}] * 3


def test_peers_of_one_kind_begin_from_weights_of_their_own(data: PreparedData, tmp_path: Path) -> None:
    how = dataclasses.replace(together(CE, MUTUAL, checkpoint_seconds=0.0), peers=(spec(), spec()))
    state = stopped(1, how, None, data, made(tmp_path / "run"))
    weights = [state[name]["conv.weight"] for name in ("model", "peer0", "peer1")]
    assert not any(torch.allclose(weights[a], weights[b], atol=1e-2) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_what_a_student_learns_depends_on_its_peers(data: PreparedData, tmp_path: Path) -> None:
    alone = distill(spec(), training(CE), None, data, SEED, folder=made(tmp_path / "alone"))
    beside = distill(spec(), together(CE, MUTUAL, peers=1), None, data, SEED, folder=made(tmp_path / "beside"))
    assert not torch.equal(load_file(str(alone.weights))["conv.weight"], load_file(str(beside.weights))["conv.weight"])


def test_a_peer_of_other_classes_or_with_shared_parameters_is_refused(data: PreparedData, tmp_path: Path) -> None:
    wide = dataclasses.replace(spec(), arguments={"classes": 5})
    with pytest.raises(TrainingError, match="`tiny` gives 5 classes, the data has 3"):
        distill(spec(), dataclasses.replace(together(CE, MUTUAL), peers=(wide,)), None, data, SEED, folder=made(tmp_path / "wide"))
    how = dataclasses.replace(together(CE, MUTUAL), peers=(spec("shared"), spec("shared")))
    with pytest.raises(TrainingError, match="the peer `shared` shares parameters with `shared`"):
        distill(spec(), how, None, data, SEED, folder=made(tmp_path / "shared"))


# ---- exits


def test_exits_are_trained_with_the_student_and_not_exported(data: PreparedData, tmp_path: Path) -> None:
    how = training(CE, BYOT, checkpoint_seconds=0.0)
    one, six = stopped(1, how, None, data, made(tmp_path / "one")), stopped(6, how, None, data, made(tmp_path / "six"))
    moved = [name for name in one["learned"] if not torch.equal(one["learned"][name], six["learned"][name])]
    assert any("classifiers.0.weight" in name for name in moved)
    files = distill(spec(), how, None, data, SEED, folder=made(tmp_path / "run"))
    assert set(load_file(str(files.weights))) == STUDENT_KEYS
    first, last = (json.loads(line)["terms"]["byot"]["raw"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[::2])
    assert last < first


def test_one_layer_makes_no_exit(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="`byot` needs at least two layers"):
        distill(spec(), training(CE, {"byot": 1.0, "layers": ["conv"]}), None, data, SEED, folder=made(tmp_path / "run"))


# ---- examples without labels, and mixtures


def test_unlabelled_examples_teach_the_same_whatever_their_labels_are(teacher: TeacherFiles, tmp_path: Path) -> None:
    data = image_data(tmp_path / "images")
    split = data.splits["train"]
    found = []
    for name, labels in (("as they are", open_examples(split).labels), ("zero", np.zeros(50, np.int64)), ("others", np.full(50, 2, np.int64))):
        path = made(tmp_path / name) / "labels.npy"
        np.save(path, labels)
        other = dataclasses.replace(split, arguments={**split.arguments, "labels": path})
        both = dataclasses.replace(data, splits={**data.splits, "unlabelled": other})
        folder = made(tmp_path / name / "run")
        distill(spec(), training(KD, teacher=True), teacher, both.learning("unlabelled"), SEED, folder=folder)
        found.append(outcome(folder))
    assert found[0] == found[1] == found[2]


def _batches(data: PreparedData, **shown: Any) -> Batches:
    return Batches(open_examples(data.splits["train"]), data.task.load(), (ENCODER,), Plan(16, seed=1, shown=Shown(seed=7, **shown)))


def test_a_mixture_is_of_two_views_whatever_the_batch(data: PreparedData) -> None:
    from kdedge.data.mix import partners, shares

    examples, task = open_examples(data.splits["train"]), data.task.load()
    all_samples = np.arange(50, dtype=np.int64)
    plain = augmented(examples, task, all_samples, 2, Shown(("crop1", "flip"), 7)).astype(np.float64)
    share = shares(7, 2, all_samples).reshape(-1, 1, 1, 1) / 65536
    expected = share * plain + (1 - share) * plain[partners(50, 7, 2)]
    found = augmented(examples, task, all_samples, 2, Shown(("crop1", "flip"), 7, mixup=True))
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5
    few = np.array([31, 4, 17], np.int64)
    assert np.array_equal(augmented(examples, task, few, 2, Shown(("crop1", "flip"), 7, mixup=True)), found[few])


def test_mixed_batches_are_the_same_wherever_a_run_starts_and_new_in_each_view(data: PreparedData) -> None:
    batches = _batches(data, mixup=True)
    whole = list(batches.from_step(0, 8))
    for start in (3, 5):
        for a, b in zip(batches.from_step(start, 8), whole[start:], strict=True):
            assert np.array_equal(a.inputs[0]["image"], b.inputs[0]["image"])
    first, second = (np.concatenate([batch.inputs[0]["image"][np.argsort(batch.samples)][:1] for batch in part]) for part in (whole[:4], whole[4:]))
    assert not np.array_equal(first, second)


def test_student_and_teacher_see_the_same_mixtures(data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = obtain((TeacherSpec(spec(width=8), training(epochs=1)),), data, SEED, folder=made(tmp_path / "teacher"))
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}

    class Spied(Teacher):
        def answers(self, inputs: Placed, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
            seen["teacher"].append(inputs[ENCODER]["image"].clone())
            return super().answers(inputs, batch, wanted)

    forward = Step.forward

    def spied(self: Step, scene: Scene, moment: Any) -> Any:
        seen["student"].append(scene.inputs[ENCODER]["image"].clone())
        return forward(self, scene, moment)

    monkeypatch.setattr(trainer, "Teacher", Spied)
    monkeypatch.setattr(Step, "forward", spied)
    mixed = dataclasses.replace(training(KD, teacher=True, epochs=1), mixup=True)
    distill(spec(), mixed, teacher, data, SEED, folder=made(tmp_path / "run"))
    assert len(seen["student"]) == 4
    # The teacher saw the dry run before.
    assert all(torch.equal(a, b) for a, b in zip(seen["student"], seen["teacher"][1:], strict=True))
    raw = open_examples(data.splits["train"]).raw(np.arange(50, dtype=np.int64)) / 255
    first = seen["student"][0][0].permute(1, 2, 0).numpy()
    assert min(np.abs(raw - first).max(axis=(1, 2, 3))) > 0.01, "an example went through unmixed"


# ---- resuming


@pytest.mark.parametrize("way", ["exits", "two peers", "mixtures"])
def test_a_stopped_run_goes_on_to_the_same_bytes_in_every_strategy(data: PreparedData, teacher: TeacherFiles, tmp_path: Path, way: str) -> None:
    how = {
        "exits": training(CE, BYOT, checkpoint_seconds=0.0, ema=0.9),
        "two peers": together(CE, MUTUAL, checkpoint_seconds=0.0, ema=0.9),
        "mixtures": dataclasses.replace(training(KD, teacher=True, checkpoint_seconds=0.0, views=2), mixup=True),
    }[way]
    taught = teacher if way == "mixtures" else None
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    distill(spec(), how, taught, data, SEED, folder=straight)
    for step in (3, 8):
        stopped(step, how, taught, data, broken)
    distill(spec(), how, taught, data, SEED, folder=broken)
    assert outcome(broken) == outcome(straight)
    assert load_checkpoint(broken, "") is None
