from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_graphs import Graph, calibrated, depthwise, images, lowered, residual, run

from kdedge.artifact import CalibratedRanges, FloatGraph, ImageEncoder, ImportPath, PreparedData, RecoveryStep, SplitSource
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.equivalence import run as run_graph
from kdedge.exporters.quantize import recover as module
from kdedge.exporters.quantize.bias_correction import Corrected
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.distance import split
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import read_table, with_observer, write_table
from kdedge.exporters.quantize.recover import Recovered, batches_of, recover, recover_graph
from kdedge.exporters.quantize.tensors import read_tensors, write_tensors
from kdedge.recipe import QuantizeSection

ALL = ("equalization", "bias_correction", "adaptive_rounding")


def recovered(path: Path, dialect: Dialect, steps: tuple[str, ...] = ALL, observer: str = "minmax", count: int = 160) -> Recovered:
    inputs = images(count)
    settings = QuantizeSection.model_validate({"observer": observer, "recover": steps})
    table = calibrated(path, inputs, observer="mse" if observer == "best" else observer)
    return recover_graph(path, table, batches_of({"image": inputs}), settings, dialect, path.parent)


def outputs(path: Path, dialect: Dialect, found: Recovered, inputs: Any) -> Any:
    ranges, out, weights = path.with_suffix(".ranges.json"), path.with_suffix(".out.onnx"), None
    write_table(found.table, ranges)
    if found.weights is not None:
        weights = path.with_suffix(".safetensors")
        write_tensors(found.weights, weights)
    lower(path, ranges, dialect, out, weights)
    return as_written(out, inputs)


def as_written(path: Path, inputs: Any) -> Any:
    """What the integers say: as recovery judges, and not as a CPU without VNNI runs them."""
    return run_graph(path.read_bytes(), [{"image": inputs}], as_written=True)[0]["logits"]


def error(found: Any, wanted: Any) -> float:
    """Squared error of logits but for what all classes have in common, over their squared size."""
    gap, size = (array - array.mean(axis=1, keepdims=True) for array in (found - wanted, wanted))
    return float(np.square(gap).sum() / np.square(size).sum())


@pytest.mark.parametrize("dialect", [ONNXRUNTIME, OPENVINO, TENSORRT], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("build", [residual, depthwise])
def test_what_is_handed_over_is_closer_on_examples_that_nobody_saw(tmp_path: Path, build: Any, dialect: Dialect) -> None:
    path = build(tmp_path / "g.onnx")
    found = recovered(path, dialect)
    others = images(100, seed=9)
    wanted = run(path, others)
    assert any(step.kept for step in found.steps)
    assert error(outputs(path, dialect, found, others), wanted) < error(
        as_written(lowered(path, dialect, calibrated(path, images(160)))[0], others), wanted
    )


def test_each_step_is_measured_from_where_the_last_kept_one_ended(tmp_path: Path) -> None:
    found = recovered(residual(tmp_path / "g.onnx"), OPENVINO)
    assert [step.name for step in found.steps] == ["equalization", "adaptive_rounding", "bias_correction"]
    for step, following in zip(found.steps, found.steps[1:], strict=False):
        assert following.before == (step.after if step.kept else step.before)
        assert step.measure == "relative-error"
        assert "KL" in step.note
        assert step.after < step.before or not step.kept


def test_a_harmful_step_is_dropped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = residual(tmp_path / "g.onnx")
    monkeypatch.setattr(module, "correct_biases", lambda *_: Corrected({"stem.bias": np.full(16, 3.0, np.float32)}, "all wrong"))
    found = recovered(path, OPENVINO, ("bias_correction",))
    (step,) = found.steps
    assert (step.name, step.kept) == ("bias_correction", False)
    assert step.after > 10 * step.before
    assert "all wrong" in step.note
    assert found.weights is None
    assert found.table == calibrated(path, images(160))


def test_a_step_that_finds_nothing_to_do_says_so(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    path = graph.write(tmp_path / "g.onnx", graph.conv("only", "image", 4, bias=False))
    found = recovered(path, OPENVINO, ("equalization", "bias_correction"))
    assert [(step.kept, step.before == step.after) for step in found.steps] == [(False, True), (False, True)]
    assert "0 tensors" in found.steps[0].note
    assert "1 layers have no bias of their own (only)" in found.steps[1].note


def test_a_handful_of_examples_changes_nothing(tmp_path: Path) -> None:
    found = recovered(residual(tmp_path / "g.onnx"), OPENVINO, count=20)
    assert found.weights is None
    assert all("10 examples are too few to tell" in step.note for step in found.steps)


@pytest.mark.parametrize("start", ["minmax", "mse"])
def test_best_takes_the_observer_whose_integers_come_closest(tmp_path: Path, start: str) -> None:
    path, inputs = residual(tmp_path / "g.onnx"), images(160)
    table = calibrated(path, inputs, observer=start)
    settings = QuantizeSection.model_validate({"observer": "best"})
    found = recover_graph(path, table, batches_of({"image": inputs}), settings, OPENVINO, tmp_path)
    (step,) = found.steps
    assert step.name == "observer"
    assert (f"activations by {found.table.observer}," in step.note) == step.kept
    wanted = run(path, inputs)
    plain = {
        name: error(as_written(lowered(path, OPENVINO, with_observer(table, name))[0], inputs), wanted)
        for name in ("moving-average", "entropy", "mse")
    }
    assert error(outputs(path, OPENVINO, found, inputs), wanted) <= 1.05 * min(plain.values())


@pytest.mark.parametrize("count", [32, 160])
def test_an_observer_that_the_judging_examples_find_worse_is_dropped(tmp_path: Path, count: int) -> None:
    path, inputs = residual(tmp_path / "g.onnx"), images(count)
    _, judging = split([{"image": np.arange(count)}])
    odd = judging[0]["image"][:2]
    inputs[odd] *= 20  # nobody who learns sees why ranges have to be wide
    table = calibrated(path, inputs)
    settings = QuantizeSection.model_validate({"observer": "best"})
    found = recover_graph(path, table, batches_of({"image": inputs}), settings, OPENVINO, tmp_path)
    (step,) = found.steps
    assert step.after > step.before
    assert not step.kept
    assert found.table == table
    assert ("16 examples are too few to tell" in step.note) == (count == 32)


def test_equalization_leaves_what_is_infinite_to_stay_float(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    first = graph.op("Relu", "relu", graph.conv("first", "image", 8))
    scores = graph.head(graph.op("Relu", "relu2", graph.conv("second", first, 8)))
    allowed = graph.op("Greater", "allowed", scores, graph.constant("limit", 0.0))
    masked = graph.op("Where", "masked", allowed, scores, graph.constant("never", -np.inf))
    both = graph.op("Concat", "both", masked, scores, axis=1)
    path = graph.write(tmp_path / "g.onnx", graph.op("Softmax", "answer", both, axis=-1))
    settings = QuantizeSection.model_validate({"observer": "minmax", "recover": ("equalization",)})
    batches = batches_of({"image": images(48)})
    table = observe(path, batches, settings, tolerant=True)
    assert set(table.keep_float) >= {"masked", "both"}
    (step,) = recover_graph(path, table, batches, settings, OPENVINO, tmp_path).steps
    assert step.note.startswith("KL")
    assert "tensors or groups of tensors equalized" in step.note


def test_the_same_examples_give_the_same_result_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    first, second = recovered(path, ONNXRUNTIME), recovered(path, ONNXRUNTIME)
    assert first.steps == second.steps
    assert first.table == second.table
    assert first.weights is not None
    assert second.weights is not None
    assert {name: array.tobytes() for name, array in first.weights.items()} == {name: array.tobytes() for name, array in second.weights.items()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.onnx"]


# ---- the stage -------------------------------------------------------------------------------------------------------------


class RawImages:
    """A hundred uint8 images of noise."""

    labels = np.zeros(100, np.int64)
    ids = tuple(str(number) for number in range(100))

    def __len__(self) -> int:
        return 100

    def raw(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.stack([np.random.default_rng(int(index)).integers(0, 256, (16, 16, 3)).astype(np.uint8) for index in indices])


def open_raw_images() -> RawImages:
    return RawImages()


def test_the_stage_writes_ranges_and_weights_for_one_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = residual(tmp_path / "g.onnx")
    split = SplitSource(ImportPath("test_recover:open_raw_images"), {}, 100, "fingerprint")
    encoder = ImageEncoder(size=(16, 16))
    data = PreparedData(ImportPath("unused:task"), {"train": split}, ("a", "b"), calibration=tuple(range(100)), encoder=encoder)
    model = FloatGraph(path, "hash", (), (), encoder, ("a", "b"), opset=18, parameters=0, largest_difference=0.0)
    table = calibrated(path)
    write_table(table, tmp_path / "table.json")
    ranges = CalibratedRanges(tmp_path / "table.json", "minmax", table.samples, table.model_sha256)
    folder = tmp_path / "stage"
    folder.mkdir()
    settings = QuantizeSection.model_validate({"observer": "minmax", "recover": ("adaptive_rounding",)})
    found = recover(model, ranges, data, settings, ImportPath("kdedge.exporters.dialects.openvino:DIALECT"), folder=folder)
    assert (found.dialect, found.observer, found.model_sha256) == ("openvino", "minmax", table.model_sha256)
    assert found.weights == folder / "weights.safetensors"
    assert set(read_tensors(found.weights)) >= {"stem.weight", "stem.bias"}
    assert read_table(found.table) == table
    (step,) = found.steps
    assert isinstance(step, RecoveryStep)
    assert step.kept
    assert sorted(entry.name for entry in folder.iterdir()) == ["ranges.json", "weights.safetensors"]
