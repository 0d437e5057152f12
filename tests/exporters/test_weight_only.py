"""int8-weights: a quarter of the file, nearly the outputs, and every kind of layer that holds weights is packed on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from onnx_text import graph

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import run
from kdedge.exporters.integer_weights import quantize_symmetric
from kdedge.exporters.model_file import constant, save_model
from kdedge.exporters.tensorrt import check_with_rtx
from kdedge.exporters.weight_only import NOTE, quantize_weights
from kdedge.runtimes.onnxruntime import open_session


def random(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def packed(model: ir.Model) -> dict[str, tuple[tuple[int, ...], int]]:
    """By the name of an unpacking node: the shape of its integers and the axis of its scales, which have one a slice of it."""
    found = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and (integers := constant(node.inputs[0])) is not None:
            axis = node.attributes["axis"].as_int()
            assert integers.dtype == np.int8
            assert constant(node.inputs[1]).shape == (integers.shape[axis],)
            found[str(node.name)] = (integers.shape, axis)
    return found


def gap(model: ir.Model, other: ir.Model, feed: dict[str, Any]) -> float:
    """Largest difference of an output, relative to its scale."""
    (wanted,), (found,) = run(model, [feed]), run(other, [feed])
    return max(float(np.abs(found[name] - value).max() / np.abs(value).max()) for name, value in wanted.items())


def test_integers_and_scales_are_those_of_paper() -> None:
    integers, scales = quantize_symmetric(np.array([[1.27, -0.635], [0.0, 0.0]], np.float32), 0)
    np.testing.assert_allclose(scales, [0.01, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(integers, [[127, -64], [0, 0]])  # 63.5 rounds to even


@given(st_numpy.arrays(np.float32, (3, 2, 2), elements=st.floats(-(2.0**90), 2.0**90, width=32)), st.integers(0, 2))
def test_a_weight_is_off_by_at_most_half_a_step_of_its_channel(weight: np.ndarray[Any, np.dtype[np.float32]], axis: int) -> None:
    integers, scales = quantize_symmetric(weight, axis)
    steps = scales.reshape([-1 if place == axis else 1 for place in range(3)])
    assert np.all(np.abs(integers.astype(np.float64) * steps - weight) <= 0.5001 * steps)


# Name, text, weights, and for each unpacked weight the axis of the channels of the layer's output.
LAYERS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "Conv": ("(float[b, 8, 6, 6] x) => (float[b, 12, 4, 4] y) { y = Conv(x, w) }", {"w": random(12, 8, 3, 3)}, {"w": 0}),
    "depthwise Conv": ("(float[b, 32, 6, 6] x) => (float[b, 32, 4, 4] y) { y = Conv<group = 32>(x, w) }", {"w": random(32, 1, 3, 3)}, {"w": 0}),
    "grouped Conv": ("(float[b, 8, 6, 6] x) => (float[b, 12, 4, 4] y) { y = Conv<group = 2>(x, w) }", {"w": random(12, 4, 3, 3)}, {"w": 0}),
    "ConvTranspose": ("(float[b, 8, 4, 4] x) => (float[b, 12, 6, 6] y) { y = ConvTranspose(x, w) }", {"w": random(8, 12, 3, 3)}, {"w": 1}),
    "grouped ConvTranspose": (
        "(float[b, 8, 4, 4] x) => (float[b, 12, 6, 6] y) { y = ConvTranspose<group = 2>(x, w) }", {"w": random(8, 6, 3, 3)}, {"w": 1},
    ),
    "Gemm": ("(float[b, 16] x) => (float[b, 24] y) { y = Gemm(x, w, c) }", {"w": random(16, 24), "c": random(24)}, {"w": 1}),
    "Gemm transB": ("(float[b, 16] x) => (float[b, 24] y) { y = Gemm<transB = 1>(x, w) }", {"w": random(24, 16)}, {"w": 0}),
    "MatMul": ("(float[b, 5, 16] x) => (float[b, 5, 24] y) { y = MatMul(x, w) }", {"w": random(16, 24)}, {"w": 1}),
    "MatMul of 3 dimensions": ("(float[4, 5, 16] x) => (float[4, 5, 8] y) { y = MatMul(x, w) }", {"w": random(4, 16, 8)}, {"w": 2}),
    "MatMul from the left": ("(float[b, 16, 5] x) => (float[b, 24, 5] y) { y = MatMul(w, x) }", {"w": random(24, 16)}, {"w": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_each_kind_of_layer_is_packed_in_the_channels_of_its_output(name: str) -> None:
    text, weights, axes = LAYERS[name]
    model = graph(text, **weights)
    result = quantize_weights(model)
    assert result.nodes == ("y",)
    assert packed(result.model) == {f"{weight}/real": (weights[weight].shape, axis) for weight, axis in axes.items()}
    shape = [size if isinstance(size, int) else 3 for size in model.graph.inputs[0].shape or ()]
    feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    assert 0 < gap(model, result.model, feed) < 0.02


EMBEDDING = "(int64[b, l] ids) => (float[b, l, 16] y) { e = Gather(table, ids) y = Neg(e) }"


def test_an_embedding_stays_packed_and_unpacks_the_rows_that_are_picked() -> None:
    model = graph(EMBEDDING, table=random(40, 16))
    result = quantize_weights(model)
    operators = [(node.op_type, [value.name for value in node.inputs]) for node in result.model.graph]
    assert operators == [("Gather", ["table/int8", "ids"]), ("DequantizeLinear", ["e/int8", "table/scale"]), ("Neg", ["e"])]
    assert gap(model, result.model, {"ids": np.array([[3, 39], [0, 3]])}) < 0.01


def test_an_embedding_that_is_an_output_keeps_its_name() -> None:
    model = graph("(int64[b] ids) => (float[b, 16] y) { y = Gather(table, ids) }", table=random(40, 16))
    result = quantize_weights(model)
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    assert gap(model, result.model, {"ids": np.array([3, 39])}) < 0.01


def test_a_table_that_a_layer_multiplies_by_too_is_stored_once() -> None:
    text = "(int64[b, l] ids) => (float[b, 40] y) { e = Gather(table, ids) m = ReduceMean<keepdims = 0>(e, axes) y = Gemm<transB = 1>(m, table) }"
    model = graph(text, table=random(40, 16), axes=np.array([1]))
    result = quantize_weights(model)
    assert packed(result.model) == {"table/real": ((40, 16), 0)}
    assert result.nodes == ("e", "y")
    assert gap(model, result.model, {"ids": np.array([[3, 39], [0, 3]])}) < 0.02


def test_weights_that_two_layers_share_are_stored_once() -> None:
    text = "(float[b, 16] x) => (float[b, 16] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }"
    result = quantize_weights(graph(text, w=random(16, 16)))
    assert packed(result.model) == {"w/real": ((16, 16), 1)}


def test_small_weights_stay_float_and_are_named() -> None:
    text = "(float[b, 16] x) => (float[b, 4] y) { a = MatMul(x, w) y = MatMul(a, small) }"
    result = quantize_weights(graph(text, w=random(16, 16), small=random(16, 4)))
    assert result.nodes == ("a",)
    assert result.notes == (NOTE, "`y` (MatMul) stays float: 64 weights are too few to gain by it")


def test_what_the_recipe_keeps_float_stays_float_and_so_do_weights_that_it_shares() -> None:
    text = "(float[b, 16] x) => (float[b, 16] y) { a = MatMul(x, w) r = MatMul(a, w) y = MatMul(r, v) }"
    result = quantize_weights(graph(text, w=random(16, 16), v=random(16, 16) + 1), ["a"])
    assert result.nodes == ("y",)
    assert result.notes[1:] == (
        "`a` (MatMul) stays float: kept float by `keep_float`",
        "`r` (MatMul) stays float: it shares its weights with a node that is kept float",
    )
    with pytest.raises(ExportError, match=r"int8-weights finds no weights to quantize in this graph: .*kept float"):
        quantize_weights(graph(text, w=random(16, 16), v=random(16, 16) + 1), ["*"])


def test_a_graph_without_weights_and_an_old_opset_are_refused() -> None:
    with pytest.raises(ExportError, match="no node of it has constant weights"):
        quantize_weights(graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }"))
    with pytest.raises(ExportError, match="int8-weights needs opset 13"):
        quantize_weights(graph("(float[b, 16] x) => (float[b, 16] y) { y = MatMul(x, w) }", opset=11, w=random(16, 16)))


def test_the_file_is_a_quarter_and_onnx_runtime_multiplies_floats_at_the_speed_of_floats(tmp_path: Path) -> None:
    text = "(float[b, 64, 8, 8] x) => (float[b, 64, 8, 8] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(r, v) }"
    model = graph(text, w=random(64, 64, 3, 3) / 24, v=random(64, 64, 3, 3) / 12)
    save_model(model, tmp_path / "float.onnx")
    save_model(quantize_weights(model).model, tmp_path / "packed.onnx")
    assert (tmp_path / "packed.onnx").stat().st_size < 0.27 * (tmp_path / "float.onnx").stat().st_size
    feed = {"x": random(1, 64, 8, 8)}
    ran = {}
    for name, options in (("float", {}), ("packed", {"unpack_weights": True})):
        session = open_session([str(tmp_path / f"{name}.onnx")], {"threads": 1, **options})
        session.run(feed)
        ran[name] = [(layer.operator, layer.dtype) for layer in session.executed()]
    # Unpacked once, when the file was loaded: the same kernels run as of the float file, and no other.
    assert ran["packed"] == ran["float"]


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_tensorrt_takes_packed_weights_of_each_kind(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    text, weights, _ = LAYERS[name]
    save_model(quantize_weights(graph(text.replace("[b,", "[2,"), **weights)).model, tmp_path / "packed.onnx")
    assert check_with_rtx(tmp_path / "packed.onnx").startswith("parsed and built by tensorrt-rtx")


def test_tensorrt_refuses_packed_rows_and_takes_a_table_that_is_unpacked_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = graph(EMBEDDING.replace("[b, l", "[2, 5"), table=random(40, 16))
    save_model(quantize_weights(model).model, tmp_path / "rows.onnx")
    with pytest.raises(ExportError, match=r"Quantized constant .* is only allowed before DQ"):
        check_with_rtx(tmp_path / "rows.onnx")
    whole = quantize_weights(model, packed_tables=False)
    assert packed(whole.model) == {"table/real": ((40, 16), 1)}
    save_model(whole.model, tmp_path / "whole.onnx")
    assert check_with_rtx(tmp_path / "whole.onnx").startswith("parsed and built by tensorrt-rtx")
