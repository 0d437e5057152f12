"""int8-dynamic: integer weights, activation ranges at run time, any batch and length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from onnx_text import graph

from kdedge.errors import ExportError
from kdedge.exporters.dynamic import quantize_dynamically
from kdedge.exporters.equivalence import run
from kdedge.exporters.integer_weights import quantize_symmetric
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
    integers, scales = quantize_symmetric(np.array([[1.27, 0.0, -5.0], [-0.635, 0.0, 2.5]], np.float32), 1)
    np.testing.assert_allclose(scales, [0.01, 1.0, 5 / 127], rtol=1e-6)
    np.testing.assert_array_equal(integers, [[127, 0, -127], [-64, 0, 64]])  # 63.5 rounds to even


@given(st_numpy.arrays(np.float32, (3, 2), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_a_weight_is_off_by_at_most_half_a_step(matrix: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    integers, scales = quantize_symmetric(matrix, 1)
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


BLOCK = """(float[b, l, 32] x) => (float[b, l, 32] y) {
    n = LayerNormalization<axis = -1>(x, gamma, beta) q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv)
    t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) p = Softmax<axis = -1>(s) a = MatMul(p, v) o = MatMul(a, wo) r = Add(x, o)
    n2 = LayerNormalization<axis = -1>(r, gamma, beta) h = MatMul(n2, w1) g = Gelu(h)
    m = MatMul(g, w2) y = Add(r, m)
}"""


def test_of_a_transformer_block_the_linear_layers_are_integers_and_the_rest_is_float() -> None:
    weights = {name: RANDOM.standard_normal((32, 32)).astype(np.float32) / 6 for name in ("wq", "wk", "wv", "wo")}
    wide = {"w1": RANDOM.standard_normal((32, 64)).astype(np.float32) / 6, "w2": RANDOM.standard_normal((64, 32)).astype(np.float32) / 8}
    model = graph(BLOCK, gamma=np.ones(32, np.float32), beta=np.zeros(32, np.float32), **weights, **wide)
    result = quantize_dynamically(model)
    assert result.nodes == ("q", "k", "v", "o", "h", "m")
    operators = Counter(node.op_type for node in result.model.graph)
    # One measurement for query, key and value; attention's two products, its softmax, both normalisations and the GELU stay as they are.
    assert operators["DynamicQuantizeLinear"] == 4
    assert operators["MatMulInteger"] == 6
    assert [node.name for node in result.model.graph if node.op_type == "MatMul"] == ["s", "a"]
    assert (operators["LayerNormalization"], operators["Softmax"], operators["Gelu"]) == (2, 1, 1)
    feed = {"x": RANDOM.standard_normal((2, 7, 32)).astype(np.float32)}
    (wanted,), (found,) = run(model, [feed]), run(result.model, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=0.05 * np.abs(wanted["y"]).max())


def test_weights_that_two_layers_share_are_stored_once() -> None:
    text = "(float[b, 16] x) => (float[b, 16] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }"
    model = graph(text, w=RANDOM.standard_normal((16, 16)).astype(np.float32))
    held = [
        value.name for value in quantize_dynamically(model).model.graph.initializers.values() if value.dtype == ir.DataType.INT8 and value.shape != ()
    ]
    assert held == ["a/weight_int8"]


def test_a_table_that_is_also_the_last_layer_gives_integers_for_both_ways_to_read_it() -> None:
    text = "(int64[b, l] ids) => (float[b, 64] y) { e = Gather(table, ids) m = ReduceMean<keepdims = 0>(e, axes) y = Gemm<transB = 1>(m, table) }"
    model = graph(text, table=CONSTANTS["table"], axes=np.array([1]))
    result = quantize_dynamically(model)
    assert result.nodes == ("e", "y")
    # Rows are picked from one, columns multiplied from the other: two small copies instead of a large one.
    stored = sum(value.const_value.numpy().nbytes for value in result.model.graph.initializers.values() if value.const_value is not None)
    assert stored < 0.65 * np.asarray(CONSTANTS["table"]).nbytes
    feed = {"ids": np.array([[3, 39], [0, 3]])}
    (wanted,), (found,) = run(model, [feed]), run(result.model, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=0.03 * np.abs(wanted["y"]).max())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[4, 5, 16] x) => (float[4, 5, 8] z, float[4, 5, 8] y) { z = MatMul(x, plain) y = MatMul(x, odd) }", "its weights have 3 dimensions"),
        (
            "(float[16, 5] x) => (float[5, 8] z, float[8, 5] y) { t = Transpose(x) z = MatMul(t, plain) y = MatMul(left, x) }",
            "its weights are on the left",
        ),
        (
            "(float[b, 16] x) => (float[b, 8] z, float[b, 8] y) { z = MatMul(x, plain) y = Gemm<alpha = 0.5>(x, plain) }",
            "it scales or transposes more than its weights",
        ),
    ],
)
def test_layers_of_another_form_stay_float_and_are_named(text: str, reason: str) -> None:
    held = {"plain": (16, 8), "odd": (4, 16, 8), "left": (8, 16)}
    used = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in held.items() if name in text}
    result = quantize_dynamically(graph(text, **used))
    assert result.nodes == ("z",)
    assert f"`y` ({'Gemm' if 'Gemm' in text else 'MatMul'}) stays float: {reason}" in result.notes
