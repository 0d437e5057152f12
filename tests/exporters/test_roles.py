from __future__ import annotations

from pathlib import Path

import pytest
from small_graphs import Graph, concat, depthwise, option_a, relu6, residual

from kdedge.exporters.quantize.ranges import Activation, Residual, Structure
from kdedge.exporters.quantize.roles import analyse
from kdedge.exporters.quantize.wiring import load


def structure(path: Path) -> Structure:
    return analyse(load(path))


def activation(path: Path, name: str) -> Activation:
    return next(row for row in structure(path).activations if row.name == name)


def test_the_channel_axis_is_that_of_the_outputs(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=8)
    graph.conv("conv", "image", 8)
    graph.constant("up.weight", graph.random.normal(size=(8, 6, 2, 2)))
    graph.op("ConvTranspose", "up", "conv", "up.weight", channels=6, strides=[2, 2])
    flat = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "pool", "up"))
    graph.gemm("transposed", flat, 5)
    graph.constant("plain.weight", graph.random.normal(size=(5, 7)))
    graph.op("Gemm", "plain", "transposed", "plain.weight", channels=7)
    graph.constant("matrix.weight", graph.random.normal(size=(7, 3)))
    graph.op("MatMul", "matrix", "plain", "matrix.weight")
    found = {row.node: (row.axis, row.shape) for row in structure(graph.write(tmp_path / "axes.onnx", "matrix")).weights}
    assert found == {"conv": (0, (8, 4, 3, 3)), "up": (1, (8, 6, 2, 2)), "transposed": (0, (5, 6)), "plain": (1, (5, 7)), "matrix": (1, (7, 3))}


def test_a_node_whose_operands_cannot_be_quantized_is_no_weighted_row(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=4)
    graph.op("MatMul", "of_activations", "image", "image")
    flat = graph.op("Flatten", "flat", "of_activations")
    graph.constant("weight", graph.random.normal(size=(64, 3)))
    graph.constant("one_bias", [1.0])
    graph.op("Gemm", "doubled", flat, "weight", alpha=2.0)
    graph.op("Gemm", "one_bias_for_all", flat, "weight", "one_bias")
    assert structure(graph.write(tmp_path / "odd.onnx", "doubled", "one_bias_for_all")).weights == ()


def test_the_main_branch_is_the_longer_one_whichever_input_of_the_addition_it_is(tmp_path: Path) -> None:
    assert structure(residual(tmp_path / "r.onnx")).residuals == (Residual("a_add", "a2", "stem_relu"), Residual("b_add", "b2", "b_down"))
    assert structure(depthwise(tmp_path / "d.onnx")).residuals == (Residual("add", "project", "project0"),)


def test_of_two_branches_the_one_with_more_convolutions_is_the_main_one_however_many_other_nodes_the_other_has(tmp_path: Path) -> None:
    graph = Graph(channels=4)
    main = graph.conv("main2", graph.conv("main1", "image", 4), 4)
    last = "image"
    for number in range(4):
        last = graph.op("AveragePool", f"pool{number}", last, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph.op("Add", "sum", graph.conv("shortcut", last, 4, kernel=1), main)
    assert structure(graph.write(tmp_path / "g.onnx", "sum")).residuals == (Residual("sum", "main2", "shortcut"),)


def test_an_option_a_shortcut_is_no_main_branch_though_it_has_as_many_nodes(tmp_path: Path) -> None:
    assert structure(option_a(tmp_path / "a.onnx")).residuals == (Residual("a_add", "a2", "pad"),)


def test_an_addition_without_a_convolution_beside_it_is_no_residual(tmp_path: Path) -> None:
    graph = Graph(channels=4)
    left = graph.op("Relu", "left", graph.conv("a", "image", 4))
    graph.op("Add", "sum", left, graph.op("Relu", "right", graph.conv("b", "image", 4)))
    assert structure(graph.write(tmp_path / "g.onnx", "sum")).residuals == ()


def test_long_chains_of_residual_blocks_are_analysed_in_time(tmp_path: Path) -> None:
    graph = Graph(channels=2, size=4)
    last = "image"
    for block in range(60):  # 2^60 paths lead to the first convolution
        last = graph.op("Add", f"add{block}", graph.conv(f"conv{block}", last, 2), last)
    found = structure(graph.write(tmp_path / "deep.onnx", last)).residuals
    assert len(found) == 60
    assert found[-1] == Residual("add59", "conv59", "add58")


def test_concat_members_and_moved_values_share_a_scale(tmp_path: Path) -> None:
    rows = {row.node: row.tensors for row in structure(concat(tmp_path / "c.onnx")).shared}
    assert rows == {"pool": ("stem_relu", "pool"), "concat": ("left_relu", "right_relu", "pool", "concat"), "flat": ("pooled", "flat")}
    assert activation(tmp_path / "c.onnx", "left_relu").roles == ("concat-member", "weighted-input", "weighted-output")


@pytest.mark.parametrize(("filling", "shares"), [(None, True), (0.0, True), (0.5, False)])
def test_a_pad_shares_a_scale_only_where_it_fills_with_zero(tmp_path: Path, filling: float | None, shares: bool) -> None:
    graph = Graph(channels=4)
    inputs = [graph.conv("conv", "image", 4), graph.constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], "int64")]
    if filling is not None:
        inputs.append(graph.constant("filling", filling))
    graph.op("Pad", "pad", *inputs)
    assert bool(structure(graph.write(tmp_path / "p.onnx", "pad")).shared) is shares


def test_what_cannot_be_negative_is_known_through_what_keeps_signs(tmp_path: Path) -> None:
    graph = Graph(channels=4)
    conv = graph.conv("conv", "image", 4)
    relu = graph.op("Relu", "relu", conv)
    graph.op("MaxPool", "pool", relu, kernel_shape=[2, 2])
    graph.op("GlobalAveragePool", "mean", "pool")
    sigmoid = graph.op("Sigmoid", "sigmoid", conv)
    graph.op("Concat", "joined", relu, sigmoid, axis=1, channels=8)
    graph.op("Add", "both", relu, sigmoid)
    graph.op("Add", "mixed", relu, conv)
    graph.op("Tanh", "tanh", conv)
    relu6(graph, "clip", "mixed")
    path = graph.write(tmp_path / "s.onnx", "mean", "joined", "both", "clip", "tanh")
    found = {row.name: row.non_negative for row in structure(path).activations}
    assert {name for name, held in found.items() if held} == {"relu", "pool", "mean", "sigmoid", "joined", "both", "clip"}
    assert found["conv"] is False
    assert activation(path, "sigmoid").fixed == (0.0, 1.0)
    assert activation(path, "tanh").fixed == (-1.0, 1.0)
    assert activation(path, "relu").fixed is None


def test_what_only_feeds_a_folded_activation_is_not_in_the_table(tmp_path: Path) -> None:
    names = [row.name for row in structure(residual(tmp_path / "r.onnx")).activations]
    assert "stem" not in names
    assert "a_add" not in names
    assert "a2" in names


def test_what_is_moved_before_it_is_cut_is_in_the_table(tmp_path: Path) -> None:
    graph = Graph(channels=4)
    pooled = graph.op("MaxPool", "pool", graph.conv("conv", "image", 4), kernel_shape=[2, 2])
    path = graph.write(tmp_path / "g.onnx", graph.op("Relu", "relu", pooled))
    assert [row.name for row in structure(path).activations] == ["image", "conv", "pool", "relu"]
