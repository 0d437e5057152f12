"""A graph pass keeps the function, or it is undone and named."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import graph

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import run
from kdedge.exporters.passes.apply import PASSES, Applied, apply_passes
from kdedge.exporters.passes.graph_pass import GraphPass


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def applied(model: ir.Model, name: str, *shapes: tuple[int, ...], passes: dict[str, GraphPass] = PASSES) -> Applied:
    feeds = [{"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)} for shape in shapes]
    result = apply_passes(model, [name], feeds, passes)
    for feed in feeds:
        (before,), (after,) = run(model, [feed]), run(result.model, [feed])
        np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-6)
    return result


def test_a_wrong_pass_is_reverted_and_named() -> None:
    def drop_relu(model: ir.Model) -> int:
        for node in list(model.graph):
            if node.op_type == "Relu":
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                model.graph.remove(node, safe=True)
        return 1

    wrong = {"drop_relu": GraphPass("drop_relu", (13, 26), drop_relu)}
    model = graph("(float[b, 4] x) => (float[b, 4] y) { r = Relu(x) y = Neg(r) }")
    result = applied(model, "drop_relu", (2, 4), passes=wrong)
    assert result.kept == ()
    assert list(result.reverted) == ["drop_relu"]
    assert "outputs differ" in result.reverted["drop_relu"]
    assert operators(result.model) == ["Relu", "Neg"]


def test_a_pass_that_loses_an_output_is_reverted_and_named() -> None:
    def join(model: ir.Model) -> int:
        model.graph.outputs.pop()
        return 1

    model = graph("(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) { y = Relu(x) z = Neg(x) }")
    result = applied(model, "join", (2, 4), passes={"join": GraphPass("join", (13, 26), join)})
    assert result.reverted == {"join": "its outputs were `y`, `z` and became `y`"}
    assert [value.name for value in result.model.graph.outputs] == ["y", "z"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = Relu(x) z = Identity(y)", ["Relu", "Identity"]),
        ("a = Relu(x) y = Identity(a) z = Identity(a)", ["Relu", "Identity"]),
        ("y = Identity(x) z = Identity(y)", ["Identity", "Identity"]),
        ("a = Identity(x) b = Relu(a) y = Identity(b) z = Neg(b)", ["Relu", "Neg"]),
    ],
)
def test_a_value_that_is_given_out_twice_keeps_both_names(body: str, left: list[str]) -> None:
    model = graph(f"(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) {{ {body} }}")
    result = applied(model, "remove_identity", (2, 4))
    assert result.reverted == {}
    assert [value.name for value in result.model.graph.outputs] == ["y", "z"]
    assert sorted(operators(result.model)) == sorted(left)
    feed = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(run(result.model, [feed])[0]["z"], run(model, [feed])[0]["z"])


@pytest.mark.parametrize("maker", ["Reshape(x, shape)", "com.microsoft.Gelu(x)"])
def test_an_output_behind_an_identity_keeps_its_type_and_what_was_declared_of_its_shape(maker: str) -> None:
    # Nothing can be inferred of what these make: all that is known was said of the output.
    text = f"(float[b, 4] x, int64[2] shape) => (float[batch, 4] y) {{ a = {maker} y = Identity(a) }}"
    model = graph(text, opset='20, "com.microsoft" : 1')
    assert PASSES["remove_identity"].function(model) == 1
    (output,) = model.graph.outputs
    assert (output.name, output.dtype, str(output.shape)) == ("y", ir.DataType.FLOAT, "[batch,4]")


def test_a_pass_that_breaks_the_graph_is_reverted_and_named() -> None:
    def misspell(model: ir.Model) -> int:
        model.graph.node(0).op_type = "Relux"
        return 1

    result = applied(
        graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }"),
        "misspell",
        (2, 4),
        passes={"misspell": GraphPass("misspell", (13, 26), misspell)},
    )
    assert "no longer runs" in result.reverted["misspell"]
    assert operators(result.model) == ["Relu"]


def test_a_pass_that_only_works_at_one_batch_size_is_reverted() -> None:
    def bake(model: ir.Model) -> int:
        value = ir.val("baked", ir.DataType.INT64, [2], const_value=ir.tensor(np.array([2, 4], np.int64), name="baked"))
        model.graph.register_initializer(value)
        model.graph.node(0).replace_input_with(1, value)
        return 1

    model = graph("(float[b, 2, 2] x) => (float[b, 4] y) { y = Reshape(x, s) }", s=np.array([-1, 4], np.int64))
    bad = {"bake": GraphPass("bake", (13, 26), bake)}
    assert apply_passes(model, ["bake"], [{"x": np.ones((2, 2, 2), np.float32)}], bad).kept == ("bake",)
    assert list(applied(model, "bake", (2, 2, 2), (3, 2, 2), passes=bad).reverted) == ["bake"]


def test_a_pass_outside_its_opsets_does_not_run() -> None:
    def never(model: ir.Model) -> int:
        raise AssertionError("ran")

    model = graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }", opset=18)
    for opsets in ((19, 26), (7, 17)):
        result = applied(model, "never", (2, 4), passes={"never": GraphPass("never", opsets, never)})
        assert (result.kept, result.reverted) == ((), {})


def test_an_unknown_pass_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ExportError, match=r"no graph pass `fold` \(known: .*fold_constants"):
        apply_passes(graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }"), ["fold"], [])


def test_a_mean_over_space_becomes_a_global_average_pool() -> None:
    axes = np.array([-1, -2], np.int64)
    kept = graph("(float[b, 3, 4, 5] x) => (float[b, 3, 1, 1] y) { y = ReduceMean<keepdims = 1>(x, axes) }", axes=axes)
    assert operators(applied(kept, "mean_to_global_average_pool", (2, 3, 4, 5)).model) == ["GlobalAveragePool"]
    dropped = graph("(float[b, 3, 4, 5] x) => (float[b, 3] y) { y = ReduceMean<keepdims = 0>(x, axes) }", axes=axes)
    assert operators(applied(dropped, "mean_to_global_average_pool", (2, 3, 4, 5)).model) == ["GlobalAveragePool", "Flatten"]
    text = "(float[b, 3, 4, 5] x) => (float[b, 3] y) { m = ReduceMean<keepdims = 1>(x, axes) y = Reshape(m, s) }"
    reshaped = graph(text, axes=axes, s=np.array([-1, 3], np.int64))
    assert operators(applied(reshaped, "mean_to_global_average_pool", (2, 3, 4, 5), (1, 3, 4, 5)).model) == ["GlobalAveragePool", "Flatten"]
    attribute = graph("(float[b, 3, 4, 5] x) => (float[b, 3, 1, 1] y) { y = ReduceMean<axes = [2, 3]>(x) }", opset=17)
    assert operators(applied(attribute, "mean_to_global_average_pool", (2, 3, 4, 5)).model) == ["GlobalAveragePool"]


@pytest.mark.parametrize("axes", [[1, 2], [3], [2], [1]])
def test_a_mean_over_anything_else_stays(axes: list[int]) -> None:
    model = graph(
        "(float[b, 3, 4, 5] x) => (float y) { m = ReduceMean<keepdims = 1>(x, axes) y = ReduceSum<keepdims = 0>(m) }", axes=np.array(axes, np.int64)
    )
    assert applied(model, "mean_to_global_average_pool", (2, 3, 4, 5)).kept == ()


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mean_over_words_or_features_of_a_text_stays(axis: int) -> None:
    model = graph("(float[b, l, 5] x) => (float y) { m = ReduceMean(x, axes) y = ReduceSum<keepdims = 0>(m) }", axes=np.array([axis], np.int64))
    assert applied(model, "mean_to_global_average_pool", (2, 3, 5)).kept == ()


def test_a_product_and_a_bias_become_one_gemm() -> None:
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)
    for addition in ("Add(m, b)", "Add(b, m)"):
        model = graph(f"(float[n, 2] x) => (float[n, 3] y) {{ m = MatMul(x, w) y = {addition} }}", w=weight, b=bias)
        assert operators(applied(model, "gemm_from_matmul_add", (4, 2)).model) == ["Gemm"]
    deep = graph("(float[n, 7, 2] x) => (float[n, 7, 3] y) { m = MatMul(x, w) y = Add(m, b) }", w=weight, b=bias)
    assert applied(deep, "gemm_from_matmul_add", (4, 7, 2)).kept == ()
    shared = graph("(float[n, 2] x) => (float[n, 3] y) { m = MatMul(x, w) a = Add(m, b) y = Mul(a, m) }", w=weight, b=bias)
    assert applied(shared, "gemm_from_matmul_add", (4, 2)).kept == ()


SLICES = """(float[b, 2, 8, 6] x) => (float[b, 4, 4, 3] y) {
    first = Slice(x, zero, end, rows, two) second = Slice(first, zero, end, columns, two) y = Pad(second, pads)
}"""
BOUNDS = {"zero": np.array([0]), "end": np.array([2**63 - 1]), "rows": np.array([2]), "columns": np.array([3]), "two": np.array([2])}


def test_the_shortcut_without_parameters_is_one_slice_and_one_pad() -> None:
    model = graph(SLICES, **BOUNDS, pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]))
    result = applied(model, "option_a_shortcut", (2, 2, 8, 6), (5, 2, 8, 6))
    assert operators(result.model) == ["Slice", "Pad"]


def test_slices_of_one_axis_are_not_joined() -> None:
    bounds = {name: array for name, array in BOUNDS.items() if name != "columns"}
    model = graph(SLICES.replace("columns", "rows").replace("4, 4, 3", "4, 2, 6"), **bounds, pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]))
    assert applied(model, "option_a_shortcut", (2, 2, 8, 6)).kept == ()


def test_what_does_nothing_is_removed_and_outputs_keep_their_names() -> None:
    model = graph("(float[b, 4] x) => (float[b, 4] y) { i = Identity(x) c = Cast<to = 1>(i) d = Dropout(c) r = Relu(d) y = Identity(r) }")
    result = applied(model, "remove_identity", (2, 4))
    assert operators(result.model) == ["Relu"]
    assert [value.name for value in result.model.graph.outputs] == ["y"]


def test_constants_are_computed_once() -> None:
    model = graph("(float[b, 2] x) => (float[b, 3] y) { t = Transpose(w) n = Neg(t) y = MatMul(x, n) }", w=np.ones((3, 2), np.float32))
    assert operators(applied(model, "fold_constants", (2, 2)).model) == ["MatMul"]


BN = "BatchNormalization(c, s, o, m, v)"
NORMALIZED = {
    "conv": (f"(float[b, 3, 5, 5] x) => (float[b, 4, 3, 3] y) {{ c = Conv(x, w) n = {BN} y = Relu(n) }}", (4, 3, 3, 3)),
    "an epsilon of its own": (
        f"(float[b, 3, 5, 5] x) => (float[b, 4, 3, 3] y) {{ c = Conv(x, w) y = {BN} }}".replace("(c", "<epsilon = 0.3>(c"),
        (4, 3, 3, 3),
    ),
    "conv with bias": (f"(float[b, 3, 5, 5] x) => (float[b, 4, 3, 3] y) {{ c = Conv(x, w, k) y = {BN} }}", (4, 3, 3, 3)),
    "depthwise": (f"(float[b, 4, 5, 5] x) => (float[b, 4, 3, 3] y) {{ c = Conv<group = 4>(x, w) y = {BN} }}", (4, 1, 3, 3)),
    "transposed": (f"(float[b, 3, 5, 5] x) => (float[b, 4, 7, 7] y) {{ c = ConvTranspose(x, w, k) y = {BN} }}", (3, 4, 3, 3)),
    "linear": (f"(float[b, 3] x) => (float[b, 4] y) {{ c = Gemm<transB = 1>(x, w, k) y = {BN} }}", (4, 3)),
}


@pytest.mark.parametrize(("text", "shape"), NORMALIZED.values(), ids=NORMALIZED)
def test_a_batch_normalization_goes_into_the_layer_in_front(text: str, shape: tuple[int, ...]) -> None:
    model = graph(text, **normalization(), w=np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    size = tuple(value if isinstance(value, int) else 2 for value in model.graph.inputs[0].shape or ())
    result = applied(model, "fold_batch_normalization", size)
    assert "BatchNormalization" not in operators(result.model)
    assert [value.name for value in result.model.graph.outputs] == ["y"]


def test_a_normalization_that_cannot_be_folded_stays() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    shared = "(float[b, 3, 5, 5] x) => (float[b, 4, 3, 3] y) { c = Conv(x, w) n = BatchNormalization(c, s, o, m, v) y = Add(n, c) }"
    first = "(float[b, 4, 3, 3] x) => (float[b, 4, 3, 3] y) { y = BatchNormalization(x, s, o, m, v) }"
    assert applied(graph(shared, **normalization(), w=weight), "fold_batch_normalization", (2, 3, 5, 5)).kept == ()
    assert applied(graph(first, **normalization()), "fold_batch_normalization", (2, 4, 3, 3)).kept == ()


def test_two_layers_that_share_a_weight_keep_their_own_normalization() -> None:
    text = """(float[b, 4, 5, 5] x) => (float[b, 4, 1, 1] y) {
        c = Conv(x, w) n = BatchNormalization(c, s, o, m, v) d = Conv(n, w) y = BatchNormalization(d, s, m, o, v)
    }"""
    weight = np.random.default_rng(1).standard_normal((4, 4, 3, 3)).astype(np.float32)
    result = applied(graph(text, **normalization(), w=weight), "fold_batch_normalization", (2, 4, 5, 5))
    assert operators(result.model) == ["Conv", "Conv"]


def normalization() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Scale, offset, mean, variance and a bias of four channels."""
    random = np.random.default_rng(0)
    rows = {name: random.standard_normal(4).astype(np.float32) for name in ("s", "o", "m", "k")}
    return {**rows, "v": random.random(4, np.float32) + np.float32(0.5)}


@pytest.mark.parametrize(("inputs", "left"), [("x, ratio", 0), ("x, ratio, off", 0), ("x, , off", 0), ("x, zero, on", 1)])
def test_a_dropout_is_removed_unless_it_trains(inputs: str, left: int) -> None:
    constants = {
        "ratio": np.array(0.5, np.float32), "zero": np.array(0, np.float32), "off": np.array(False), "on": np.array(True),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if name in inputs}
    model = graph(f"(float[b, 4] x) => (float[b, 4] y) {{ d = Dropout({inputs}) y = Relu(d) }}", **used)
    assert operators(applied(model, "remove_identity", (2, 4)).model) == ["Dropout"] * left + ["Relu"]


def test_a_dropout_whose_mask_is_read_stays() -> None:
    model = graph("(float[b, 4] x) => (float[b, 4] y) { d, m = Dropout(x) c = Cast<to = 1>(m) y = Mul(d, c) }")
    assert "Dropout" in operators(applied(model, "remove_identity", (2, 4)).model)


@pytest.mark.parametrize(
    "call",
    [
        "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)",
        "Gemm<alpha = 0.5>(x, w, b)",
        "Gemm<beta = -3.0, transB = 1>(x, w, b)",
        "Gemm<alpha = 0.0, beta = 0.0>(x, w, b)",
        "Gemm<alpha = 4.0, beta = 2.0>(x, w)",
        "Gemm<beta = 2.0>(x, w)",
        "Gemm<alpha = 0.5, beta = 2.0, transA = 1>(x, w, b)",
    ],
)
def test_the_factors_of_a_gemm_go_into_its_constants(call: str) -> None:
    constants = {"w": np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32), "b": np.array([1, -2, 3, 0], np.float32)}
    used = {name: array for name, array in constants.items() if f"{name})" in call or f"{name}," in call}
    result = applied(graph(f"(float[4, 4] x) => (float[4, 4] y) {{ y = {call} }}", **used), "fold_gemm_factors", (4, 4))
    assert (result.kept, result.reverted) == (("fold_gemm_factors",), {})
    (gemm,) = result.model.graph
    assert not {"alpha", "beta"} & set(gemm.attributes)
    assert ("transB" in gemm.attributes, "transA" in gemm.attributes) == ("transB" in call, "transA" in call)


def test_constants_that_other_nodes_read_keep_their_numbers_when_a_gemm_folds_its_factors() -> None:
    text = "(float[4, 4] x) => (float[4, 4] y) { g = Gemm<alpha = 2.0>(x, w) m = MatMul(x, w) y = Sub(g, m) }"
    result = applied(graph(text, w=np.eye(4, dtype=np.float32)), "fold_gemm_factors", (4, 4))
    assert result.kept == ("fold_gemm_factors",)


@pytest.mark.parametrize("call", ["Gemm<alpha = 0.5>(x, x, b)", "Gemm<alpha = 0.5, beta = 2.0>(x, w, x)", "Gemm<alpha = 1.0, beta = 1.0>(x, w, b)"])
def test_a_gemm_that_computes_what_it_multiplies_or_has_no_factors_stays_as_it_is(call: str) -> None:
    constants = {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32)}
    used = {name: array for name, array in constants.items() if f" {name}" in call}
    assert applied(graph(f"(float[4, 4] x) => (float[4, 4] y) {{ y = {call} }}", **used), "fold_gemm_factors", (4, 4)).kept == ()
