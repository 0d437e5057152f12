from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from small_graphs import Graph, calibrated, images, option_a, residual, run

from kdedge.artifact import FloatGraph, ImageEncoder, ImportPath, PreparedData, SplitSource
from kdedge.errors import ExportError
from kdedge.exporters.quantize import probe
from kdedge.exporters.quantize.calibrate import calibrate, observe
from kdedge.exporters.quantize.keep_float import kept_float
from kdedge.exporters.quantize.ranges import RangeTable, read_table
from kdedge.exporters.quantize.wiring import load
from kdedge.recipe import QuantizeSection

SETTINGS = QuantizeSection(observer="mse")


def table_from(path: Path, inputs: npt.NDArray[Any], cuts: Sequence[int] = ()) -> RangeTable:
    return observe(path, [{"image": part} for part in np.split(inputs, cuts)], SETTINGS)


def test_what_is_observed_is_what_the_graph_computes(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    inputs = images(10)
    logits = run(path, inputs)
    rows = table_from(path, inputs).activation_ranges()
    assert rows["logits"].low == pytest.approx(logits.min(), rel=1e-5)
    assert rows["logits"].high == pytest.approx(logits.max(), rel=1e-5)
    assert rows["image"].low == float(inputs.min())
    assert rows["stem_relu"].affine[0] == 0.0


def test_the_table_does_not_depend_on_the_batches_not_even_on_a_ragged_last_one(tmp_path: Path) -> None:
    path = option_a(tmp_path / "a.onnx")
    inputs = images(41)
    whole, cut = table_from(path, inputs), table_from(path, inputs, [1, 5, 32])
    assert whole.samples == cut.samples == 41
    for one, other in zip(whole.activations, cut.activations, strict=True):
        assert one.name == other.name
        # Kernels may sum in another order for another batch size: the last bits, and with them a value at the edge of a bin, can move.
        assert one.high == pytest.approx(other.high, rel=1e-5)
        assert one.affine == pytest.approx(other.affine, rel=2e-2, abs=1e-5)


@pytest.mark.parametrize("limit", [1, 300_000])
def test_a_tight_memory_limit_gives_the_same_table_in_several_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = residual(tmp_path / "r.onnx")
    inputs = images(3)
    plain = table_from(path, inputs, [1, 2])
    monkeypatch.setattr(probe, "BYTES_AT_ONCE", limit)
    assert table_from(path, inputs) == plain


def test_a_graph_of_a_fixed_batch_is_calibrated_too(tmp_path: Path) -> None:
    model = onnx.load(residual(tmp_path / "r.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    inputs = images(6)
    fixed, dynamic = table_from(tmp_path / "fixed.onnx", inputs), table_from(tmp_path / "r.onnx", inputs)
    assert fixed.samples == 6
    assert fixed.activation_ranges()["logits"].high == pytest.approx(dynamic.activation_ranges()["logits"].high, rel=1e-5)


def test_patterns_of_keep_float_become_names_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    assert calibrated(path, keep_float=("b*", "stem")).keep_float == ("b1", "b1_relu", "b2", "b_down", "b_add", "b_relu", "stem")
    with pytest.raises(ExportError, match=r"no node is called `b_dwn`; did you mean `b_down`"):
        calibrated(path, keep_float=("b_dwn",))


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    graph.op("Exp", "huge", graph.op("Mul", "hundredfold", graph.conv("conv", "image", 4), graph.constant("factor", 1e4)))
    graph.op("Add", "sum", "huge", "conv")
    with pytest.raises(ExportError, match="`huge` is not finite"):
        calibrated(graph.write(tmp_path / "g.onnx", "sum"))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    graph = Graph(channels=1)
    graph.constant("weight", np.full((1, 1, 1, 1), np.nan))
    graph.op("Conv", "conv", "image", "weight")
    with pytest.raises(ExportError, match="`weight` is not finite"):
        calibrated(graph.write(tmp_path / "g.onnx", "conv"), images(2, channels=1) * 0)


def test_bad_calibration_input_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    with pytest.raises(ExportError, match="no calibration examples"):
        observe(path, [], SETTINGS)
    with pytest.raises(ExportError, match=r"takes \['image'\].*\['picture'\]"):
        observe(path, [{"picture": images(2)}], SETTINGS)
    with pytest.raises(ExportError, match="fails on a calibration example"):
        observe(path, [{"image": images(2, channels=5)}], SETTINGS)
    (tmp_path / "no.onnx").write_text("no model")
    with pytest.raises(ExportError, match=r"no\.onnx"):
        observe(tmp_path / "no.onnx", [], SETTINGS)


class RawImages:
    """Twenty uint8 images; image i is filled with i."""

    labels = np.zeros(20, np.int64)
    ids = tuple(str(number) for number in range(20))

    def __len__(self) -> int:
        return 20

    def raw(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 16, 16, 3)).copy()


def open_raw_images() -> RawImages:
    return RawImages()


def test_the_stage_sees_the_calibration_examples_of_the_training_split_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = residual(tmp_path / "r.onnx")
    split = SplitSource(ImportPath("test_calibrate:open_raw_images"), {}, 20, "fingerprint")
    encoder = ImageEncoder(size=(16, 16))
    data = PreparedData(ImportPath("unused:task"), {"train": split, "test": split}, ("a", "b"), calibration=(3, 17, 5), encoder=encoder)
    model = FloatGraph(path, "hash", (), (), encoder, ("a", "b"), opset=18, parameters=0, largest_difference=0.0)
    folder = tmp_path / "stage"
    folder.mkdir()
    found = calibrate(model, data, QuantizeSection(), folder=folder)
    assert (found.samples, found.observer, found.table) == (3, "mse", folder / "ranges.json")
    image = read_table(found.table).activation_ranges()["image"]
    assert (image.low, image.high) == (float(np.float32(3) / 255), float(np.float32(17) / 255))


def test_what_fills_a_fixed_batch_up_is_counted_in_no_histogram(tmp_path: Path) -> None:
    model = onnx.load(residual(tmp_path / "r.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    onnx.save(model, tmp_path / "fixed.onnx")
    inputs = images(18)
    inputs[-1] *= 5.0  # unlike the others: counted fifteen times, it would widen what is worth keeping
    fixed, dynamic = table_from(tmp_path / "fixed.onnx", inputs), table_from(tmp_path / "r.onnx", inputs)
    for one, other in zip(fixed.activations, dynamic.activations, strict=True):
        assert one.affine == pytest.approx(other.affine, rel=2e-2, abs=1e-5), one.name


def test_a_name_with_brackets_means_itself_and_only_a_star_stands_for_more(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    path = graph.write(tmp_path / "g.onnx", graph.conv("block[0]/conv?", graph.conv("block[1]/conv", "image", 4), 4))
    model = load(path)
    assert kept_float(model, ["block[0]/conv?"]) == ("block[0]/conv?",)
    assert kept_float(model, ["block[*]/conv"]) == ("block[1]/conv",)
    with pytest.raises(ExportError, match="did you mean"):
        kept_float(model, ["block?1?/conv"])
