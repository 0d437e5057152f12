from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import Graph, calibrated, concat, depthwise, images, lowered, residual, run

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.quantize.adaptive_rounding import Rounded, adapt_rounding, at, drawn, is_linear_in_patches, patches, round_rows
from kdedge.exporters.quantize.layers import Lowered, Onward, stream
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import RangeTable, write_table
from kdedge.exporters.quantize.tensors import write_tensors
from kdedge.exporters.quantize.wiring import load

LIMITS = (-127, 127)


def rounded(weights: Any, gram: Any, cross: Any, steps: Any = 1.0) -> Any:
    """`round_rows` of one group whose damping is too small to matter beside the gram."""
    held = np.asarray(weights, np.float64)
    return round_rows(held, np.broadcast_to(np.asarray(steps, np.float64), (len(held), 1)), np.asarray(gram, np.float64), np.asarray(cross), LIMITS)


# ---- the binary problem ----------------------------------------------------------------------------------------------------


def test_two_equal_inputs_round_one_up_and_one_down() -> None:
    # 0.4 + 0.4 = 0.8: the nearest integers 0 + 0 miss it by 0.8, one 1 by 0.2.
    found = rounded([[0.4, 0.4]], [[[1.0, 1.0], [1.0, 1.0]]], [[0.8, 0.8]])
    assert sorted(found[0].tolist()) == [0, 1]


def test_independent_inputs_keep_the_nearest_integers() -> None:
    weights = np.array([[0.4, -1.6, 2.2], [0.9, 0.1, -0.2]])
    assert rounded(weights, np.eye(3)[None], weights).tolist() == [[0, -2, 2], [1, 0, 0]]


def test_what_the_inputs_lost_is_made_up_for() -> None:
    # The integers before halved the input: only 2.6 would give the float output, and 1 or 2 are allowed for 1.3.
    assert rounded([[1.3]], [[[1.0]]], [[2.6]]).tolist() == [[2]]


def test_integers_stay_inside_the_type() -> None:
    assert rounded([[127.4, -127.4]], np.ones((1, 2, 2)), [[500.0, -500.0]]).tolist() == [[127, -127]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), groups=st.sampled_from([1, 3]), d=st.integers(1, 6))
def test_the_error_is_never_above_that_of_the_nearest_and_no_weight_has_a_better_side(seed: int, groups: int, d: int) -> None:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(groups, 50, d)) @ generator.normal(size=(groups, d, d))
    gram = np.matmul(inputs.transpose(0, 2, 1), inputs) / 50
    steps = generator.uniform(0.1, 1, (2 * groups, 1))
    weights = generator.normal(0, 2, (2 * groups, d))
    cross = np.einsum("grd,gde->gre", weights.reshape(groups, 2, d), gram).reshape(-1, d)

    def error(integers: Any) -> npt.NDArray[np.float64]:
        """Of each row, towards its float weights, with the damping that is part of the problem."""
        gap = (integers * steps - weights).reshape(groups, 2, d)
        damped = gram + 0.01 * np.einsum("gii->g", gram)[:, None, None] / d * np.eye(d)
        return np.asarray(np.einsum("grd,gde,gre->gr", gap, damped, gap).reshape(-1))

    found = round_rows(weights, steps, gram, cross, LIMITS)
    ideal = weights / steps
    assert ((found == np.floor(ideal)) | (found == np.ceil(ideal))).all()
    assert (error(found) <= error(np.rint(ideal)) + 1e-9).all()
    for place in range(d):
        other = found.copy()
        other[:, place] = (np.floor(ideal) + np.ceil(ideal))[:, place] - found[:, place]
        assert (error(found) <= error(other) + 1e-9).all()


# ---- patches ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "attributes"),
    [
        (1, {"pads": [1, 1, 1, 1]}),
        (1, {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
        (2, {"dilations": [2, 1]}),
        (4, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ],
)
def test_patches_times_weights_are_the_outputs_of_the_convolution(tmp_path: Path, group: int, attributes: dict[str, Any]) -> None:
    graph = Graph(channels=4, size=7)
    weight = graph.random.normal(size=(8, 4 // group, 3, 3))
    graph.op("Conv", "conv", "image", graph.constant("w", weight), channels=8, group=group, **attributes)
    path = graph.write(tmp_path / "g.onnx", "conv")
    inputs = images(3, channels=4, size=7)
    outputs = run(path, inputs)
    node = next(iter(load(path).graph))
    assert is_linear_in_patches(node)
    places = drawn(node, outputs, 5, np.random.default_rng(0))
    read, wanted = patches(node, inputs, places), at(node, outputs, places)
    assert read.shape == (15, 4 * 9)
    assert wanted.shape == (15, 8)
    rows = weight.reshape(group, 8 // group, -1)
    found = np.einsum("ngd,god->ngo", read.reshape(15, group, -1), rows).reshape(15, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


# ---- whole graphs ----------------------------------------------------------------------------------------------------------


def adapted(path: Path, dialect: Dialect, table: RangeTable, inputs: Any) -> tuple[Rounded, Lowered]:
    held = Lowered(load(lowered(path, dialect, table)[0]), table)
    return adapt_rounding(load(path), held, [{"image": inputs[:16]}, {"image": inputs[16:]}], dialect), held


@pytest.mark.parametrize("build", [residual, depthwise, concat])
@pytest.mark.parametrize("dialect", [ONNXRUNTIME, OPENVINO, TENSORRT], ids=lambda dialect: dialect.name)
def test_lowering_finds_the_chosen_integers_again(tmp_path: Path, build: Any, dialect: Dialect) -> None:
    path = build(tmp_path / "g.onnx")
    table = calibrated(path)
    found, changed = adapted(path, dialect, table, images(24))
    weights, ranges, out = tmp_path / "w.safetensors", tmp_path / "r.json", tmp_path / "out.onnx"
    write_tensors(found.tensors, weights)
    write_table(table, ranges)
    lower(path, ranges, dialect, out, weights)
    written = Lowered(load(out), table)
    layers = list(written.layers())
    assert layers
    for layer in layers:
        np.testing.assert_allclose(written.weight(layer), found.tensors[layer.row.name], rtol=1e-6, atol=0)
        np.testing.assert_allclose(written.weight(layer), changed.weight(layer), rtol=1e-6, atol=0)
        if layer.bias:
            np.testing.assert_allclose(written.bias(layer), found.tensors[layer.row.bias or ""], atol=5e-4)  # int32, in steps of input x weight


def test_rounding_brings_the_outputs_closer_on_examples_that_it_did_not_see(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    table = calibrated(path)
    others = images(200, seed=7)
    reference, plain = run(path, others), run(lowered(path, OPENVINO, table)[0], others)
    found, _ = adapted(path, OPENVINO, table, images(128))
    weights, out = tmp_path / "w.safetensors", tmp_path / "out.onnx"
    write_tensors(found.tensors, weights)
    lower(path, path.with_suffix(".json"), OPENVINO, out, weights)
    assert np.square(run(out, others) - reference).sum() < 0.9 * np.square(plain - reference).sum()


def test_the_same_examples_give_the_same_tensors(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    table = calibrated(path)
    first, second = (adapted(path, ONNXRUNTIME, table, images(24))[0].tensors for _ in range(2))
    assert {name: tensor.tobytes() for name, tensor in first.items()} == {name: tensor.tobytes() for name, tensor in second.items()}


@pytest.mark.parametrize("build", [residual, depthwise, concat])
@pytest.mark.parametrize("dialect", [ONNXRUNTIME, TENSORRT], ids=lambda dialect: dialect.name)
def test_going_on_from_the_layer_before_gives_the_bits_of_a_start_from_the_inputs(
    tmp_path: Path, build: Any, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / "g.onnx")
    table = calibrated(path)
    parts: list[int] = []

    def to(onward: Onward, name: str) -> Any:
        parts.append(len(onward.kept))
        inputs = [found for (found,) in stream(onward.model, [name], onward.batches)]
        for found, wanted in zip(forward(onward, name), inputs, strict=True):
            assert found.tobytes() == wanted.tobytes()
            yield found

    forward = Onward.to
    plain = adapted(path, dialect, table, images(24))[0].tensors
    monkeypatch.setattr(Onward, "to", to)
    checked = adapted(path, dialect, table, images(24))[0].tensors
    assert len(parts) > 1
    assert any(parts)
    monkeypatch.setattr(Onward, "to", lambda onward, name: (found for (found,) in stream(onward.model, [name], onward.batches)))
    from_inputs = adapted(path, dialect, table, images(24))[0].tensors
    bits = [{name: tensor.tobytes() for name, tensor in tensors.items()} for tensors in (plain, checked, from_inputs)]
    assert bits[0] == bits[1] == bits[2]


def test_weights_that_two_nodes_read_keep_their_integers_and_the_note_says_so(tmp_path: Path) -> None:
    graph = Graph(channels=4)
    first = graph.op("Relu", "r1", graph.conv("first", "image", 4))
    second = graph.op("Relu", "r2", graph.op("Conv", "second", first, "first.weight", channels=4, pads=[1, 1, 1, 1]))
    path = graph.write(tmp_path / "g.onnx", graph.conv("third", second, 4))
    found, _ = adapted(path, OPENVINO, calibrated(path, images(24, channels=4)), images(24, channels=4))
    assert set(found.tensors) == {"third.weight", "third.bias"}
    assert "2 layers keep the nearest integers (first, second)" in found.note


def test_matrix_products_and_the_row_that_is_added_are_rounded_too(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    flat = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "pool", graph.op("Relu", "relu", graph.conv("conv", "image", 32))))
    product = graph.op("MatMul", "product", flat, graph.constant("m", graph.random.normal(size=(32, 10))))
    path = graph.write(tmp_path / "g.onnx", graph.op("Add", "logits", product, graph.constant("row", graph.random.normal(size=10))))
    inputs = images(64)
    table = calibrated(path, inputs)
    found, held = adapted(path, OPENVINO, table, inputs)
    assert set(found.tensors) == {"conv.weight", "conv.bias", "m", "row"}
    layer = next(layer for layer in held.layers() if layer.row.node == "product")
    np.testing.assert_allclose(found.tensors["m"], held.weight(layer), rtol=1e-6)
