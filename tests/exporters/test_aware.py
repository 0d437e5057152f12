"""Quantization-aware distillation brings a lowered graph closer to the float one, goes on where it was killed, and hands its ranges over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx_text import graph
from small_graphs import calibrated, residual
from torch import Tensor

from kdedge.artifact import CalibratedRanges, FloatGraph, ImageEncoder, ImportPath, ModelFiles, PreparedData, SplitSource, TeacherFiles, TensorSpec
from kdedge.data.held_out import PartOfExamples
from kdedge.errors import Diverged, ExportError
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT
from kdedge.exporters.dialects.qnn_htp import DIALECT as QNN
from kdedge.exporters.model_file import save_model
from kdedge.exporters.quantize import aware_training
from kdedge.exporters.quantize.aware import aware, held_and_rest, learn
from kdedge.exporters.quantize.aware_judge import VIEWS, Judge
from kdedge.exporters.quantize.aware_training import Course, Feeds, loss_between, train
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.fake_quantize import FakeQuantized
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import read_table, write_table
from kdedge.exporters.quantize.tensors import read_tensors, write_tensors
from kdedge.exporters.quantize.torch_graph import TorchGraph
from kdedge.exporters.quantize.wiring import load
from kdedge.progress import Silent, listening
from kdedge.recipe import AwareSection, QuantizeSection

SIZE = 16
ENCODER = ImageEncoder(size=(SIZE, SIZE))


def pictures(count: int, seed: int) -> Any:
    """Random images, some dark and some bright, so that the outputs differ from one to the next."""
    random = np.random.default_rng(seed)
    shades = random.random((count, 3, 1, 1), dtype=np.float32)
    return np.clip(shades + 0.3 * (random.random((count, 3, SIZE, SIZE), dtype=np.float32) - 0.5), 0, 1)


def feeds(steps: int, batch: int = 16) -> Any:
    """Random images, a pure function of the step."""

    def batches(first: int) -> Iterator[Feeds]:
        for step in range(first, steps):
            yield {"image": pictures(batch, 100 + step)}

    return batches


def section(**values: Any) -> AwareSection:
    return AwareSection.model_validate({"steps": 60, "lr": 3e-3, "batch_size": 16, **values})


def held(count: int = 64) -> list[dict[str, Any]]:
    return [{"image": pictures(count, 7)}]


def test_a_little_training_brings_the_outputs_closer_and_is_handed_over(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    found = learn(path, calibrated(path, pictures(64, 1)), DIALECT, feeds(60), held(), section(), folder=tmp_path)
    step = found.step
    assert (step.name, step.kept, step.measure) == ("aware", True, "kl")
    assert step.after < 0.8 * step.before
    assert f"judged on 64 images that were not learned from, as they are and with {VIEWS - 1} patches of a neighbour each: difference -" in step.note
    assert "n = 32; squared error " in step.note
    # What was measured is what anybody gets who lowers what is handed over.
    write_table(found.table, tmp_path / "r.json")
    write_tensors(found.tensors, tmp_path / "w.safetensors")
    lower(path, tmp_path / "r.json", DIALECT, tmp_path / "out.onnx", tmp_path / "w.safetensors")
    kl = Judge(load(path), held(), ("logits",)).gaps(tmp_path / "out.onnx").kl
    assert kl is not None
    assert float(kl.mean()) == pytest.approx(step.after, rel=1e-9)
    ranges = found.table.activation_ranges()
    assert ranges["stem_relu"].affine != calibrated(path, pictures(64, 1)).activation_ranges()["stem_relu"].affine


def test_frozen_ranges_stay_as_they_were_calibrated(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    table = calibrated(path, pictures(64, 1))
    found = learn(path, table, DIALECT, feeds(3), held(), section(steps=3, ranges="frozen"), folder=tmp_path)
    assert found.table == table
    assert found.tensors


class KilledError(Exception):
    """In place of a kill."""


def trained(folder: Path, path: Path, answers: Any) -> dict[str, Tensor]:
    student = FakeQuantized(path, calibrated(path, pictures(64, 1)), DIALECT)
    folder.mkdir(exist_ok=True)
    train(student, feeds(8, batch=4), answers, Course(8, 1e-2, distributions=("logits",)), folder)
    return {name: value.clone() for name, value in student.state_dict().items()}


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware_training, "_SAVE_SECONDS", 0.0)
    path = residual(tmp_path / "float.onnx")
    reference = TorchGraph(load(path))
    whole = trained(tmp_path / "whole", path, reference)
    asked = 0

    def killed(inputs: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 6:
            raise KilledError
        return reference(inputs)

    with pytest.raises(KilledError):
        trained(tmp_path / "cut", path, killed)
    assert (tmp_path / "cut" / "checkpoint.bin").is_file()
    seen = []

    def counting(inputs: Any) -> Any:
        seen.append(inputs)
        return reference(inputs)

    resumed = trained(tmp_path / "cut", path, counting)
    assert len(seen) == 3
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    with pytest.raises(Diverged, match=r"the loss is nan in step 1: lower quantize\.aware\.lr"):
        trained(tmp_path / "run", path, lambda inputs: {"logits": torch.full((4, 10), torch.nan)})


class Heard(Silent):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def test_operators_that_cannot_be_trained_are_named_and_the_graph_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    model = graph("(float[b, 3, 3] image) => (float[b, 3, 3] y) { a = MatMul(image, w) d = Det(a) s = Reshape(d, shape) y = Mul(a, s) }",
                  w=np.eye(3, dtype=np.float32), shape=np.array([-1, 1, 1]))  # fmt: skip
    save_model(model, path)
    inputs = np.random.default_rng(0).random((32, 3, 3), dtype=np.float32)
    table = observe(path, [{"image": inputs}], QuantizeSection())
    heard = Heard()
    with listening(heard):
        found = learn(path, table, DIALECT, feeds(1), [{"image": inputs}], section(steps=1), folder=tmp_path)
    assert heard.said == [f"{DIALECT.name}: no quantization-aware distillation: operators that cannot be trained here: Det"]
    assert not found.step.kept
    assert found.step.before == found.step.after
    assert "cannot be trained here: Det" in found.step.note


def test_a_graph_with_nothing_to_train_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    save_model(graph("(float[b, 3] image) => (float[b, 3] y) { y = Relu(image) }"), path)
    inputs = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    table = observe(path, [{"image": inputs}], QuantizeSection())
    found = learn(path, table, QNN, feeds(1), [{"image": inputs}], section(steps=1, ranges="frozen"), folder=tmp_path)
    assert (found.step.kept, found.table) == (False, table)
    assert found.step.before > 0
    assert "nothing of this graph can be trained" in found.step.note


def test_a_graph_without_an_error_is_not_trained(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    table = replace(calibrated(path, pictures(64, 1)), keep_float=tuple(str(node.name) for node in load(path).graph))

    def nothing(inputs: Any) -> Any:
        raise AssertionError("it is trained")

    found = learn(path, table, DIALECT, feeds(3), held(), section(steps=3), answers=nothing, folder=tmp_path)
    assert (found.step.kept, found.step.before) == (False, 0.0)
    assert "it gives what the float graph gives" in found.step.note


def test_fewer_batches_than_steps_are_an_error_that_counts_them(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    student = FakeQuantized(path, calibrated(path, pictures(64, 1)), DIALECT)
    with pytest.raises(ExportError, match="the batches end after step 2 of 3"):
        train(student, feeds(2, batch=4), TorchGraph(load(path)), Course(3))


def test_a_checkpoint_of_a_run_that_began_with_other_weights_is_not_taken_up(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    table, reference = calibrated(path, pictures(64, 1)), TorchGraph(load(path))
    asked = []

    def counting(inputs: Any) -> Any:
        asked.append(inputs)
        return reference(inputs)

    for factor in (1.0, 1.0, 1.01):
        weights = {"stem.bias": (reference.constants["stem.bias"] * factor).numpy()}
        train(FakeQuantized(path, table, DIALECT, weights), feeds(2, batch=4), counting, Course(2), tmp_path)
    # The first run, nothing of the second, which was finished, and the third.
    assert len(asked) == 4


def test_the_loss_is_kl_for_distributions_and_relative_error_for_the_rest() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    wanted = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float32)
    # KL((3/4, 1/4) || (1/2, 1/2)) = ln 2 - H(3/4, 1/4).
    kl = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    boxes, boxes_wanted = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    both = loss_between({"a": logits, "b": boxes}, {"a": wanted, "b": boxes_wanted}, ("a",))
    assert float(both) == pytest.approx(kl + 0.25, rel=1e-5)
    with pytest.raises(ExportError, match="nothing to learn"):
        loss_between({"a": logits}, {"b": boxes}, ())
    with pytest.raises(ExportError, match=r"`a` is \[1, 2\], what it should learn is \[2\]"):
        loss_between({"a": logits}, {"a": boxes}, ())


def test_who_judges_was_learned_from_by_nobody() -> None:
    calibration = tuple(range(0, 5000, 10))
    measured, learned = held_and_rest(5000, calibration)
    assert len(measured) == 1024
    assert not set(measured.tolist()) & set(calibration)
    assert sorted([*measured.tolist(), *learned.tolist()]) == list(range(5000))
    assert held_and_rest(5000, calibration)[0].tolist() == measured.tolist()
    # Neighbours make a pair: of a split that is sorted by class they are of one class no more often than any two.
    assert np.mean(np.diff(measured // 500) == 0) < 0.15


def test_what_is_measured_on_is_never_learned_from() -> None:
    measured, learned = held_and_rest(10, (3, 1, 7))
    assert measured.tolist() == [3, 1, 7]
    assert learned.tolist() == [0, 2, 4, 5, 6, 8, 9]
    measured, learned = held_and_rest(4, (0, 1, 2, 3))
    assert (measured.tolist(), learned.tolist()) == ([0, 1], [2, 3])


# ---- as a stage ------------------------------------------------------------------------------------------------------------


class RawImages:
    """Random uint8 images."""

    labels = np.zeros(320, np.int64)
    ids: Sequence[str] = tuple(map(str, range(320)))
    sizes: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return 320

    def raw(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.asarray(np.rint(pictures(320, 0).transpose(0, 2, 3, 1) * 255), np.uint8)[indices]


def open_raw_images() -> RawImages:
    return RawImages()


def open_one_image() -> PartOfExamples:
    return PartOfExamples(RawImages(), np.zeros(1, np.int64))


def stage_inputs(tmp_path: Path, **values: Any) -> tuple[FloatGraph, CalibratedRanges, ModelFiles, PreparedData, QuantizeSection]:
    path = residual(tmp_path / "float.onnx")
    table = calibrated(path, pictures(64, 1))
    write_table(table, tmp_path / "ranges.json")
    classes = tuple("0123456789")
    outputs = (TensorSpec("logits", "float32", (1, 10)),)
    model = FloatGraph(path, table.model_sha256, (), outputs, ENCODER, classes, opset=18, parameters=0, largest_difference=0.0)
    split = SplitSource(ImportPath("test_aware:open_raw_images"), {}, 320, "fingerprint")
    data = PreparedData(ImportPath("kdedge.tasks.image_classification:TASK"), {"train": split}, classes, tuple(range(40, 104)), ENCODER)
    image = TensorSpec("image", "float32", (1, 3, SIZE, SIZE))
    student = ModelFiles("net", None, {}, None, path, (image,), ("logits",), ENCODER, classes)
    ranges = CalibratedRanges(tmp_path / "ranges.json", "minmax", 64, table.model_sha256)
    return model, ranges, student, data, QuantizeSection(aware=section(**values))


@pytest.mark.parametrize("learn_from", ["student", "teacher"])
def test_the_stage_hands_over_weights_and_ranges_for_its_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learn_from: str) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, ranges, student, data, settings = stage_inputs(tmp_path, steps=None, epochs=12.0, lr=5e-3, learn_from=learn_from)
    teacher = TeacherFiles((student,), (1.0,))
    place = ImportPath("kdedge.exporters.dialects.onnxruntime_x86:DIALECT")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    found = aware(model, ranges, student, teacher, data, settings, place, 3, augment=("flip",), folder=folders[0])
    assert found.steps[-1].kept
    assert found.steps[-1].note.startswith("judged on 64 images")
    assert found.dialect == "onnxruntime-x86"
    assert found.weights is not None
    assert {"stem.weight", "stem.bias"} <= set(read_tensors(found.weights))
    assert read_table(found.table).model_sha256 == ranges.model_sha256
    assert sorted(path.name for path in folders[0].iterdir()) == ["ranges.json", "weights.safetensors"]
    again = aware(model, ranges, student, teacher, data, settings, place, 3, augment=("flip",), folder=folders[1])
    assert again.weights is not None
    assert again.weights.read_bytes() == found.weights.read_bytes()
    assert again.table.read_bytes() == found.table.read_bytes()


def test_what_does_not_help_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, ranges, student, data, settings = stage_inputs(tmp_path, steps=3, lr=5.0)
    (tmp_path / "stage").mkdir()
    place = ImportPath("kdedge.exporters.dialects.onnxruntime_x86:DIALECT")
    found = aware(model, ranges, student, None, data, settings, place, 0, folder=tmp_path / "stage")
    assert not found.steps[-1].kept
    assert found.steps[-1].after > found.steps[-1].before
    assert replace(found, steps=()) == ranges
    assert not list((tmp_path / "stage").iterdir())


def test_a_teacher_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, ranges, student, data, settings = stage_inputs(tmp_path, learn_from="teacher")
    place = ImportPath("kdedge.exporters.dialects.onnxruntime_x86:DIALECT")
    with pytest.raises(ExportError, match="has no teacher: write `student`"):
        aware(model, ranges, student, None, data, settings, place, 0, folder=tmp_path)


def test_one_example_to_learn_from_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, ranges, student, data, settings = stage_inputs(tmp_path)
    split = SplitSource(ImportPath("test_aware:open_one_image"), {}, 1, "fingerprint")
    data = replace(data, splits={"train": split}, calibration=(0,))
    place = ImportPath("kdedge.exporters.dialects.onnxruntime_x86:DIALECT")
    with pytest.raises(ExportError, match="learns from the others: give more than one"):
        aware(model, ranges, student, None, data, settings, place, 0, folder=tmp_path)


def test_a_graph_that_others_made_is_trained_by_its_own_output(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    model = onnx.load(path)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, path)
    found = learn(path, calibrated(path, pictures(64, 1)), DIALECT, feeds(60), held(), section(), distributions=(), folder=tmp_path)
    assert (found.step.kept, found.step.measure) == (True, "relative-error")
