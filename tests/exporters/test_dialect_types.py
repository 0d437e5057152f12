"""What the types of each dialect promise: sums that cannot overflow, zero points that drop a ReLU, scales that hardware fixes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from executed_operators import SIGNED
from graph_families import attention, hard_swish, silu, transposed, with_one_image
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import Graph, calibrated, constants, executed, images, lowered, residual, run, sqnr

from kdedge.exporters.dialects.dialect import Dialect, Integer
from kdedge.exporters.dialects.onnxruntime_arm import DIALECT as ARM
from kdedge.exporters.dialects.onnxruntime_x86 import AVX2
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as X86
from kdedge.exporters.dialects.openvino import AVX2 as OPENVINO_AVX2
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.phone_xnnpack import DIALECT as XNNPACK
from kdedge.exporters.dialects.qnn_htp import DIALECT as QNN
from kdedge.exporters.dialects.qnn_htp import SIXTEEN_BITS
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.encoding import Encoding, encode_activation, encode_constant, quantize_activation
from kdedge.exporters.quantize.lower import LoweredReport
from kdedge.exporters.quantize.masks import cut_masks
from kdedge.exporters.quantize.ranges import ActivationRange
from kdedge.exporters.quantize.wiring import load


def one_image(graph, folder: Path, dialect: Dialect) -> tuple[Path, Path, LoweredReport]:  # type: ignore[no-untyped-def]
    path = with_one_image(graph(folder / "float.onnx"), dialect.minimum_opset)
    return path, *lowered(path, dialect)


# ---- x86 without VNNI ------------------------------------------------------------------------------------------------------


def test_two_products_of_7_bit_weights_never_leave_16_bits_and_those_of_8_bit_weights_do() -> None:
    largest = {dialect.name: 2 * dialect.activation.limits[1] * dialect.weight.limits[1] for dialect in (X86, AVX2, OPENVINO, OPENVINO_AVX2)}
    assert largest == {"onnxruntime-x86": 64770, "onnxruntime-x86-avx2": 32130, "openvino": 64770, "openvino-avx2": 32130}
    for name in ("onnxruntime-x86", "openvino"):
        assert largest[f"{name}-avx2"] <= np.iinfo(np.int16).max < largest[name]


def test_no_pair_of_written_weights_can_saturate_a_16_bit_sum(tmp_path: Path) -> None:
    held = constants(one_image(residual, tmp_path, AVX2)[1])
    weights = [array.astype(np.int32) for name, array in held.items() if name.endswith("weight_quantized")]
    assert len(weights) == 7
    for weight in weights:
        assert weight.min() >= -63
        assert weight.max() <= 63
        assert np.abs(weight).max() == 63
        worst = max(abs(first) + abs(second) for first, second in pairwise(weight.reshape(-1).tolist()))
        assert 255 * worst <= np.iinfo(np.int16).max


# ---- Arm and phones --------------------------------------------------------------------------------------------------------


def test_a_range_that_starts_at_zero_has_its_zero_point_at_the_smallest_integer() -> None:
    row = ActivationRange("x", 0.0, 5.1, 5.1, (0.0, 5.1))
    assert encode_activation([row], ARM) == Encoding(np.float32(0.02), -128)
    assert encode_activation([row], XNNPACK) == Encoding(np.float32(0.02), -128)


def test_signed_activations_give_what_unsigned_ones_give(tmp_path: Path) -> None:
    path, unsigned, _ = one_image(residual, tmp_path, X86)
    signed = lowered(path, ARM)[0]
    inputs = images(1, seed=9)
    # The same integers, 128 lower, in kernels that round alike.
    np.testing.assert_allclose(run(signed, inputs, SIGNED), run(unsigned, inputs), rtol=0, atol=1e-6)
    assert executed(signed, SIGNED)["QLinearConv"] == 6
    assert executed(signed).get("QLinearConv", 0) < 6  # what x86 does unless it is told


def test_xnnpack_gets_one_scale_for_a_transposed_convolution_and_one_a_channel_for_others(tmp_path: Path) -> None:
    path, out, report = one_image(transposed, tmp_path, XNNPACK)
    held = constants(out)
    assert report.weighted == ("stem", "low", "up", "last", "logits")
    assert held["up.weight_scale"].shape == ()
    assert held["low.weight_scale"].shape == (16,)
    assert held["up_bias_quantized"].dtype == np.int32
    assert held["up_relu_zero_point"] == -128
    validate(out, XNNPACK)
    inputs = images(1, seed=9)
    assert sqnr(run(path, inputs), run(out, inputs, SIGNED)) > 33.0


# ---- Qualcomm's HTP --------------------------------------------------------------------------------------------------------


def test_qnn_leaves_no_node_in_float(tmp_path: Path) -> None:
    path, out, report = one_image(attention, tmp_path, QNN)
    validate(out, QNN)
    assert report.notes == ()
    model = onnx.load(out)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    floats = {"LayerNormalization", "Softmax", "Gelu", "MatMul", "Gemm", "Add", "Mul", "Conv", "ReduceMean"}
    for node in model.graph.node:
        if node.op_type in floats:
            operands = [name for name in node.input if name and made.get(name) != "DequantizeLinear"]
            assert operands in ([], ["token_axis"]), node.name
    inputs = images(1, seed=9)
    assert sqnr(run(path, inputs), run(out, inputs)) > 28.0


def test_qnn_quantizes_a_normalisation_like_a_weighted_node(tmp_path: Path) -> None:
    held = constants(one_image(attention, tmp_path, QNN)[1])
    factor, offset = held["norm2_input1_quantized"], held["norm2_input2_quantized"]
    assert (factor.dtype.name, offset.dtype.name) == ("int8", "int32")
    assert held["norm2_input2_scale"] == pytest.approx(held["norm2_input1_scale"] * held["attended_scale"], rel=1e-6)
    assert held["query.weight_scale"].shape == ()  # a MatMul has one scale


def test_a_range_of_qnn_is_never_narrower_than_the_hardware_reads() -> None:
    encoded = encode_activation([ActivationRange("x", 0.0, 0.0, 0.0, (0.0, 0.0))], QNN)
    assert float(encoded.scale) * 255 == pytest.approx(1e-4, rel=1e-6)


def test_16_bit_sigmoids_have_the_scale_that_the_hardware_fixes(tmp_path: Path) -> None:
    path, out, _ = one_image(silu, tmp_path, SIXTEEN_BITS)
    held = constants(out)
    assert held["sigmoid1_scale"] == np.float32(2.0**-16)
    assert (int(held["sigmoid1_zero_point"]), held["sigmoid1_zero_point"].dtype.name) == (0, "uint16")
    validate(out, SIXTEEN_BITS)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    inputs = images(1, seed=9)
    eight = sqnr(run(path, inputs), run(lowered(path, QNN)[0], inputs))
    assert sqnr(run(path, inputs), run(out, inputs)) > eight


def test_an_operator_without_an_observed_range_is_said_to_stay_float(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    rounded = graph.op("Ceil", "rounded", graph.op("Round", "first", graph.conv("stem", "image", 16)))
    path = with_one_image(graph.write(tmp_path / "float.onnx", graph.conv("last", rounded, 16)))
    out, report = lowered(path, QNN)
    assert report.notes == (
        "`first` (Round) stays float: no range was observed for what Round reads or makes",
        "`rounded` (Ceil) stays float: no range was observed for what Ceil reads or makes",
    )
    validate(out, QNN, report.kept)


def test_an_attention_mask_does_not_stretch_the_range_of_the_scores(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    scores = graph.conv("scores", "image", 3)
    far = graph.op("Mul", "far", "image", graph.constant("ten_thousand", -1e4))
    mask = graph.op("Transpose", "mask", far, perm=[0, 1, 3, 2])
    graph.op("Softmax", "shares", graph.op("Add", "masked", scores, mask), axis=-1)
    path = with_one_image(graph.write(tmp_path / "float.onnx", "shares"))
    table = calibrated(path, images(16, size=8))
    rows = table.activation_ranges()
    low, high = rows["scores"].affine
    assert rows["masked"].affine[0] < -9000
    cut = cut_masks(load(path).graph, frozenset({"mask"}), rows)
    assert cut["masked"].affine[0] == pytest.approx(low - 8)
    assert cut["mask"].affine[0] == cut["far"].affine[0] == pytest.approx(low - high - 8)
    assert {name for name in rows if cut[name] != rows[name]} == {"masked", "mask", "far"}
    held = constants(lowered(path, QNN, table)[0])
    assert held["masked_scale"] < 0.1


def test_names_that_lowering_makes_meet_none_of_the_graph(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    stem = graph.conv("stem", "image", 16)
    gate = graph.op("Mul", "gate", stem, graph.constant("half", 0.5))
    other = graph.op("Relu", "gate_input1", graph.conv("other", gate, 16))
    path = with_one_image(graph.write(tmp_path / "float.onnx", graph.conv("last", other, 16)))
    for dialect in (X86, QNN):
        model = onnx.load(lowered(path, dialect)[0])
        names = [node.name for node in model.graph.node]
        assert len(names) == len(set(names))
        assert run(path.with_name(f"float.{dialect.name}.onnx"), images(1)).shape == (1, 16, 16, 16)


# ---- encodings -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.sampled_from([X86, ARM, QNN, SIXTEEN_BITS, TENSORRT]))
def test_a_constant_operand_comes_back_within_half_a_step(values: list[float], dialect: Dialect) -> None:
    array = np.asarray(values, np.float32)
    held = encode_constant(array, dialect)
    integers = quantize_activation(array, held, dialect)
    assert integers.dtype.name == dialect.activation.dtype
    back = (integers.astype(np.float64) - held.zero_point) * float(held.scale)
    # Half a step for the rounding; up to half a step more where the rounded zero point cuts an end off.
    assert np.abs(back - array).max() <= float(held.scale) * 1.01


@pytest.mark.parametrize(("bits", "signed", "dtype"), [(7, True, "int8"), (8, False, "uint8"), (16, False, "uint16"), (16, True, "int16")])
def test_an_integer_is_stored_in_the_next_wider_type(bits: int, signed: bool, dtype: str) -> None:
    integer = Integer(bits, signed, symmetric=True)
    assert integer.dtype == dtype
    low, high = integer.limits
    assert high - low == 2**bits - 1


def test_hard_swish_of_a_signed_dialect_stays_close(tmp_path: Path) -> None:
    path, out, _ = one_image(hard_swish, tmp_path, ARM)
    inputs = images(1, seed=9)
    assert sqnr(run(path, inputs), run(out, inputs, SIGNED)) > 33.0
    assert calibrated(path).structure.weights[0].node == "stem"
