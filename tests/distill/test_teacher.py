from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from distill_world import ENCODER, SIDE, StopAfter, StoppedError, made, spec, training
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from kdedge import progress
from kdedge.artifact import Encoder, ImageEncoder, ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.ensemble import Teacher
from kdedge.distill.loop import train
from kdedge.distill.spec import TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill
from kdedge.errors import Diverged, ModelError, TrainingError
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec, inputs_of

KD = ({"ce": 0.5}, {"kd": 2.0, "temperature": 2.0})


def member(folder: Path, seed: int, model: ModelSpec | None = None) -> ModelFiles:
    """A model that was not trained, with its weights in a file."""
    torch.manual_seed(seed)
    model = model or spec(width=8)
    return to_files(model, build(model), made(folder))


def module_of(teacher: Teacher) -> nn.Module:
    return teacher._members[0]._module  # type: ignore[attr-defined, no-any-return]


def images(count: int = 5) -> dict[Encoder, dict[str, Tensor]]:
    return {ENCODER: {"image": torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))}}


# ---- frozen


def test_the_teacher_has_the_same_bits_and_is_in_eval_after_a_student_learned_from_it(data: PreparedData, tmp_path: Path) -> None:
    teacher = Teacher(TeacherFiles((member(tmp_path / "teacher", 1),), (1.0,)), "logits")
    module = module_of(teacher)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    answer = teacher.outputs(images())["logits"]
    with accelerated("fp32") as accelerator:
        train(accelerator, spec(), training(*KD, teacher=True), data, 5, folder=made(tmp_path / "student"), what="distill", guide=teacher)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert before["norm.num_batches_tracked"] == 0
    assert not any(each.training for each in module.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters())
    assert torch.equal(teacher.outputs(images())["logits"], answer)
    assert not teacher.outputs(images())["logits"].requires_grad


def test_the_teacher_is_absent_from_optimizer_checkpoint_and_student(data: PreparedData, tmp_path: Path) -> None:
    files = TeacherFiles((member(tmp_path / "teacher", 1),), (1.0,))
    folder = made(tmp_path / "student")
    with progress.listening(StopAfter(9)), pytest.raises(StoppedError):
        distill(spec(), training(*KD, teacher=True, checkpoint_seconds=0.0), files, data, 5, folder=folder)
    state = torch.load(io.BytesIO((folder / "checkpoint.bin").read_bytes()[32:]), weights_only=True)
    own = build(spec())
    assert set(state) == {"run", "step", "model", "learned", "optimizer", "average", "smoothed", "log"}
    assert {name: value.shape for name, value in state["model"].items()} == {name: value.shape for name, value in own.state_dict().items()}
    assert len(state["optimizer"]["state"]) == len(list(own.parameters()))
    student = distill(spec(), training(*KD, teacher=True, checkpoint_seconds=0.0), files, data, 5, folder=folder)
    assert set(load_file(str(student.weights))) == set(own.state_dict())
    assert not isinstance(Teacher(files, "logits"), nn.Module)


def test_a_student_that_is_its_own_teacher_is_refused(data: PreparedData, tmp_path: Path) -> None:
    # A factory that gives the same module every time would let the student overwrite its teacher.
    shared = spec("shared")
    files = TeacherFiles((to_files(shared, build(shared), made(tmp_path / "teacher")),), (1.0,))
    with pytest.raises(TrainingError, match="shares parameters with its teacher `shared`: a factory must build a new model"):
        distill(spec("shared"), training(*KD, teacher=True), files, data, 5, folder=made(tmp_path / "student"))


# ---- ensembles


def test_an_ensemble_of_one_is_the_model_itself(tmp_path: Path) -> None:
    files = member(tmp_path / "a", 1)
    alone = Teacher(TeacherFiles((files,), (1.0,)), "logits").outputs(images())["logits"]
    model = build(dataclasses.replace(spec(width=8), weights=files.weights)).eval()
    with torch.no_grad():
        assert torch.equal(alone, model(images()[ENCODER]["image"])["logits"])
    twice = Teacher(TeacherFiles((files, files), (0.5, 0.5)), "logits").outputs(images())["logits"]
    assert torch.allclose(twice, alone.log_softmax(1), atol=1e-6)


def test_an_ensemble_averages_probabilities_by_weight_in_any_order(tmp_path: Path) -> None:
    a, b = member(tmp_path / "a", 1), member(tmp_path / "b", 2)
    one, two = (Teacher(TeacherFiles((files,), (1.0,)), "logits").outputs(images())["logits"].softmax(1) for files in (a, b))
    mean = Teacher(TeacherFiles((a, b), (0.75, 0.25)), "logits").outputs(images())["logits"]
    assert torch.allclose(mean.exp(), 0.75 * one + 0.25 * two, atol=1e-6)
    other = Teacher(TeacherFiles((b, a), (0.25, 0.75)), "logits").outputs(images())["logits"]
    assert torch.allclose(mean, other, atol=1e-6)


def test_members_see_the_images_that_their_own_encoder_makes(data: PreparedData, tmp_path: Path) -> None:
    small = ImageEncoder((4, 4), resize=4)
    coarse = dataclasses.replace(spec("flat"), encoder=small, inputs=inputs_of(small), arguments={"classes": 3, "side": 4})
    files = TeacherFiles((member(tmp_path / "a", 1), member(tmp_path / "b", 2, coarse)), (0.5, 0.5))
    distill(spec(), training(*KD, teacher=True, epochs=1), files, data, 5, folder=made(tmp_path / "student"))


# ---- obtaining it


def test_given_weights_are_taken_and_weights_of_an_ensemble_sum_to_one(data: PreparedData, tmp_path: Path) -> None:
    files = member(tmp_path / "given", 1)
    given = TeacherSpec(dataclasses.replace(spec(width=8), weights=files.weights), weight=3.0)
    teacher = obtain((given, dataclasses.replace(given, weight=1.0)), data, 5, folder=made(tmp_path / "teacher"))
    assert teacher.weights == (0.75, 0.25)
    for each in teacher.members:
        assert each.weights is not None
        assert each.weights.is_relative_to(tmp_path / "teacher")
        assert each.weights.read_bytes() == (tmp_path / "given" / "model.safetensors").read_bytes()


def test_weights_that_do_not_fit_are_listed(data: PreparedData, tmp_path: Path) -> None:
    files = member(tmp_path / "given", 1, spec(width=4))
    with pytest.raises(ModelError, match=r"conv\.weight"):
        obtain((TeacherSpec(dataclasses.replace(spec(width=8), weights=files.weights)),), data, 5, folder=made(tmp_path / "teacher"))


def test_a_teacher_of_other_classes_is_refused_with_both_counts(data: PreparedData, tmp_path: Path) -> None:
    wide = dataclasses.replace(spec(width=8), arguments={"classes": 5})
    files = member(tmp_path / "given", 1, wide)
    with pytest.raises(TrainingError, match="5 classes, the data has 3"):
        obtain((TeacherSpec(dataclasses.replace(wide, weights=files.weights)),), data, 5, folder=made(tmp_path / "teacher"))


def test_what_is_given_is_checked_before_anything_is_trained(data: PreparedData, tmp_path: Path) -> None:
    missing = TeacherSpec(dataclasses.replace(spec(width=8), weights=tmp_path / "nowhere.safetensors"))
    with progress.listening(StopAfter(0)), pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        obtain((TeacherSpec(spec(), training()), missing), data, 5, folder=made(tmp_path / "teacher"))


def test_a_loss_that_becomes_no_number_is_said_to_be_the_teachers(data: PreparedData, tmp_path: Path) -> None:
    own = training(optimizer={"lr": 1e30}, schedule="constant")
    whose = rf"in the training of the teacher `{spec().name}` \(teacher\.train\): "
    with pytest.raises(Diverged, match=rf"^{whose}.*(`ce` became|are not finite after step)"):
        obtain((TeacherSpec(spec(), own),), data, 0, folder=made(tmp_path / "teacher"))


def test_a_stopped_ensemble_goes_on_with_the_member_that_was_not_finished(data: PreparedData, tmp_path: Path) -> None:
    # The same model twice: each member has its own seed.
    members = (TeacherSpec(spec(), training(checkpoint_seconds=0.0)), TeacherSpec(spec(), training(checkpoint_seconds=0.0)))
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    obtain(members, data, 5, folder=straight)

    class StopInSecond(progress.Silent):
        finished = 0

        def advance(self, what: str, done: int, total: int, note: str) -> None:
            if self.finished and done == 6:
                raise StoppedError
            self.finished += done == total

    class Count(progress.Silent):
        steps = 0

        def advance(self, what: str, done: int, total: int, note: str) -> None:
            assert what == "teacher"
            self.steps += 1

    with progress.listening(StopInSecond()), pytest.raises(StoppedError):
        obtain(members, data, 5, folder=broken)
    with progress.listening(count := Count()):
        obtain(members, data, 5, folder=broken)
    assert count.steps == 7  # steps 6 to 12 of the second member
    files = {path.relative_to(straight): path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    assert files == {path.relative_to(broken): path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    assert files[Path("member0/model.safetensors")] != files[Path("member1/model.safetensors")]


# ---- ONNX files


def linear_onnx(path: Path, batch: int | str, classes: int = 3) -> np.ndarray:
    """`image` [batch, 3, 6, 6] -> `scores` [batch, classes] by one matrix, which is returned."""
    weight = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, classes)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return weight


def onnx_spec(path: Path) -> ModelSpec:
    return dataclasses.replace(spec(), name="onnx:teacher.onnx", factory=None, arguments={}, onnx=path, normalize=None, inputs=(), outputs=())


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_an_onnx_file_teaches_whatever_its_batch(data: PreparedData, tmp_path: Path, batch: int | str) -> None:
    weight = linear_onnx(tmp_path / "teacher.onnx", batch)
    files = obtain((TeacherSpec(onnx_spec(tmp_path / "teacher.onnx")),), data, 5, folder=made(tmp_path / "teacher"))
    found = Teacher(files, "logits").outputs(images(5))["logits"]
    expected = images(5)[ENCODER]["image"].flatten(1).numpy() @ weight
    assert found.numpy() == pytest.approx(expected, abs=1e-5)
    distill(spec(), training(*KD, teacher=True, epochs=1), files, data, 5, folder=made(tmp_path / "student"))


def test_an_onnx_file_and_a_module_make_an_ensemble(data: PreparedData, tmp_path: Path) -> None:
    linear_onnx(tmp_path / "teacher.onnx", "n")
    given = dataclasses.replace(spec(width=8), weights=member(tmp_path / "given", 1).weights)
    files = obtain((TeacherSpec(onnx_spec(tmp_path / "teacher.onnx")), TeacherSpec(given)), data, 5, folder=made(tmp_path / "teacher"))
    probabilities = Teacher(files, "logits").outputs(images())["logits"].exp().sum(1)
    assert probabilities.tolist() == pytest.approx([1.0] * 5, abs=1e-5)


def test_an_onnx_file_of_other_classes_is_refused_even_if_it_does_not_say_how_many(data: PreparedData, tmp_path: Path) -> None:
    linear_onnx(tmp_path / "teacher.onnx", "n", classes=4)
    model = onnx.load(tmp_path / "teacher.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    onnx.save(model, tmp_path / "teacher.onnx")
    with pytest.raises(TrainingError, match=r"gives 4 classes, the data .* has 3"):
        obtain((TeacherSpec(onnx_spec(tmp_path / "teacher.onnx")),), data, 5, folder=made(tmp_path / "teacher"))


def test_a_teacher_that_answers_nan_is_refused_before_training(data: PreparedData, tmp_path: Path) -> None:
    files = member(tmp_path / "teacher", 1)
    broken = Teacher(TeacherFiles((files,), (1.0,)), "logits")
    with torch.no_grad():
        module_of(broken).get_parameter("inner.linear.bias").fill_(math.nan)
    with pytest.raises(ModelError, match="not finite on the first training examples"):
        broken.check(data)


def test_the_student_comes_nearer_to_its_teacher_than_one_that_saw_labels_alone(data: PreparedData, tmp_path: Path) -> None:
    how: dict[str, Any] = {"epochs": 12, "augment": ()}
    teacher = obtain((TeacherSpec(spec(width=16, dropout=0.0), training(**how)),), data, 5, folder=made(tmp_path / "teacher"))
    guide = Teacher(teacher, "logits")

    def divergence(name: str, files: TeacherFiles | None, *losses: dict[str, Any]) -> float:
        student = distill(spec(dropout=0.0), training(*losses, teacher=True, **how), files, data, 5, folder=made(tmp_path / name))
        mine = Teacher(TeacherFiles((student,), (1.0,)), "logits").outputs(images(200))["logits"].log_softmax(1)
        theirs = guide.outputs(images(200))["logits"].log_softmax(1)
        return float((theirs.exp() * (theirs - mine)).sum(1).mean())

    assert divergence("kd", teacher, {"kd": 1.0, "temperature": 4.0}) < 0.7 * divergence("labels", None, {"ce": 1.0})
