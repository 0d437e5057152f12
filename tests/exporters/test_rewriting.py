"""A table may belong to a rewritten graph: its images are quantized by their own codes in every dialect, and whoever reads the table knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import Graph, calibrated, lowered, run

from kdedge.artifact import ImportPath
from kdedge.errors import ExportError
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.aware import learn
from kdedge.exporters.quantize.fake_quantize import FakeQuantized, write_lowered
from kdedge.exporters.quantize.layers import Lowered, stream
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import EXACT, RangeTable, read_table, with_observer, write_table
from kdedge.exporters.quantize.recover import batches_of, recover_graph
from kdedge.exporters.quantize.rewriting import bias_for_added_channel, load_for, with_normalization_folded
from kdedge.exporters.quantize.wiring import load
from kdedge.recipe import AwareSection, QuantizeSection

Array = npt.NDArray[Any]
IMAGE = "image/with_constant"


def photographed(path: Path, mean: tuple[float, ...] = (0.49, 0.48, 0.45), std: tuple[float, ...] = (0.25, 0.25, 0.25)) -> Path:
    """(image - mean) / std, a convolution whose weights are codes of 8 bits, so that nothing is lost there, and another one and a head behind it."""
    net = Graph(channels=3)
    held = [net.constant(name, np.reshape(values, (1, 3, 1, 1))) for name, values in (("mean", mean), ("std", std))]
    value = net.op("Div", "normalised", net.op("Sub", "centred", "image", held[0]), held[1])
    stem = net.op("Relu", "stem_relu", net.conv("stem", value, 16))
    last = net.op("Relu", "last_relu", net.conv("last", stem, 4))
    net.gemm("logits", net.op("Flatten", "flat", last, channels=4 * 16 * 16), 10)
    for tensor in net.constants:
        if tensor.name.endswith("weight"):
            held = numpy_helper.to_array(tensor)
            step = np.abs(held).reshape(len(held), -1).max(axis=1).reshape(-1, *(1,) * (held.ndim - 1)) / 127
            tensor.CopyFrom(numpy_helper.from_array((np.rint(held / step) * step).astype(np.float32), tensor.name))
    return net.write(path, "logits")


def photos(count: int, seed: int = 1) -> Array:
    """Codes by 255, with dark and bright places as photos have."""
    draw = np.random.default_rng(seed)
    codes = np.clip(np.rint(draw.normal(draw.uniform(60, 200, (count, 3, 1, 1)), 60, (count, 3, 16, 16))), 0, 255)
    return (codes / np.float32(255)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return photographed(tmp_path / "float.onnx")


def folded_table(path: Path, inputs: Array, observer: str = "mse") -> RangeTable:
    found = with_normalization_folded(path, calibrated(path, inputs, observer=observer), [{"image": inputs[:3]}])
    assert isinstance(found, RangeTable), found
    return found


def codes_of_the_image(path: Path) -> tuple[float, int]:
    """Scale and zero point of what the first convolution reads."""
    model = onnx.load(path)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = (node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.output[0] == f"{IMAGE}_dequantized")
    return float(held[node.input[1]]), int(held[node.input[2]])


@pytest.mark.parametrize("dialect", [ONNXRUNTIME, OPENVINO, TENSORRT], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("observer", ["minmax", "mse", "percentile"])
def test_the_image_is_quantized_by_its_own_codes_whatever_was_observed(path: Path, dialect: Dialect, observer: str) -> None:
    table = folded_table(path, 0.1 + 0.7 * photos(64), observer)  # neither black nor white was seen
    out, report = lowered(path, dialect, table)
    validate(out, dialect, report.kept)
    scale, zero = codes_of_the_image(out)
    assert scale == pytest.approx(1 / 255, rel=1e-4 if dialect.rest == "float16" else 1e-6)
    assert zero == (0 if dialect.activation.signed else 128)
    codes = np.arange(256) / np.float32(255) - np.float32(128 / 255)
    quantized = np.rint(codes / np.float32(scale)) + zero
    assert np.array_equal(quantized - dialect.activation.limits[0], np.arange(256))


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "qnn-htp-16"])  # whose opset is another
def test_every_dialect_lowers_a_folded_graph_to_what_its_validator_takes(path: Path, name: str) -> None:
    inputs = photos(64)
    table = folded_table(path, inputs)
    fixed = path.with_name("fixed.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(model), fixed)
    dialect: Dialect = ImportPath(DIALECTS[name]).load()
    ranges = path.with_name("ranges.json")
    write_table(table, ranges)
    out = path.with_name("out.onnx")
    report = lower(fixed, ranges, dialect, out)
    validate(out, dialect, set(report.kept))


def test_recovery_folds_where_that_is_closer_and_says_so(path: Path) -> None:
    inputs, others = photos(160), photos(100, seed=9)
    settings = QuantizeSection.model_validate({"recover": ["normalization"]})
    table = calibrated(path, inputs, keep_float=("last", "logits"))
    found = recover_graph(path, table, batches_of({"image": inputs}), settings, OPENVINO, path.parent)
    (step,) = found.steps
    assert (step.name, step.kept) == ("normalization", True)
    assert "the image itself is quantized" in step.note
    assert found.table.rewrites == ("fold_normalization",)
    wanted = run(path, others)
    gaps = [np.square(run(lowered(path, OPENVINO, table)[0], others) - wanted).mean() for table in (table, found.table)]
    assert gaps[1] < gaps[0] / 4  # the rounding of the image was all that there was


def test_all_of_recovery_works_on_the_folded_graph(path: Path) -> None:
    inputs = photos(160)
    settings = QuantizeSection.model_validate(
        {"observer": "best", "recover": ["normalization", "equalization", "adaptive_rounding", "bias_correction"]}
    )
    table = calibrated(path, inputs, keep_float=("last",))
    found = recover_graph(path, table, batches_of({"image": inputs}), settings, OPENVINO, path.parent)
    assert [step.name for step in found.steps] == ["normalization", "observer", "equalization", "adaptive_rounding", "bias_correction"]
    assert found.steps[0].kept
    row = found.table.activation_ranges()[IMAGE]
    assert row.affine == pytest.approx((-128 / 255, 127 / 255))  # whichever steps came after
    out = write_lowered(path, found.table, OPENVINO, found.weights or {}, path.parent)
    scale, zero = codes_of_the_image(out)
    assert scale == pytest.approx(1 / 255)
    assert zero == 128


@pytest.mark.parametrize(
    ("mean", "inputs", "reason"),
    [
        ((0.49, 0.48, 0.45), 4 * photos(40) - 1, "which images in [0, 1] never reach"),
        ((124.0, 120.0, 107.0), photos(40), "a small part of what images in [0, 255] reach"),
        ((-0.4, 0.5, 0.5), photos(40), "lies neither in [0, 1] nor in [0, 255]"),
    ],
)
def test_inputs_that_are_no_such_pictures_are_left_as_they_are(path: Path, mean: Any, inputs: Array, reason: str) -> None:
    photographed(path, mean, (60.0, 60.0, 60.0) if max(mean) > 1 else (0.25, 0.25, 0.25))
    table = calibrated(path, inputs)
    found = with_normalization_folded(path, table, [{"image": inputs[:3]}])
    assert isinstance(found, str)
    assert reason in found
    settings = QuantizeSection.model_validate({"recover": ["normalization"]})
    recovered = recover_graph(path, table, batches_of({"image": inputs}), settings, ONNXRUNTIME, path.parent)
    assert not recovered.steps[0].kept
    assert reason in recovered.steps[0].note
    assert recovered.table == table


def test_a_table_tells_its_rewrites_and_an_older_one_has_none(path: Path, tmp_path: Path) -> None:
    table, out = folded_table(path, photos(40)), tmp_path / "table.json"
    write_table(table, out)
    assert read_table(out) == table
    assert with_observer(table, "minmax").activation_ranges()[IMAGE].affine == table.activation_ranges()[IMAGE].affine
    out.write_text(out.read_text().replace('"rewrites": [\n  "fold_normalization"\n ],', ""))
    assert read_table(out).rewrites == ()


def test_a_table_for_another_graph_or_from_a_newer_kdedge_is_refused(path: Path) -> None:
    table = folded_table(path, photos(40))
    with pytest.raises(ExportError, match="the rewrite `unfold`, which is unknown here"):
        load_for(path, replace(table, rewrites=("unfold",)))
    bare = Graph(channels=3)
    bare.head(bare.conv("stem", "image", 16))
    other = bare.write(path.with_name("other.onnx"), "logits")
    with pytest.raises(ExportError, match=r"made from another graph than `other\.onnx`: `fold_normalization` finds nothing to do"):
        load_for(other, table)
    assert [node.op_type for node in load(path).graph][:2] == ["Sub", "Div"]  # the file itself is not changed
    assert with_normalization_folded(path, table, []) == "it is folded already"


def test_training_learns_every_range_but_that_of_the_image(path: Path) -> None:
    inputs = photos(40)
    table = folded_table(path, inputs)
    student = FakeQuantized(path, table, ONNXRUNTIME)
    assert EXACT in next(row.roles for row in table.structure.activations if row.name == IMAGE)
    assert all(IMAGE not in scale.rows for scale in student.scales)
    assert "stem/folded_weight" in student.names
    section = AwareSection(steps=3, batch_size=8, lr=0.05)
    found = learn(
        path,
        table,
        ONNXRUNTIME,
        lambda first: ({"image": photos(8, seed=100 + step)} for step in range(first, 3)),
        batches_of({"image": inputs}),
        section,
        folder=path.parent,
    )
    learned = found.table.activation_ranges()
    assert learned[IMAGE].affine == table.activation_ranges()[IMAGE].affine
    assert learned["stem_relu"].affine != table.activation_ranges()["stem_relu"].affine


def test_the_bias_makes_up_for_the_rounded_weights_of_the_added_channel(path: Path) -> None:
    """Inside a grey image the stem then computes what the float one does, to the rounding of its other weights, which are codes."""
    net = photographed(path, mean=(0.4, 0.6, 0.4))
    inputs = photos(40)
    table = folded_table(net, inputs, "minmax")
    model = load_for(net, table)
    plain = load(write_lowered(net, table, OPENVINO, {}, net.parent))
    bias = bias_for_added_channel(model, Lowered(plain, table))
    assert list(bias) == ["stem.bias"]
    mended = load(write_lowered(net, table, OPENVINO, bias, net.parent))
    grey = {"image": np.full((1, 3, 16, 16), np.float32(100 / 255))}
    wanted, *found = (next(stream(graph, ["stem"], [grey]))[0][..., 8, 8] for graph in (model, plain, mended))
    gaps = [float(np.abs(values - wanted).max()) for values in found]
    assert gaps[1] < 1e-4
    assert gaps[0] > 30 * gaps[1]
    assert bias_for_added_channel(load(net), Lowered(load(lowered(net, OPENVINO, calibrated(net, inputs))[0]), table)) == {}
