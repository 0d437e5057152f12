"""The validator's verdict against that of those who have the last word: NVIDIA's parser and builder, and what ONNX Runtime and OpenVINO execute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from changed_graphs import Change, move_axis, rewire, set_constant, several
from executed_operators import has_tiles
from graph_families import with_one_image
from onnx import TensorProto, helper, numpy_helper
from small_graphs import at_opset, concat, executed, images, lowered, residual, run, sqnr

from kdedge.errors import DialectError, ExportError
from kdedge.exporters.dialects.dialect import Dialect, Integer, around, inputs_of, outputs_of
from kdedge.exporters.dialects.onnxruntime_arm import DIALECT as ARM
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as X86
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.tensorrt import check_with_rtx


def passes(path: Path, dialect: Dialect) -> bool:
    try:
        validate(path, dialect)
    except DialectError:
        return False
    return True


def rewritten(folder: Path, dialect: Dialect, change: Change | None = None, opset: int | None = None) -> Path:
    """The residual graph for one image in a dialect, then changed."""
    path = with_one_image(residual(folder / "float.onnx"))
    out, _ = lowered(path if opset is None else at_opset(path, opset), dialect)
    if change is not None:
        model = onnx.load(out)
        change(model)
        del model.graph.value_info[:]
        onnx.save(model, out)
    return out


# ---- changes ---------------------------------------------------------------------------------------------------------------


def without_zero_point(*names: str) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.name in names:
                del node.input[2]

    return apply


def with_integer_operator(operator: str) -> Change:
    """The integers of stem_relu read by an operator of another way to write a quantized graph."""

    def apply(model: onnx.ModelProto) -> None:
        held = {"i_scale": np.float32(0.1), "i_zero": np.int8(0), "i_weight": np.ones((16, 16, 1, 1), np.int8), "i_square": np.ones((16, 4), np.int8)}
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in held.items())
        integers, scale = "stem_relu_quantized", ["i_scale", "i_zero"]
        inputs = {
            "QLinearConv": [integers, *scale, "i_weight", *scale, *scale],
            "ConvInteger": [integers, "i_weight"],
            "MatMulInteger": [integers, "i_square"],
            "DynamicQuantizeLinear": ["logits"],
        }[operator]
        outputs = ["i_out", "i_out_scale", "i_out_zero"] if operator == "DynamicQuantizeLinear" else ["i_out"]
        model.graph.node.append(helper.make_node(operator, inputs, outputs, name="foreign"))
        model.graph.node.append(helper.make_node("Cast", ["i_out"], ["i_float"], name="foreign_cast", to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info("i_float", TensorProto.FLOAT, None))

    return apply


def integer(bits: int, signed: bool, symmetric: bool) -> Integer:
    return Integer(bits=bits, signed=signed, symmetric=symmetric)


# ---- TensorRT --------------------------------------------------------------------------------------------------------------

# name -> (how it is written, what is changed, opset; whether NVIDIA's parser and builder take it as it is)
SAME_VERDICT: dict[str, tuple[Dialect, Change | None, int | None, bool]] = {
    "as kdedge writes it": (TENSORRT, None, None, True),
    "integer weights with DQ alone": (replace(TENSORRT, weight_storage="integer"), None, None, True),
    "one scale for all weights of a tensor": (replace(TENSORRT, weight=replace(TENSORRT.weight, per_channel=False)), None, None, True),
    "weights that use the smallest integer": (replace(TENSORRT, weight=replace(TENSORRT.weight, narrow=False)), None, None, True),
    "a DQ without zero point": (TENSORRT, without_zero_point("stem_relu_DequantizeLinear", "a1.weight_DequantizeLinear"), None, True),
    "an int32 bias": (replace(TENSORRT, bias="int32"), None, None, False),
    "uint8 activations": (replace(TENSORRT, activation=integer(8, False, False)), None, None, False),
    "one uint8 zero point of 0": (TENSORRT, set_constant("stem_relu_zero_point", lambda zero: zero.astype(np.uint8)), None, False),
    "asymmetric int8 activations": (replace(TENSORRT, activation=integer(8, True, False)), None, None, False),
    "one zero point that is not 0": (TENSORRT, set_constant("stem_relu_zero_point", lambda zero: zero + 3), None, False),
    "16-bit activations": (replace(TENSORRT, activation=integer(16, True, True), maximum_opset=22, maximum_ir=10), None, 21, False),
    "a scale of 0": (TENSORRT, set_constant("stem_relu_scale", lambda scale: scale * 0), None, False),
    "a negative scale": (TENSORRT, set_constant("stem_relu_scale", lambda scale: -scale), None, False),
    "weights along the wrong axis": (TENSORRT, move_axis("b1.weight_DequantizeLinear", 1), None, False),
    "QLinearConv": (TENSORRT, with_integer_operator("QLinearConv"), None, False),
    "ConvInteger": (TENSORRT, with_integer_operator("ConvInteger"), None, False),
    "MatMulInteger": (TENSORRT, with_integer_operator("MatMulInteger"), None, False),
    "DynamicQuantizeLinear": (TENSORRT, with_integer_operator("DynamicQuantizeLinear"), None, False),
}

# What the parser of TensorRT-RTX 1.7 takes and the validator refuses, each for a reason that its message gives.
STRICTER: dict[str, tuple[Dialect, Change | None, str]] = {
    "a scale for each channel of an activation: TensorRT's documentation allows it for weights only": (
        TENSORRT,
        several(
            set_constant("stem_relu_scale", lambda scale: np.full(16, scale, np.float32)),
            set_constant("stem_relu_zero_point", lambda zero: np.full(16, zero, np.int8)),
        ),
        "an activation has one scale, not one a channel",
    ),
    "a Q without zero point: uint8 in ONNX, int8 in TensorRT": (
        TENSORRT,
        without_zero_point("stem_relu_QuantizeLinear", "stem_relu_DequantizeLinear"),
        "the type is uint8, this dialect wants int8",
    ),
    "a scale that is not finite": (TENSORRT, set_constant("a1.weight_scale", lambda scale: scale * np.inf), "must be finite and positive"),
    "weights in integers and their input in float: it runs in float16": (
        TENSORRT,
        rewire("a1", 0, "stem_relu"),
        "its weights are quantized but its input",
    ),
    "a residual addition with both sides quantized: two kernels instead of one": (
        replace(TENSORRT, places=(inputs_of("Conv"), outputs_of("Conv"), around("Add"))),
        None,
        "convolution and addition cannot become one kernel",
    ),
}


@pytest.mark.parametrize(("written", "change", "opset", "taken"), SAME_VERDICT.values(), ids=SAME_VERDICT)
def test_the_validator_and_nvidias_parser_agree(tmp_path: Path, written: Dialect, change: Change | None, opset: int | None, taken: bool) -> None:
    pytest.importorskip("tensorrt_rtx")
    out = rewritten(tmp_path, written, change, opset)
    assert passes(out, TENSORRT) is taken
    if taken:
        assert check_with_rtx(out).endswith("no precision changed")
    else:
        with pytest.raises(ExportError, match=r"parser refuses it|changed the precision"):
            check_with_rtx(out)


@pytest.mark.parametrize(("written", "change", "reason"), STRICTER.values(), ids=STRICTER)
def test_the_validator_refuses_what_the_parser_takes_without_a_word(tmp_path: Path, written: Dialect, change: Change | None, reason: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    out = rewritten(tmp_path, written, change)
    with pytest.raises(DialectError, match=reason):
        validate(out, TENSORRT)
    assert check_with_rtx(out).endswith("no precision changed")


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------------

# What is written, and whether the validator of onnxruntime-x86 takes it. All six convolutions run as integers exactly where it does.
ON_X86: dict[str, tuple[Dialect, Change | None, bool]] = {
    "as kdedge writes it": (X86, None, True),
    "weights in float before Q and DQ": (replace(X86, weight_storage="float"), None, True),
    "one scale for all weights of a tensor": (replace(X86, weight=replace(X86.weight, per_channel=False)), None, True),
    "7-bit weights": (replace(X86, weight=replace(X86.weight, bits=7)), None, True),
    "signed activations": (ARM, None, False),
    "TensorRT's dialect": (TENSORRT, None, False),
    "OpenVINO's dialect": (OPENVINO, None, False),
    "outputs that are not quantized": (replace(X86, places=(inputs_of("Conv", "Gemm"),)), None, False),
    "a sum with one float side": (X86, rewire("a_add", 0, "a2"), False),
    "a zero point in the middle after ReLU": (X86, set_constant("a1_relu_zero_point", lambda zero: zero + 128), False),
    "an input in float": (X86, rewire("a1", 0, "stem_relu"), False),
}


@pytest.mark.parametrize(("written", "change", "taken"), ON_X86.values(), ids=ON_X86)
def test_onnxruntime_runs_all_convolutions_as_integers_where_the_validator_passes(
    tmp_path: Path, written: Dialect, change: Change | None, taken: bool
) -> None:
    out = rewritten(tmp_path, written, change)
    assert passes(out, X86) is taken
    found = executed(out)
    float_nodes = sum(count for name, count in found.items() if name in ("Conv", "FusedConv", "Add", "Gemm"))
    assert (found.get("QLinearConv", 0) == 6 and float_nodes == 0) is taken


def test_a_file_of_onnxruntimes_own_quantizer_is_judged_by_what_it_runs_as(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": image[None]} for image in images(8)]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    path = with_one_image(residual(tmp_path / "float.onnx"))
    found = {}
    for name, kind in (("unsigned", QuantType.QUInt8), ("signed", QuantType.QInt8)):
        out = tmp_path / f"{name}.onnx"
        quantize_static(path, out, Images(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=kind, weight_type=QuantType.QInt8)
        found[name] = passes(out, X86), executed(out).get("QLinearConv", 0) == 6
        assert not passes(out, TENSORRT)
    assert found == {"unsigned": (True, True), "signed": (False, False)}
    assert passes(tmp_path / "signed.onnx", ARM)


# ---- OpenVINO --------------------------------------------------------------------------------------------------------------

ON_OPENVINO: dict[str, tuple[Dialect, Change | None, bool]] = {
    "as kdedge writes it": (OPENVINO, None, True),
    "weights in float before Q and DQ": (replace(OPENVINO, weight_storage="float"), None, True),
    "an int32 bias": (replace(OPENVINO, bias="int32"), None, True),
    "one scale for all weights of a tensor": (replace(OPENVINO, weight=replace(OPENVINO.weight, per_channel=False)), None, True),
    "an input in float": (OPENVINO, rewire("a1", 0, "stem_relu"), False),
}


@pytest.mark.parametrize(("written", "change", "taken"), ON_OPENVINO.values(), ids=ON_OPENVINO)
def test_openvino_runs_all_convolutions_as_integers_where_the_validator_passes(
    tmp_path: Path, written: Dialect, change: Change | None, taken: bool
) -> None:
    openvino = pytest.importorskip("openvino")
    out = rewritten(tmp_path, written, change)
    assert passes(out, OPENVINO) is taken
    compiled = openvino.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [fact["runtimePrecision"].astype(str) for fact in facts if fact["layerType"].astype(str) == "Convolution"]
    assert len(kinds) == 6
    assert all(kind in ("u8", "i8") for kind in kinds) is taken
    inputs = images(1, seed=9)
    assert sqnr(run(with_one_image(residual(tmp_path / "again.onnx")), inputs), np.asarray(compiled(inputs)[0])) > 28.0


def test_openvino_misreads_signed_activations_that_meet_in_a_concat_so_its_dialect_is_unsigned(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = with_one_image(concat(tmp_path / "float.onnx"))
    inputs = images(1, seed=9)
    found = {}
    for signed in (False, True):
        written = replace(OPENVINO, activation=integer(8, signed, False), name=f"signed-{signed}")
        out, _ = lowered(path, written)
        compiled = openvino.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
        found[signed] = sqnr(run(path, inputs), np.asarray(compiled(inputs)[0]))
        assert sqnr(run(path, inputs), run(out, inputs)) > 30.0  # the file itself is right
    assert found[False] > 30.0
    # Its kernels for AMX read it; those for AVX2 and AVX-512, which most CPUs have, do not.
    assert found[True] > 30.0 if has_tiles() else found[True] < 25.0, "OpenVINO reads signed activations otherwise now"
    assert not passes(out, OPENVINO)
