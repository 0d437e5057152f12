"""int8-dynamic: integer weights, activation ranges at run time, any batch and length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from onnx_text import graph

from kdedge.errors import ExportError
from kdedge.exporters.dynamic import quantize_columns, quantize_dynamically
from kdedge.exporters.equivalence import run
from kdedge.exporters.model_file import save_model

TEXT = """(int64[b, l] ids) => (float[b, l, 6] y) {
    e = Gather<axis = 0>(table, ids) m = MatMul(e, w) h = Add(m, bias) g = Gelu(h) s = MatMul(g, w2) q = MatMul(g, w3) y = Add(s, q)
}"""
RANDOM = np.random.default_rng(5)
CONSTANTS = {
    "table": RANDOM.standard_normal((64, 32)).astype(np.float32), "w": RANDOM.standard_normal((32, 16)).astype(np.float32) / 6,
    "bias": RANDOM.standard_normal(16).astype(np.float32), "w2": RANDOM.standard_normal((16, 6)).astype(np.float32) / 4,
    "w3": RANDOM.standard_normal((16, 6)).astype(np.float32) / 4,
}  # fmt: skip


def test_columns_are_quantized_as_on_paper() -> None:
    integers, scales = quantize_columns(np.array([[1.27, 0.0, -5.0], [-0.635, 0.0, 2.5]], np.float32))
    np.testing.assert_allclose(scales, [0.01, 1.0, 5 / 127], rtol=1e-6)
    np.testing.assert_array_equal(integers, [[127, 0, -127], [-64, 0, 64]])  # 63.5 rounds to even


@given(st_numpy.arrays(np.float32, (3, 2), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_a_weight_is_off_by_at_most_half_a_step(matrix: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    integers, scales = quantize_columns(matrix)
    assert np.all(np.abs(integers.astype(np.float64) * scales - matrix) <= 0.5001 * scales)


def test_a_text_graph_is_quantized_at_every_size(tmp_path: Path) -> None:
    model = graph(TEXT, **CONSTANTS)
    result = quantize_dynamically(model)
    assert result.nodes == ("e", "m", "s", "q")
    assert "batched with" in result.notes[0]
    save_model(result.model, tmp_path / "dynamic.onnx")
    for batch, length in ((1, 1), (3, 7), (2, 30)):
        feed = {"ids": np.random.default_rng(length).integers(0, 64, (batch, length))}
        (wanted,), (found,) = run(model, [feed]), run(result.model, [feed])
        error = np.abs(found["y"] - wanted["y"]).max() / np.abs(wanted["y"]).max()
        assert 0 < error < 0.03


def test_the_activation_of_two_layers_is_measured_once() -> None:
    operators = Counter(node.op_type for node in quantize_dynamically(graph(TEXT, **CONSTANTS)).model.graph)
    assert operators["DynamicQuantizeLinear"] == 2
    assert operators["MatMulInteger"] == 3
    assert operators["MatMul"] == operators["Gemm"] == 0


def test_onnx_runtime_fuses_each_layer_into_one_integer_kernel(tmp_path: Path) -> None:
    save_model(quantize_dynamically(graph(TEXT, **CONSTANTS)).model, tmp_path / "dynamic.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(tmp_path / "dynamic.onnx"), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    # Where two layers share one measured activation, the fused kernel takes the integers instead of measuring again.
    assert operators["DynamicQuantizeMatMul"] + operators["MatMulIntegerToFloat"] == 3


def test_a_gemm_keeps_its_bias_and_its_transposed_weight() -> None:
    weight, bias = RANDOM.standard_normal((4, 8)).astype(np.float32), RANDOM.standard_normal(4).astype(np.float32)
    model = graph("(float[b, 8] x) => (float[b, 4] y) { y = Gemm<transB = 1>(x, w, bias) }", w=weight, bias=bias)
    result = quantize_dynamically(model)
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    x = RANDOM.standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(result.model, [{"x": x}])[0]["y"], x @ weight.T + bias, atol=0.1)


def test_products_of_two_activations_stay_float() -> None:
    model = graph(
        "(float[b, 4, 4] x) => (float[b, 4, 2] y) { a = MatMul(x, x) y = MatMul(a, w) }", w=RANDOM.standard_normal((4, 2)).astype(np.float32)
    )
    result = quantize_dynamically(model)
    assert result.nodes == ("y",)
    assert "MatMul" in [node.op_type for node in result.model.graph]


def test_convolutions_stay_float_and_are_noted() -> None:
    text = "(float[b, 2, 4, 4] x) => (float[b, 3] y) { c = Conv(x, k) p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, w) }"
    model = graph(text, k=np.ones((5, 2, 3, 3), np.float32), w=np.ones((5, 3), np.float32))
    assert any("1 convolutions stay float32" in note for note in quantize_dynamically(model).notes)


def test_a_graph_without_linear_layers_is_refused() -> None:
    with pytest.raises(ExportError, match="int8-dynamic needs linear layers"):
        quantize_dynamically(graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }"))


def test_layers_and_tables_that_the_recipe_keeps_float_stay_float_and_are_named() -> None:
    result = quantize_dynamically(graph(TEXT, **CONSTANTS), ["s", "e*"])
    assert result.nodes == ("m", "q")
    assert result.notes[1:] == ("`e` (Gather) stays float: kept float by `keep_float`", "`s` (MatMul) stays float: kept float by `keep_float`")
    assert [node.name for node in result.model.graph if node.op_type == "MatMul"] == ["s"]


def test_a_pattern_that_keeps_nothing_or_everything_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"quantize\.keep_float: no node is called `fc\*`"):
        quantize_dynamically(graph(TEXT, **CONSTANTS), ["fc*"])
    with pytest.raises(ExportError, match=r"`quantize\.keep_float` leaves none of this graph's"):
        quantize_dynamically(graph(TEXT, **CONSTANTS), ["*"])
