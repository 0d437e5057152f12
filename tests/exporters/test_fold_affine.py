"""Mul, Add, Sub and Div by channel go into the layer before them, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_graphs as graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from kdedge.exporters.equivalence import difference, run
from kdedge.exporters.model_file import load_model
from kdedge.exporters.passes.apply import Applied, apply_passes
from kdedge.exporters.passes.graph_pass import GraphPass


def behind(path: Path, layer: str, operator: str, constant: Any, first: bool = False, **attributes: int) -> ir.Model:
    """x -> layer -> operator with a constant (on its first side where `first`) -> Relu."""
    shapes = {"Conv": (6, 4, 3, 3), "ConvTranspose": (4, 6, 3, 3), "Gemm": (4, 6)}
    shape = tuple(reversed(shapes[layer])) if attributes.get("transB") else shapes[layer]
    inputs = ["c", "l"] if first else ["l", "c"]
    nodes = [
        helper.make_node(layer, ["x", "w", "b"], ["l"], "layer", **attributes),
        helper.make_node(operator, inputs, ["a"], "after"),
        helper.make_node("Relu", ["a"], ["y"], "relu"),
    ]
    x = ["n", 4] if layer == "Gemm" else ["n", 4, 7, 7]
    weights = graphs.constants(w=graphs.random(*shape), b=graphs.random(6, seed=1), c=constant)
    return load_model(graphs.save(path, nodes, [graphs.described("x", x)], [graphs.described("y", None)], weights))


def folded(model: ir.Model) -> tuple[Applied, list[str]]:
    shape = [3, *(size for size in model.graph.inputs[0].shape[1:])]
    feed = {"x": graphs.random(*shape, seed=5)}
    applied = apply_passes(model, ["fold_affine"], [feed])
    assert applied.reverted == {}
    assert difference(run(applied.model, [feed])[0], run(model, [feed])[0])[1] < 1e-5
    return applied, [node.op_type for node in applied.model.graph]


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose", "Gemm"])
@pytest.mark.parametrize(("operator", "first"), [("Add", False), ("Add", True), ("Mul", False), ("Mul", True), ("Sub", False), ("Div", False)])
def test_a_constant_a_channel_goes_into_the_layer(tmp_path: Path, layer: str, operator: str, first: bool) -> None:
    constant = 1 + np.arange(6, dtype=np.float32).reshape((6,) if layer == "Gemm" else (1, 6, 1, 1))
    assert folded(behind(tmp_path / "m.onnx", layer, operator, constant, first))[1] == [layer, "Relu"]


def test_one_number_for_all_channels_goes_in_too_and_a_transposed_weight_has_its_channels_first(tmp_path: Path) -> None:
    assert folded(behind(tmp_path / "m.onnx", "Gemm", "Mul", 2.5, transB=1))[1] == ["Gemm", "Relu"]
    assert folded(behind(tmp_path / "m.onnx", "Conv", "Add", np.ones((1, 1, 1), np.float32)))[1] == ["Conv", "Relu"]


def test_the_new_bias_and_weights_are_the_products_on_paper(tmp_path: Path) -> None:
    model = behind(tmp_path / "m.onnx", "Gemm", "Mul", np.full(6, 2.0, np.float32))
    applied, _ = folded(model)
    held = {name: value.const_value.numpy() for name, value in applied.model.graph.initializers.items() if value.const_value is not None}
    assert np.array_equal(held["layer/folded_weight"], 2 * graphs.random(4, 6))
    assert np.array_equal(held["layer/folded_bias"], 2 * graphs.random(6, seed=1))


@pytest.mark.parametrize(
    ("operator", "constant", "first"),
    [
        ("Add", np.ones((1, 6, 5, 5), np.float32), False),  # another number for each pixel
        ("Add", np.ones((2, 1, 6, 1, 1), np.float32), False),  # more axes than the layer gives
        ("Add", np.ones((5,), np.float32), False),  # along the width
        ("Sub", np.ones((6, 1, 1), np.float32), True),  # constant - y turns the sign
        ("Div", np.ones((6, 1, 1), np.float32), True),
        ("Div", np.zeros((6, 1, 1), np.float32), False),
    ],
)
def test_what_is_no_map_by_channel_stays(tmp_path: Path, operator: str, constant: Any, first: bool) -> None:
    model = behind(tmp_path / "m.onnx", "Conv", operator, constant, first)
    candidate = model.clone()
    from kdedge.exporters.passes.fold_affine import fold_affine

    assert fold_affine(candidate) == 0


@pytest.mark.parametrize(
    ("shape", "left"), [((1, 6), ["Gemm", "Relu"]), ((), ["Gemm", "Relu"]), ((1,), ["Gemm", "Relu"]), ((3, 1), ["Gemm", "Mul", "Relu"])]
)
def test_a_bias_of_a_linear_layer_may_have_any_form_and_one_that_differs_by_row_stays(
    tmp_path: Path, shape: tuple[int, ...], left: list[str]
) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["l"], "layer"),
        helper.make_node("Mul", ["l", "c"], ["a"], "after"),
        helper.make_node("Relu", ["a"], ["y"], "relu"),
    ]
    weights = graphs.constants(w=graphs.random(4, 6), b=graphs.random(*shape, seed=1), c=graphs.random(6, seed=2))
    model = load_model(graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", ["n", 4])], [graphs.described("y", None)], weights))
    assert folded(model)[1] == left


def test_a_layer_that_others_read_too_keeps_its_weights(tmp_path: Path) -> None:
    model = behind(tmp_path / "m.onnx", "Conv", "Add", np.ones((6, 1, 1), np.float32))
    layer = next(iter(model.graph))
    model.graph.outputs.append(layer.outputs[0])
    assert folded(model)[1] == ["Conv", "Add", "Relu"]


def test_a_pass_that_fails_on_a_graph_leaves_it_as_it_was_and_says_so(tmp_path: Path) -> None:
    def fail(model: ir.Model) -> int:
        model.graph.outputs.clear()
        raise ValueError("no such thing")

    model = behind(tmp_path / "m.onnx", "Conv", "Add", np.ones((6, 1, 1), np.float32))
    feed = {"x": graphs.random(2, 4, 7, 7)}
    applied = apply_passes(model, ["failing"], [feed], {"failing": GraphPass("failing", (7, 26), fail)})
    assert applied.reverted == {"failing": "it failed on this graph: ValueError: no such thing"}
    assert [node.op_type for node in applied.model.graph] == ["Conv", "Add", "Relu"]
