"""What the validator of each dialect refuses: a good file is broken in one place, and that place is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from changed_graphs import Change, move_axis, rewire, set_constant, several
from graph_families import with_one_image
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Graph, calibrated, images, lowered, option_a, residual

from kdedge.errors import DialectError, ExportError
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_arm import DIALECT as ARM
from kdedge.exporters.dialects.onnxruntime_x86 import AVX2
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.phone_xnnpack import DIALECT as XNNPACK
from kdedge.exporters.dialects.qnn_htp import DIALECT as QNN
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate


def set_opset(version: int) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return apply


def set_ir(version: int) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        model.ir_version = version

    return apply


def output_integers(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("stem_relu_quantized", TensorProto.UINT8, None))


def add_dynamic(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["logits"], ["q", "s", "z"], name="dynamic"))
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.UINT8, None))


def add_foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Gelu", ["logits"], ["gelu"], name="foreign", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output.append(helper.make_tensor_value_info("gelu", TensorProto.FLOAT, None))


def integers_to_relu(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["stem_relu_quantized"], ["minus"], name="negate"))
    model.graph.output.append(helper.make_tensor_value_info("minus", TensorProto.INT8, None))


def float_output(model: onnx.ModelProto) -> None:
    """The last Q/DQ pair taken out."""
    kept = [node for node in model.graph.node if not node.name.startswith("logits_Quantize") and node.name != "logits_DequantizeLinear"]
    gemm = next(node for node in kept if node.name == "logits")
    gemm.output[0] = "logits"
    del model.graph.node[:]
    model.graph.node.extend(kept)


def add_float_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Softplus", ["stem_relu_dequantized"], ["soft"], name="float_node"))
    model.graph.output.append(helper.make_tensor_value_info("soft", TensorProto.FLOAT, None))


def free_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))


def free_rows(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))


def shifted(scale: Any) -> Any:
    return scale * np.float32(1.5)


BROKEN = {
    "tensorrt: a zero point that is not 0": (
        TENSORRT,
        set_constant("stem_relu_zero_point", lambda zero: zero + 3),
        r"`stem_relu_QuantizeLinear` \(QuantizeLinear\): the zero point is 3, this dialect wants 0",
    ),
    "tensorrt: uint8 activations": (
        TENSORRT,
        set_constant("stem_relu_zero_point", lambda zero: zero.astype(np.uint8)),
        "`stem_relu_QuantizeLinear`.*the type is uint8, this dialect wants int8",
    ),
    "tensorrt: a scale of 0": (TENSORRT, set_constant("stem_relu_scale", lambda scale: scale * 0), "must be finite and positive, found 0"),
    "tensorrt: a scale that is negative": (TENSORRT, set_constant("stem_relu_scale", lambda scale: -scale), "must be finite and positive, found -"),
    "tensorrt: a scale that is not finite": (TENSORRT, set_constant("a1.weight_scale", lambda scale: scale * np.inf), "positive, found inf"),
    "tensorrt: a scale that float16 flushes": (
        TENSORRT,
        set_constant("a1.weight_scale", lambda scale: np.where(np.arange(len(scale)) == 2, np.float32(3e-5), scale)),
        "`a1.weight_QuantizeLinear`.*3e-05.*no normal number in float16",
    ),
    "tensorrt: a scale that float16 cannot hold": (
        TENSORRT,
        set_constant("stem_relu_scale", lambda scale: np.float32(1e6)),
        "no normal number in float16",
    ),
    "tensorrt: one scale a channel on an activation": (
        TENSORRT,
        several(
            set_constant("stem_relu_scale", lambda scale: np.full(16, scale, np.float32)),
            set_constant("stem_relu_zero_point", lambda zero: np.full(16, zero, np.int8)),
        ),
        "an activation has one scale, not one a channel",
    ),
    "tensorrt: weights along the wrong axis": (
        TENSORRT,
        move_axis("b1.weight_DequantizeLinear", 1),
        r"`b1` \(Conv\): its weights are quantized along axis 1, output channels are axis 0",
    ),
    "tensorrt: a convolution that reads float": (
        TENSORRT,
        rewire("a1", 0, "stem_relu"),
        r"`a1` \(Conv\): its weights are quantized but its input `stem_relu` is not",
    ),
    "tensorrt: a residual without a quantized shortcut": (
        TENSORRT,
        rewire("a_add", 1, "stem_relu"),
        r"`a_add` \(Add\): its shortcut `stem_relu` is not quantized",
    ),
    "tensorrt: an opset that its parser does not read": (TENSORRT, set_opset(21), "opset 21 is outside 13 to 20"),
    "tensorrt: an IR that its parser does not read": (TENSORRT, set_ir(10), "IR version 10 is newer than 9"),
    "tensorrt: a dynamic quantization": (TENSORRT, add_dynamic, r"`dynamic` \(DynamicQuantizeLinear\): this operator has no place"),
    "tensorrt: an operator of a foreign domain": (TENSORRT, add_foreign, "`foreign`.*domain `com.microsoft`"),
    "tensorrt: integers that nobody dequantizes": (TENSORRT, integers_to_relu, r"its integers go to `negate` \(Neg\) instead of a DequantizeLinear"),
    "onnxruntime: a bias in float": (ONNXRUNTIME, rewire("a1", 2, "plain"), r"`a1` \(Conv\): its bias is not stored as int32"),
    "onnxruntime: a bias with another scale": (ONNXRUNTIME, set_constant("a1_bias_scale", shifted), "`a1`.*not the product of the scales"),
    "onnxruntime: weights that use the smallest integer": (
        ONNXRUNTIME,
        set_constant("a1.weight_quantized", lambda weight: np.full_like(weight, -128)),
        "weights reach -128 to -128, allowed are -127 to 127",
    ),
    "onnxruntime: a zero point after ReLU that is not the minimum": (
        ONNXRUNTIME,
        set_constant("a1_relu_zero_point", lambda zero: zero + 1),
        r"`a1` \(Conv\): the zero point after its ReLU is 1; it must be 0",
    ),
    "onnxruntime: a convolution with a float output": (ONNXRUNTIME, rewire("a_add", 0, "a2"), r"`a2` \(Conv\): its output `a2` is not quantized"),
    "onnxruntime: a sum with a float input": (
        ONNXRUNTIME,
        rewire("a_add", 1, "stem_relu"),
        r"`a_add` \(Add\): its output is quantized but not all of its inputs",
    ),
    "onnxruntime: integers as a graph output": (ONNXRUNTIME, output_integers, "`stem_relu_QuantizeLinear`.*its integers reach no DequantizeLinear"),
    "qnn: a residual with a float side": (
        QNN,
        rewire("a_add", 0, "a2"),
        r"`a_add` \(Add\): it reads `a2` in float; this hardware takes no float node",
    ),
    "qnn: an output in float": (QNN, float_output, r"`logits` \(Gemm\): its output `\S+` stays in float"),
    "qnn: a float node": (
        QNN,
        add_float_node,
        r"`float_node` \(Softplus\): it reads `stem_relu_dequantized` in float|`float_node` \(Softplus\): its output",
    ),
    "qnn: a scale for each column of a product": (
        replace(QNN, per_tensor=frozenset()),
        None,
        r"`logits` \(Gemm\): its weights have 10 scales; those of a Gemm have one in this dialect",
    ),
    "qnn: a range that is too narrow": (
        QNN,
        several(set_constant("stem_relu_scale", lambda scale: np.float32(1e-7)), set_constant("a1_bias_scale", lambda scale: scale)),
        r"`stem_relu_QuantizeLinear` \(QuantizeLinear\): a range of 2.55e-05 is narrower than 0.0001",
    ),
    "qnn: a free batch": (QNN, free_batch, r"`stem` \(Conv\): the shape of `\S+` is not fixed"),
    "xnnpack: free rows": (XNNPACK, free_rows, r"`stem` \(Conv\): channels, rows and columns of `\S+` are not all fixed"),
    "xnnpack: weights in float": (
        replace(XNNPACK, weight_storage="float"),
        None,
        "`stem.weight_QuantizeLinear`.*stored in float before Q and DQ; this dialect stores integers",
    ),
    "arm: unsigned activations": (
        replace(ONNXRUNTIME, name="onnxruntime-arm"),
        None,
        "`image_QuantizeLinear`.*the type is uint8, this dialect wants int8",
    ),
    "avx2: weights of 8 bits": (replace(ONNXRUNTIME, name="onnxruntime-x86-avx2"), None, r"weights reach -\d+ to \d+, allowed are -63 to 63"),
    "tensorrt: a bias in int32": (
        replace(TENSORRT, bias="int32"),
        None,
        "`stem_bias_DequantizeLinear`.*the bias is quantized; this dialect wants it in float",
    ),
}
AS_IT_SHOULD_BE = {dialect.name: dialect for dialect in (ONNXRUNTIME, AVX2, ARM, XNNPACK, OPENVINO, TENSORRT, QNN)}


@pytest.mark.parametrize("change", [{"weight_storage": "float"}, {"bias": "int32"}], ids=str)
def test_a_form_that_runs_as_fast_is_no_fault(tmp_path: Path, change: dict[str, Any]) -> None:
    validate(lowered(residual(tmp_path / "float.onnx"), replace(OPENVINO, **change))[0], OPENVINO)


@pytest.mark.parametrize(("written", "break_it", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_and_the_node_is_named(tmp_path: Path, written: Dialect, break_it: Change | None, message: str) -> None:
    out, _ = lowered(with_one_image(residual(tmp_path / "float.onnx")), written)
    dialect = AS_IT_SHOULD_BE[written.name]
    model = onnx.load(out)
    if break_it is not None:
        validate(out, dialect)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(16, np.float32), "plain"))
        break_it(model)
        del model.graph.value_info[:]  # what was recorded of the good file
        onnx.save(model, out)
    with pytest.raises(DialectError, match=message):
        validate(out, dialect)


def test_a_float_bias_behind_a_matrix_product_is_named_where_the_dialect_wants_an_integer(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=4)
    graph.constant("weight", graph.random.normal(0, 0.2, (4, 8)))
    product = graph.op("MatMul", "linear", graph.op("Transpose", "pixels", "image", perm=[0, 2, 3, 1]), "weight")
    path = graph.write(tmp_path / "float.onnx", graph.op("Add", "sum", product, graph.constant("plain", np.ones(8))))
    out, _ = lowered(path, ONNXRUNTIME, calibrated(path, images(8, channels=4, size=4)))
    validate(out, ONNXRUNTIME)
    model = onnx.load(out)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "plain"))
    rewire("sum", 1, "plain")(model)
    onnx.save(model, out)
    with pytest.raises(DialectError, match=r"`linear` \(MatMul\): its bias is not stored as int32"):
        validate(out, ONNXRUNTIME)


def test_every_fault_is_listed_not_only_the_first(tmp_path: Path) -> None:
    out, _ = lowered(residual(tmp_path / "float.onnx"), OPENVINO)
    with pytest.raises(DialectError) as caught:
        validate(out, TENSORRT)
    lines = str(caught.value).splitlines()
    assert lines[0] == "`float.openvino.onnx` is not written in the dialect tensorrt:"
    assert any("`image_QuantizeLinear` (QuantizeLinear): the type is uint8" in line for line in lines)
    assert any("`flat_QuantizeLinear` (QuantizeLinear): the type is uint8" in line for line in lines)


def test_the_float_graph_breaks_no_grammar_and_no_dialect_takes_another_ones_residuals(tmp_path: Path) -> None:
    path = option_a(tmp_path / "float.onnx")
    for dialect in (ONNXRUNTIME, AVX2, ARM, OPENVINO, TENSORRT):
        validate(path, dialect)
    with pytest.raises(DialectError, match=r"`stem` \(Conv\): it reads `image` in float"):
        validate(with_one_image(path), QNN)
    symmetric = replace(
        ONNXRUNTIME, name="tensorrt", activation=TENSORRT.activation, weight_storage="float", bias="float", moves_integers=frozenset()
    )
    with pytest.raises(DialectError, match=r"`a_add` \(Add\): its side from `a2` is quantized: convolution and addition cannot become one kernel"):
        validate(lowered(path, symmetric)[0], TENSORRT)


def test_a_file_that_is_no_model_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(ExportError, match=r"no\.onnx"):
        validate(tmp_path / "no.onnx", TENSORRT)
