from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import (
    Graph,
    at_opset,
    calibrated,
    concat,
    constants,
    depthwise,
    executed,
    images,
    lowered,
    option_a,
    readers,
    relu6,
    residual,
    run,
    sqnr,
)

from kdedge.errors import ExportError
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize import encoding
from kdedge.exporters.quantize.encoding import Encoding
from kdedge.exporters.quantize.ranges import ActivationRange

GRAPHS = [residual, option_a, depthwise, concat]
ALL = [ONNXRUNTIME, OPENVINO, TENSORRT]


def row(low: float, high: float) -> ActivationRange:
    return ActivationRange("x", low, high, max(-low, high), (min(low, 0.0), max(high, 0.0)))


# ---- numbers ---------------------------------------------------------------------------------------------------------------


def test_scales_and_zero_points_worked_out_by_hand() -> None:
    assert encoding.encode_activation([row(0, 5.1)], ONNXRUNTIME) == Encoding(np.float32(0.02), 0)
    assert encoding.encode_activation([row(-1, 1.55)], ONNXRUNTIME) == Encoding(np.float32(0.01), 100)
    signed = replace(ONNXRUNTIME, activation=replace(ONNXRUNTIME.activation, signed=True))
    assert encoding.encode_activation([row(0, 5.1)], signed) == Encoding(np.float32(0.02), -128)
    # 2.54 / 127 = 0.02, which float16 holds as 0.0200043 (1311 / 2^16)
    assert encoding.encode_activation([row(-1, 2.54)], TENSORRT) == Encoding(np.float32(1311 / 2**16), 0)
    # a shared scale covers both members
    assert encoding.encode_activation([row(0, 1), row(-1, 1.55)], ONNXRUNTIME) == Encoding(np.float32(0.01), 100)


def test_a_scale_never_reaches_zero_and_float16_never_flushes_one() -> None:
    assert encoding.encode_activation([row(0, 0)], ONNXRUNTIME).scale == np.float32(2.0**-24)
    scales = encoding.weight_scales(np.array([0.0, 1e-4, 12.7]), None, Encoding(np.float32(1), 0), TENSORRT)
    assert scales.tolist() == [2.0**-14, 2.0**-14, float(np.float32(np.float16(0.1)))]
    assert encoding.encode_activation([row(0, 0)], TENSORRT).scale == np.float32(2.0**-14)


def test_scales_that_are_too_small_for_float16_as_a_whole_are_what_was_wanted() -> None:
    # They stay float32. Raised to 2^-14, all weights of such a layer would share a handful of integers.
    scales = encoding.weight_scales(np.array([0.0, 127e-6, 127e-5]), None, Encoding(np.float32(1), 0), TENSORRT)
    assert scales.tolist() == pytest.approx([2.0**-24, 1e-6, 1e-5], rel=1e-6)
    assert encoding.encode_activation([row(-127e-6, 0)], TENSORRT).scale == np.float32(1e-6)


def test_a_bias_has_the_scale_of_the_sums_and_fits_into_int32() -> None:
    source = Encoding(np.float32(0.5), 3)
    bias = np.array([1.0, -0.125, 100.0], np.float32)
    scales = encoding.weight_scales(np.array([127 * 0.25, 127 * 0.25, 0.0]), bias, source, ONNXRUNTIME)
    integers, product = encoding.quantize_bias(bias, source, scales)
    assert integers[:2].tolist() == [8, -1]
    assert product[:2].tolist() == [0.125, 0.125]
    assert abs(int(integers[2])) <= 2**31 - 1
    assert float(integers[2]) * float(product[2]) == pytest.approx(100.0, rel=1e-6)


def test_weights_are_rounded_half_to_even_and_stay_narrow() -> None:
    weight = np.array([[0.5, 1.5, 127.4, -200.0]], np.float32)
    assert encoding.quantize(weight, np.ones(1, np.float32), 0, ONNXRUNTIME.weight).tolist() == [[0, 2, 127, -127]]


# ---- files -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
def test_the_same_inputs_give_the_same_bytes_and_the_graph_keeps_its_face(tmp_path: Path, dialect: Dialect) -> None:
    path = option_a(tmp_path / "float.onnx")
    first = lowered(path, dialect)[0].read_bytes()
    assert lowered(path, dialect)[0].read_bytes() == first
    plain, quantized = onnx.load(path), onnx.load_from_string(first)
    onnx.checker.check_model(quantized, full_check=True)
    assert list(quantized.graph.input) == list(plain.graph.input)
    assert [output.name for output in quantized.graph.output] == ["logits"]
    assert quantized.ir_version <= dialect.maximum_ir
    assert str(tmp_path).encode() not in first


def test_float_weights_of_tensorrt_hold_the_rounded_values_also_in_float16(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    integers = constants(lowered(path, replace(TENSORRT, weight_storage="integer"))[0])
    floats = constants(lowered(path, TENSORRT)[0])
    for name in ("stem.weight", "a2.weight", "b_down.weight"):
        scale = floats[f"{name}_scale"].reshape(-1, 1, 1, 1)
        for dtype in (np.float32, np.float16):
            again = np.rint(floats[f"{name}_rounded"].astype(dtype).astype(np.float32) / scale.astype(dtype).astype(np.float32))
            assert (again == integers[f"{name}_quantized"]).all()


def test_a_table_of_another_graph_is_refused(tmp_path: Path) -> None:
    table = calibrated(residual(tmp_path / "one.onnx"))
    with pytest.raises(ExportError, match=r"made from another graph than `other\.onnx`"):
        lowered(concat(tmp_path / "other.onnx"), ONNXRUNTIME, table)


def test_an_opset_that_a_dialect_does_not_read_is_refused(tmp_path: Path) -> None:
    graph = Graph()
    path = graph.write(tmp_path / "float.onnx", graph.op("Relu", "relu", graph.conv("conv", "image", 16)), opset=12)
    with pytest.raises(ExportError, match="opset 12; tensorrt reads 13 to 20"):
        lowered(path, TENSORRT, calibrated(path, images(2, channels=16)))


def test_a_graph_with_a_fixed_batch_is_lowered_with_the_table_of_the_dynamic_one(tmp_path: Path) -> None:
    path = option_a(tmp_path / "float.onnx")
    table = calibrated(path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "one.onnx")
    dynamic, fixed = lowered(path, ONNXRUNTIME, table)[0], lowered(tmp_path / "one.onnx", ONNXRUNTIME, table)[0]
    inputs = images(1, seed=5)
    assert (run(dynamic, inputs) == run(fixed, inputs)).all()


# ---- what runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "convolutions"), [(residual, 6), (option_a, 4), (depthwise, 6), (concat, 4)], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_onnxruntime_runs_everything_between_the_input_and_the_logits_as_integers(tmp_path: Path, graph, convolutions: int) -> None:  # type: ignore[no-untyped-def]
    found = executed(lowered(graph(tmp_path / "float.onnx"), ONNXRUNTIME)[0])
    assert found.pop("QLinearConv") == convolutions
    assert found.pop("QuantizeLinear") == 1  # the image
    integer_or_moving = {"Transpose", "QLinearAdd", "QLinearGlobalAveragePool", "Flatten", "QGemm", "Slice", "Pad", "NhwcMaxPool", "Concat"}
    assert set(found) <= integer_or_moving


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_outputs_stay_close_to_the_float_graph(tmp_path: Path, dialect: Dialect, graph: Callable[[Path], Path], observer: str) -> None:
    path = graph(tmp_path / "float.onnx")
    inputs = images(32, seed=9)
    out, _ = lowered(path, dialect, calibrated(path, observer=observer))
    assert sqnr(run(path, inputs), run(out, inputs)) > 33.0


def test_the_mse_observer_beats_the_extremes_on_a_heavy_tailed_tensor(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    path = graph.write(tmp_path / "float.onnx", graph.conv("conv", "image", 16))
    examples, held_out = (np.random.default_rng(seed).laplace(size=(64, 3, 16, 16)).astype(np.float32) for seed in (3, 4))
    examples[0, 0, 0, 0] = 40.0  # seen once, and never again
    reference = run(path, held_out)
    found = {
        observer: sqnr(reference, run(lowered(path, ONNXRUNTIME, calibrated(path, examples, observer=observer))[0], held_out))
        for observer in ("minmax", "mse")
    }
    assert found["mse"] > found["minmax"] + 1.0, found


def test_gates_and_other_activations_run_as_integers_where_there_are_kernels(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    wide = graph.conv("conv", graph.op("Relu", "relu", graph.conv("stem", "image", 16)), 32)
    silu = graph.op("Mul", "silu", wide, graph.op("Sigmoid", "sigmoid", wide))
    gate = graph.op("HardSigmoid", "gate", graph.conv("squeeze", graph.op("GlobalAveragePool", "mean", silu), 32, kernel=1))
    scaled = graph.op("Mul", "scaled", silu, gate)
    leaky = graph.op("LeakyRelu", "leaky", graph.conv("next", scaled, 16), alpha=0.1)
    graph.head(graph.op("Relu", "last_relu", graph.conv("last", leaky, 16)))
    path = graph.write(tmp_path / "float.onnx", "logits")
    out, report = lowered(path, ONNXRUNTIME)
    found = executed(out)
    assert (found["QLinearConv"], found["QLinearMul"], found["QLinearSigmoid"], found["QLinearLeakyRelu"]) == (5, 2, 1, 1)
    assert "Conv" not in found
    sigmoid = constants(out)
    assert sigmoid["sigmoid_scale"] == np.float32(1 / 255)
    assert "gate" in report.activations


def test_heads_that_meet_in_a_concat_at_the_end_keep_their_own_scales(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    features = graph.op("Relu", "relu", graph.conv("stem", "image", 16))
    boxes = graph.op("Mul", "boxes", graph.conv("box", features, 4), graph.constant("hundred", 100.0))
    graph.op("Concat", "found", boxes, graph.conv("score", features, 2), axis=1, channels=6)
    path = graph.write(tmp_path / "float.onnx", "found")
    table = calibrated(path)
    for dialect in ALL:
        out, report = lowered(path, dialect, table)
        assert "found" not in report.activations
        inputs = images(8, seed=9)
        reference, quantized = run(path, inputs), run(out, inputs)
        assert sqnr(reference[:, 4:], quantized[:, 4:]) > 30.0


def test_an_intermediate_tensor_that_is_an_output_too_keeps_its_name_and_type(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    features = graph.op("Relu", "features", graph.conv("stem", "image", 16))
    graph.op("MaxPool", "pooled", features, kernel_shape=[2, 2], strides=[2, 2])
    graph.op("Relu", "last", graph.conv("conv", "pooled", 16))
    path = graph.write(tmp_path / "float.onnx", "features", "pooled", "last")
    for dialect in ALL:
        out, _ = lowered(path, dialect)
        validate(out, dialect)
        assert [output.name for output in onnx.load(out).graph.output] == ["features", "pooled", "last"]
        assert all(output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for output in onnx.load(out).graph.output)
        assert run(out, images(2)).dtype == np.float32


def test_a_weight_that_two_nodes_share_is_stored_once(tmp_path: Path) -> None:
    graph = Graph(channels=16)
    first = graph.op("Relu", "first", graph.conv("conv", "image", 16, bias=False))
    graph.op("Relu", "second", graph.op("Conv", "again", first, "conv.weight", channels=16, pads=[1] * 4))
    path = graph.write(tmp_path / "float.onnx", "second")
    for dialect in ALL:
        out, report = lowered(path, dialect, calibrated(path, images(4, channels=16)))
        assert report.weighted == ("conv", "again")
        stored = [held.name for held in onnx.load(out).graph.initializer if numpy_helper.to_array(held).ndim == 4]
        assert len(stored) == 1
        validate(out, dialect)


def test_a_transposed_convolution_is_quantized_where_there_is_a_kernel_and_named_where_not(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    features = graph.op("Relu", "features", graph.conv("stem", "image", 16))
    graph.constant("up.weight", graph.random.normal(0, 0.1, (16, 16, 2, 2)))
    graph.op("ConvTranspose", "up", features, "up.weight", strides=[2, 2])
    path = graph.write(tmp_path / "float.onnx", "up")
    assert lowered(path, ONNXRUNTIME)[1].notes == ("`up` (ConvTranspose) stays float: onnxruntime-x86 has no integer kernel for ConvTranspose",)
    for dialect in (OPENVINO, TENSORRT):
        out, report = lowered(path, dialect)
        assert report.weighted == ("stem", "up")
        dequantize = next(node for node in onnx.load(out).graph.node if node.name == "up.weight_DequantizeLinear")
        assert onnx.helper.get_attribute_value(next(held for held in dequantize.attribute if held.name == "axis")) == 1


def test_a_constant_on_the_left_of_a_product_is_not_told_as_an_activation(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    features = graph.conv("stem", "image", 16)
    graph.constant("weight", graph.random.normal(0, 0.3, (16, 16)))
    path = graph.write(tmp_path / "float.onnx", graph.op("MatMul", "turned", "weight", features))
    (note,) = lowered(path, ONNXRUNTIME)[1].notes
    assert note == "`turned` (MatMul) stays float: its constant stands on the left, where integer kernels take none"


def test_a_matrix_product_keeps_its_output_float(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    features = graph.op("Relu", "features", graph.conv("stem", "image", 16))
    graph.constant("shape", [0, 16, 256], "int64")
    tokens = graph.op("Transpose", "tokens", graph.op("Reshape", "flat", features, "shape"), perm=[0, 2, 1])
    graph.constant("weight", graph.random.normal(0, 0.3, (16, 32)))
    product = graph.op("MatMul", "product", tokens, "weight")
    graph.op("MatMul", "scores", product, graph.op("Transpose", "keys", product, perm=[0, 2, 1]))
    out, report = lowered(graph.write(tmp_path / "float.onnx", "product", "scores"), ONNXRUNTIME)
    assert report.notes == ("`scores` (MatMul) stays float: it multiplies two activations",)
    assert report.activations == ("image", "features")
    assert report.moving == ("flat", "tokens")
    assert executed(out)["MatMulIntegerToFloat"] == 1


@pytest.mark.parametrize("batch", [1, 4])
def test_a_linear_layer_on_every_pixel_is_one_integer_kernel_with_its_bias(tmp_path: Path, batch: int) -> None:
    # ONNX Runtime joins MatMul and Add to a Gemm, and that one runs on integers only where its bias is an integer too: with a float bias it would
    # run in float and dequantize its weights at every inference.
    graph = Graph(channels=8, size=4)
    graph.input.type.tensor_type.shape.dim[0].dim_value = batch
    last = graph.op("Transpose", "pixels", "image", perm=[0, 2, 3, 1])
    for number, (narrow, wide) in enumerate([(8, 32), (32, 8)]):
        graph.constant(f"weight{number}", graph.random.normal(0, 0.2, (narrow, wide)))
        graph.constant(f"bias{number}", graph.random.normal(0, 0.5, wide))
        product = graph.op("MatMul", f"linear{number}", last, f"weight{number}")
        terms = (product, f"bias{number}") if number else (f"bias{number}", product)
        last = graph.op("Gelu", f"gelu{number}", graph.op("Add", f"add{number}", *terms))
    path = graph.write(tmp_path / "float.onnx", last, opset=20)
    inputs = images(batch, channels=8, size=4)
    table = calibrated(path, images(64, channels=8, size=4))

    assert [row.bias for row in table.structure.weights] == ["bias0", "bias1"]
    out, _ = lowered(path, ONNXRUNTIME, table)
    validate(out, ONNXRUNTIME)
    found = executed(out)
    assert found["QGemm"] == 2
    assert not {"Gemm", "MatMul", "FusedMatMul"} & set(found)
    assert sqnr(run(path, inputs), run(out, inputs)) > 33.0

    for dialect in (OPENVINO, TENSORRT):
        assert readers(lowered(path, dialect, table)[0])["add1"] == ["linear1", "bias1"]


def test_an_addition_that_is_no_bias_of_a_matrix_product_stays_float(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=4)
    last = graph.op("Transpose", "pixels", "image", perm=[0, 2, 3, 1])
    graph.constant("weight", graph.random.normal(0, 0.2, (4, 4)))
    shared = graph.op("MatMul", "shared", last, "weight")
    graph.op("Add", "row", shared, graph.constant("row.offset", [1.0, 2.0, 3.0, 4.0]))
    graph.op("Add", "other", shared, graph.constant("other.offset", [4.0, 3.0, 2.0, 1.0]))
    one = graph.op("Add", "one", graph.op("MatMul", "single", last, "weight"), graph.constant("one.offset", [1.0]))
    path = graph.write(tmp_path / "float.onnx", "row", "other", one)
    table = calibrated(path, images(8, channels=4, size=4))
    assert [row.bias for row in table.structure.weights] == [None, None]
    out, _ = lowered(path, ONNXRUNTIME, table)
    validate(out, ONNXRUNTIME)
    assert readers(out)["row"] == ["shared", "row.offset"]


SLICE = {"start": 0, "end": 8, "axis": 2, "step": 2}
BETWEEN: dict[str, Callable[[Graph, str], str]] = {
    "MaxPool": lambda graph, source: graph.op("MaxPool", "moved", source, kernel_shape=[2, 2], strides=[2, 2]),
    "Concat": lambda graph, source: graph.op("Concat", "moved", source, graph.conv("other", "image", 16), axis=1, channels=32),
    "Slice": lambda graph, source: graph.op("Slice", "moved", source, *(graph.constant(name, [value], "int64") for name, value in SLICE.items())),
    "Pad": lambda graph, source: graph.op("Pad", "moved", source, graph.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], "int64")),
    "Split": lambda graph, source: _split(graph, source),
    "Transpose": lambda graph, source: graph.op("Transpose", "moved", source, perm=[0, 1, 3, 2]),
    "Gather": lambda graph, source: graph.op("Gather", "moved", source, graph.constant("picked", [0, 2, 4, 6], "int64"), axis=2),
    "Resize": lambda graph, source: graph.op("Resize", "moved", source, "", graph.constant("scales", [1.0, 1.0, 2.0, 2.0]), mode="nearest"),
    "two in a row": lambda graph, source: graph.op(
        "MaxPool", "moved", graph.op("Transpose", "turned", source, perm=[0, 1, 3, 2]), kernel_shape=[2, 2]
    ),
}


def _split(graph: Graph, source: str) -> str:
    graph.constant("halves", [8, 8], "int64")
    graph.nodes.append(onnx.helper.make_node("Split", [source, "halves"], ["moved", "left_over"], name="split", axis=1))
    graph.channels["moved"] = 8
    return "moved"


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_an_activation_may_stand_behind_what_moves_the_convolutions_values(tmp_path: Path, dialect: Dialect, between: str, activation: str) -> None:
    graph = Graph(channels=3)
    moved = BETWEEN[between](graph, graph.conv("stem", "image", 16))
    cut = graph.op("Relu", "cut", moved) if activation == "Relu" else relu6(graph, "cut", moved)
    path = graph.write(tmp_path / "float.onnx", graph.conv("last", cut, 16))
    out, report = lowered(path, dialect)
    assert "last" in report.weighted
    validate(out, dialect)
    inputs = images(8, seed=9)
    assert sqnr(run(path, inputs), run(out, inputs)) > 30.0


def test_a_flattened_convolution_may_be_cut_afterwards(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    flat = graph.op("Flatten", "flat", graph.conv("stem", "image", 16), channels=16 * 8 * 8)
    path = graph.write(tmp_path / "float.onnx", graph.gemm("logits", graph.op("Relu", "cut", flat), 32))
    inputs = images(32, size=8, seed=9)
    for dialect in ALL:
        out, _ = lowered(path, dialect, calibrated(path, images(64, size=8)))
        validate(out, dialect)
        assert sqnr(run(path, inputs), run(out, inputs)) > 30.0


@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("graph", [residual, concat], ids=lambda graph: graph.__name__)
def test_onnxruntime_runs_every_convolution_as_integers_at_every_opset_of_its_dialect(
    tmp_path: Path, graph: Callable[[Path], Path], opset: int
) -> None:
    path = at_opset(graph(tmp_path / "float.onnx"), opset)
    out, report = lowered(path, ONNXRUNTIME)
    validate(out, ONNXRUNTIME)
    found = executed(out)
    assert found["QLinearConv"] == len(report.weighted) - 1  # all but the Gemm
    assert "Conv" not in found
    assert onnx.load(out).opset_import[0].version == opset
