"""A float16 graph says in every type what computes in which precision, and what does not fit stays float32 and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import graph

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import run
from kdedge.exporters.half import Halved, to_half
from kdedge.exporters.model_file import save_model

F16, F32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def halved(model: ir.Model, tmp_path: Path, *keep: str) -> Halved:
    """The half graph, having passed ONNX's full check (types included)."""
    result = to_half(model, keep) if keep else to_half(model)
    save_model(result.model, tmp_path / "half.onnx")
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)
    return result


def types(model: ir.Model) -> dict[str, tuple[ir.DataType | None, ...]]:
    return {str(node.name): tuple(value.dtype for value in node.outputs) for node in model.graph}


def random(*shape: int, scale: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(7).standard_normal(shape) * scale).astype(np.float32)


NET = """(float[b, 3, 8, 8] x) => (float[b, 4] y) {
    centred = Sub(x, mean) scaled = Div(centred, std) c = Conv<pads = [1, 1, 1, 1]>(scaled, w, bias) r = Relu(c)
    p = GlobalAveragePool(r) y = Flatten(p)
}"""
NET_CONSTANTS = {
    "mean": np.full((1, 3, 1, 1), 0.45, np.float32),
    "std": np.full((1, 3, 1, 1), 0.22, np.float32),
    "w": random(4, 3, 3, 3),
    "bias": random(4),
}


def test_the_graph_keeps_its_interface_and_its_normalisation_in_float32(tmp_path: Path) -> None:
    model = graph(NET, **NET_CONSTANTS)
    half = halved(model, tmp_path).model
    assert [(value.name, value.dtype) for value in (*half.graph.inputs, *half.graph.outputs)] == [("x", F32), ("y", F32)]
    assert types(half) == {
        "centred": (F32,), "scaled": (F32,), "scaled/to_half": (F16,), "c": (F16,), "r": (F16,), "p": (F16,), "y": (F16,), "y/to_float": (F32,),
    }  # fmt: skip
    images = np.random.default_rng(0).random((5, 3, 8, 8), dtype=np.float32)
    (wanted,), (found,) = run(model, [{"x": images}]), run(half, [{"x": images}])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=2e-3 * np.abs(wanted["y"]).max())
    assert not np.array_equal(found["y"], wanted["y"])


def test_weights_take_half_the_bytes(tmp_path: Path) -> None:
    model = graph("(float[b, 300] x) => (float[b, 300] y) { y = MatMul(x, w) }", w=random(300, 300))
    save_model(model, tmp_path / "float.onnx")
    halved(model, tmp_path)
    assert (tmp_path / "half.onnx").stat().st_size < 0.51 * (tmp_path / "float.onnx").stat().st_size


def test_the_original_is_left_alone(tmp_path: Path) -> None:
    model = graph(NET, **NET_CONSTANTS)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    halved(model, tmp_path)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_constant_that_overflows_keeps_its_node_in_float32_and_is_named(tmp_path: Path) -> None:
    model = graph("(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) big = Mul(r, huge) y = Neg(big) }", huge=np.array([1e5, 1, 1, 1], np.float32))
    result = halved(model, tmp_path)
    assert result.notes == ("`big` (Mul) stays float32: its constant `huge` reaches 1e+05, more than float16's 65504",)
    assert types(result.model)["big"] == (F32,)
    assert types(result.model)["r"] == (F16,)


def test_an_epsilon_keeps_its_node_in_float32_and_small_weights_do_not(tmp_path: Path) -> None:
    weights = np.array([1, 1e-9, 0, -2], np.float32)
    text = "(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) safe = Add(r, epsilon) y = Mul(safe, weights) }"
    result = halved(graph(text, epsilon=np.array(1e-12, np.float32), weights=weights), tmp_path)
    assert len(result.notes) == 1
    assert result.notes[0].startswith("`safe` (Add) stays float32: its constant `epsilon` is as small as 1e-12")
    assert types(result.model)["y"] == (F16,)


def test_sums_and_exponentials_stay_float32_unless_told_otherwise(tmp_path: Path) -> None:
    model = graph("(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) s = Softmax(r) y = Neg(s) }")
    assert types(halved(model, tmp_path).model)["s"] == (F32,)
    assert types(halved(model, tmp_path, "Relu").model) == {"r": (F32,), "r/to_half": (F16,), "s": (F16,), "y": (F16,), "y/to_float": (F32,)}
    assert types(halved(model, tmp_path, "r*", "y").model)["y"] == (F32,)


def test_a_mean_over_many_values_keeps_its_sum_out_of_float16(tmp_path: Path) -> None:
    # The sum, 81920, is more than float16 holds; the mean is not.
    model = graph(
        "(float[b, 2, 64, 64] x) => (float[b, 2, 1, 1] y) { r = Relu(x) m = ReduceMean<keepdims = 1>(r, axes) y = Neg(m) }", axes=np.array([2, 3])
    )
    half = halved(model, tmp_path).model
    assert types(half)["m"] == (F32,)
    (found,) = run(half, [{"x": np.full((1, 2, 64, 64), 20, np.float32)}])
    assert found["y"].ravel().tolist() == [-20.0, -20.0]


def test_a_large_mask_becomes_minus_infinity_and_not_a_number_nowhere(tmp_path: Path) -> None:
    text = "(float[b, 4] x, bool[b, 4] keep) => (float[b, 4] y) { bias = Where(keep, zero, lowest) a = Add(x, bias) y = Softmax(a) }"
    model = graph(text, zero=np.zeros((), np.float32), lowest=np.array(np.finfo(np.float32).min, np.float32))
    result = halved(model, tmp_path)
    feed: dict[str, Any] = {"x": random(1, 4), "keep": np.array([[True, True, False, False]])}
    (wanted,), (found,) = run(model, [feed]), run(result.model, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=1e-3)


def test_operators_that_onnx_defines_for_float32_only_are_fed_float32(tmp_path: Path) -> None:
    model = graph("(float[b, 2, 4, 4] x) => (float[b, 2, 8, 8] y) { r = Relu(x) y = Resize(r, , scales) }", scales=np.array([1, 1, 2, 2], np.float32))
    half = halved(model, tmp_path).model
    resize = next(node for node in half.graph if node.op_type == "Resize")
    assert [None if value is None else value.dtype for value in resize.inputs] == [F16, None, F32]


def test_casts_and_filled_tensors_change_their_type_too(tmp_path: Path) -> None:
    text = "(float[b, 4] x, int64[b, 4] n) => (float[b, 4] y) { s = Shape(x) f = ConstantOfShape(s) c = Cast<to = 1>(n) t = Add(c, f) y = Mul(x, t) }"
    model = graph(text)
    half = halved(model, tmp_path).model
    assert {types(half)[name] for name in ("f", "c", "t", "y")} == {(F16,)}
    feed: dict[str, Any] = {"x": random(2, 4), "n": np.arange(8).reshape(2, 4)}
    np.testing.assert_allclose(run(half, [feed])[0]["y"], run(model, [feed])[0]["y"], atol=1e-2)


QDQ = """(float[b, 16, 6, 6] x) => (float[b, 16, 6, 6] y) {
    centred = Sub(x, mean) q = QuantizeLinear(centred, s, z) d = DequantizeLinear(q, s, z)
    wq = QuantizeLinear<axis = 0>(w, ws, wz) wd = DequantizeLinear<axis = 0>(wq, ws, wz) c = Conv<pads = [1, 1, 1, 1]>(d, wd) y = Relu(c)
}"""


def qdq(scale: float = 0.02, opset: int = 20) -> ir.Model:
    weights = random(16, 16, 3, 3, scale=0.1)
    scales = (np.abs(weights).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    weights = np.rint(weights / scales[:, None, None, None]) * scales[:, None, None, None]  # as lowering leaves them
    constants = {
        "mean": np.full((1, 16, 1, 1), 0.5, np.float32), "s": np.array(scale, np.float32), "z": np.zeros((), np.int8),
        "w": weights, "ws": scales, "wz": np.zeros(16, np.int8),
    }  # fmt: skip
    return graph(QDQ, opset, **constants)


def test_a_quantized_graph_gets_half_scales_and_the_same_integers(tmp_path: Path) -> None:
    model = qdq()
    half = halved(model, tmp_path).model
    # The input is quantized from float32 as it is; everything from there on is float16.
    assert [value.dtype for value in node(half, "q").inputs] == [F32, F32, ir.DataType.INT8]
    assert types(half)["d"] == types(half)["wd"] == types(half)["c"] == types(half)["y"] == (F16,)
    assert [value.dtype for value in node(half, "wq").inputs] == [F16, F16, ir.DataType.INT8]
    for probe in (model, half):
        probe.graph.outputs.extend([node(probe, "q").outputs[0], node(probe, "wq").outputs[0]])
    feed = {"x": np.random.default_rng(0).random((2, 16, 6, 6), dtype=np.float32)}
    (wanted,), (found,) = run(model, [feed], ["y", "q", "wq"]), run(half, [feed], ["y", "q", "wq"])
    np.testing.assert_array_equal(found["q"], wanted["q"])
    np.testing.assert_array_equal(found["wq"], wanted["wq"])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=2e-3 * np.abs(wanted["y"]).max())


def node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def test_a_scale_that_float16_would_flush_to_zero_stays_float32(tmp_path: Path) -> None:
    result = halved(qdq(scale=1e-6), tmp_path)
    assert result.notes[0].startswith("`d` (DequantizeLinear) stays float32: its constant `s` is as small as 1e-06")
    assert types(result.model)["d"] == (F32,)
    assert result.notes[1:] == ("`c` (Conv) stays float32: it computes on the integers of `d`, which does",)


def test_nothing_stands_between_integers_and_what_computes_on_them_in_float32(tmp_path: Path) -> None:
    model = qdq()
    kept = halved(model, tmp_path, "c").model
    reads = node(kept, "c").inputs
    assert [value.dtype for value in reads] == [F32, F32]
    assert [value.producer().op_type for value in reads] == ["DequantizeLinear"] * 2
    assert [one.op_type for one in kept.graph].count("DequantizeLinear") == 2  # those in float16 had no other reader
    feed = {"x": np.random.default_rng(0).random((2, 16, 6, 6), dtype=np.float32)}
    (wanted,), (found,) = run(model, [feed]), run(kept, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=2e-3 * np.abs(wanted["y"]).max())


def test_numbers_that_float16_would_flush_on_an_example_stay_float32(tmp_path: Path) -> None:
    text = "(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) small = Mul(r, k) n = Neg(small) y = Div(n, k) }"
    model = graph(text, k=np.array(2.0**-13, np.float32))
    feed = {"x": np.full((1, 4), 2.0**-6, np.float32)}
    seen = to_half(model, feeds=[feed])
    assert {name: kinds[0] for name, kinds in types(seen.model).items() if "/" not in name} == {"r": F16, "small": F32, "n": F32, "y": F32}
    assert seen.notes[0] == "`small` (Mul) stays float32: `small` reached 1.91e-06, below float16's normal numbers (6.1e-05)"
    np.testing.assert_array_equal(run(seen.model, [feed])[0]["y"], np.full((1, 4), -(2.0**-6)))
    assert to_half(model, feeds=[{"x": np.zeros((1, 4), np.float32)}]).notes == ()  # zeros are held


def test_one_small_scale_among_those_of_the_channels_is_enough(tmp_path: Path) -> None:
    model = graph("(int8[b, 2] x) => (float[b, 2] y) { d = DequantizeLinear<axis = 1>(x, s) y = Neg(d) }", s=np.array([0.5, 1e-6], np.float32))
    assert types(halved(model, tmp_path).model)["d"] == (F32,)
    model = graph("(int8[b, 2] x) => (float[b, 2] y) { d = DequantizeLinear<axis = 1>(x, s) y = Neg(d) }", s=np.array([0.5, 0.25], np.float32))
    assert types(halved(model, tmp_path).model)["d"] == (F16,)


def test_half_scales_below_opset_19_are_refused() -> None:
    with pytest.raises(ExportError, match="float16 scales of Q/DQ need opset 19, the graph has 18"):
        to_half(qdq(opset=18))


def test_a_subgraph_is_refused() -> None:
    text = """(float[b, 4] x, bool c) => (float[b, 4] y) {
        y = If(c) <then_branch = t () => (float[b, 4] p) { p = Relu(x) }, else_branch = e () => (float[b, 4] n) { n = Neg(x) }>
    }"""
    with pytest.raises(ExportError, match=r"`y` \(If\) holds a subgraph"):
        to_half(graph(text))


@settings(max_examples=40, deadline=None)
@given(
    operators=st.lists(
        st.sampled_from(["Relu(v)", "Neg(v)", "Mul(v, k)", "Add(v, x)", "Softmax(v)", "Exp(v)", "Identity(v)", "Max(v, x)"]), min_size=1, max_size=6
    ),
    keep=st.sets(st.sampled_from(["Relu", "Neg", "Mul", "Add", "Softmax", "Max"])),
)
def test_any_chain_is_well_typed_whatever_stays_float32(operators: list[str], keep: set[str]) -> None:
    lines, current = [], "x"
    for place, operator in enumerate(operators):
        name = "y" if place == len(operators) - 1 else f"v{place}"
        lines.append(f"{name} = {operator.replace('v', current)}")
        current = name
    constants = {"k": np.full(4, 0.5, np.float32)} if any("k" in operator for operator in operators) else {}
    model = graph(f"(float[b, 4] x) => (float[b, 4] y) {{ {' '.join(lines)} }}", **constants)
    half = to_half(model, keep).model
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    for each in half.graph:
        read = {value.dtype for value in each.inputs if value is not None}
        assert len(read) == 1, each
        assert each.op_type == "Cast" or each.outputs[0].dtype in read
    feed = {"x": random(3, 4)}
    (wanted,), (found,) = run(model, [feed]), run(half, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=2e-2, atol=2e-2)


def test_an_output_that_a_float32_node_reads_too_is_cast_once(tmp_path: Path) -> None:
    text = "(float[b, 4] x) => (float[b, 4] h, float[b, 4] y) { r = Relu(x) h = MatMul(r, w) y = Softmax(h) }"
    model = graph(text, w=random(4, 4))
    half = halved(model, tmp_path).model
    assert [(value.name, value.dtype) for value in half.graph.outputs] == [("h", F32), ("y", F32)]
    assert [node.op_type for node in half.graph].count("Cast") == 2  # x to half, h to float
    feed = {"x": np.random.default_rng(0).random((5, 4), dtype=np.float32)}
    (wanted,), (found,) = run(model, [feed]), run(half, [feed])
    for name in ("h", "y"):
        np.testing.assert_allclose(found[name], wanted[name], atol=5e-3)


def test_numbers_that_overflow_on_an_example_stay_float32_until_they_are_small_again(tmp_path: Path) -> None:
    text = "(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) a = Mul(r, k) big = Mul(a, k) n = Neg(big) s = Div(n, k) y = Div(s, k) }"
    model = graph(text, k=np.array(400, np.float32))
    feed = {"x": np.full((1, 4), 2, np.float32)}
    plain, seen = to_half(model), to_half(model, feeds=[feed])
    assert plain.notes == ()
    assert {name: kinds[0] for name, kinds in types(seen.model).items() if "/" not in name} == {
        "r": F16, "a": F16, "big": F32, "n": F32, "s": F32, "y": F16,
    }  # fmt: skip
    assert seen.notes == (
        "`big` (Mul) stays float32: `big` reached 3.2e+05, more than float16's 65504",
        "`n` (Neg) stays float32: `big` reached 3.2e+05, more than float16's 65504",
        "`s` (Div) stays float32: `n` reached 3.2e+05, more than float16's 65504",
    )
    np.testing.assert_allclose(run(seen.model, [feed])[0]["y"], -2, rtol=1e-3)


def test_a_mask_that_stands_for_infinity_keeps_nothing_in_float32() -> None:
    text = "(float[b, 4] x, float[b, 4] m) => (float[b, 4] y) { r = Relu(x) a = Add(r, m) y = Softmax(a) }"
    feed = {"x": random(1, 4), "m": np.array([[0, 0, np.finfo(np.float32).min, np.finfo(np.float32).min]], np.float32)}
    half = to_half(graph(text), feeds=[feed])
    assert half.notes == ()
    assert types(half.model)["a"] == (F16,)


# What float16 graphs of students hold, as the names that TensorRT's parser must take in them.
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LayerNorm": (
        "(float[2, 5, 16] x) => (float[2, 5, 16] y) { r = MatMul(x, w) n = LayerNormalization<axis = -1>(r, g, c) y = MatMul(n, w) }",
        {"w": random(16, 16), "g": np.ones(16, np.float32), "c": np.zeros(16, np.float32)},
    ),
    "attention with Softmax": (
        "(float[2, 5, 16] x) => (float[2, 5, 16] y) { q = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(q) s = MatMul(q, t) p = Softmax(s)"
        " y = MatMul(p, q) }",
        {"w": random(16, 16)},
    ),
    "GELU": ("(float[2, 16] x) => (float[2, 16] y) { h = MatMul(x, w) g = Gelu(h) y = MatMul(g, w) }", {"w": random(16, 16)}),
    "SiLU": (
        "(float[1, 8, 6, 6] x) => (float[1, 8, 4, 4] y) { c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s) }", {"w": random(8, 8, 3, 3)},
    ),
    "HardSwish": ("(float[1, 8, 6, 6] x) => (float[1, 8, 4, 4] y) { c = Conv(x, w) y = HardSwish(c) }", {"w": random(8, 8, 3, 3)}),
    "Resize and Concat": (
        "(float[1, 8, 6, 6] x) => (float[1, 16, 12, 12] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Resize<mode = \"nearest\">(c, , k)"
        " y = Concat<axis = 1>(r, r) }",
        {"w": random(8, 8, 3, 3), "k": np.array([1, 1, 2, 2], np.float32)},
    ),
    "ConvTranspose": (
        "(float[1, 8, 6, 6] x) => (float[1, 8, 8, 8] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) y = ConvTranspose(c, w) }", {"w": random(8, 8, 3, 3)},
    ),
    "depthwise and grouped Conv": (
        "(float[1, 16, 6, 6] x) => (float[1, 16, 2, 2] y) { c = Conv<group = 16>(x, d) y = Conv<group = 2>(c, w) }",
        {"d": random(16, 1, 3, 3), "w": random(16, 8, 3, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("part", sorted(PARTS))
def test_tensorrt_takes_the_float16_form_of_each_part(part: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from kdedge.exporters.tensorrt import check_with_rtx

    text, constants = PARTS[part]
    model = graph(text, **constants)
    half = halved(model, tmp_path).model
    assert F16 in {kind for kinds in types(half).values() for kind in kinds}
    feed = {"x": np.random.default_rng(0).standard_normal([int(size) for size in model.graph.inputs[0].shape or ()]).astype(np.float32)}
    (wanted,), (found,) = run(model, [feed]), run(half, [feed])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=5e-3 * np.abs(wanted["y"]).max())
    assert check_with_rtx(tmp_path / "half.onnx").endswith("no precision changed")


def test_tensorrt_takes_float16_after_q_and_dq_at_the_lowest_opset_that_allows_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from kdedge.exporters.shapes import fix_shapes
    from kdedge.exporters.tensorrt import check_with_rtx

    half = to_half(fix_shapes(qdq(opset=19), {"b": 1})).model
    save_model(half, tmp_path / "half.onnx")
    assert onnx.load(tmp_path / "half.onnx").opset_import[0].version == 19
    # It says that it takes the scales as float32 inside of its kernels: exact, every float16 is one.
    assert "for SM86, no precision changed" in check_with_rtx(tmp_path / "half.onnx")
