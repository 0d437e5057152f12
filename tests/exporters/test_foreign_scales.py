"""Numbers at the ends of what scales can say: kept where they can be told in float32, else left float by name."""

from __future__ import annotations

import re
from pathlib import Path

import foreign_graphs as graphs
import numpy as np
import onnx
import pytest

from kdedge.exporters.foreign.quantizing import Quantized, quantize_file
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace


def quantized(model: Path, data: Path, dialect: str) -> tuple[Quantized, Path]:
    out = model.parent / "out.onnx"
    return quantize_file(model, dialect, data, out, QuantizeSection(), Workspace(model.parent / "work")), out


def chain(path: Path, first: float, second: float) -> Path:
    """Two convolutions with a ReLU between, weights times these factors."""
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["a"], "first"),
        onnx.helper.make_node("Relu", ["a"], ["r"], "relu"),
        onnx.helper.make_node("MaxPool", ["r"], ["m"], "pool", kernel_shape=[2, 2]),
        onnx.helper.make_node("Conv", ["m", "v"], ["y"], "second"),
    ]
    weights = graphs.constants(w=graphs.random(16, 3, 3, 3) * np.float32(first), v=graphs.random(16, 16, 1, 1, seed=1) * np.float32(second))
    return graphs.save(path, nodes, [graphs.described("image", ["batch", 3, 8, 8])], [graphs.described("y", None)], weights)


def test_numbers_that_no_scale_of_the_dialect_can_say_stay_float_by_name(tmp_path: Path) -> None:
    # A float16 holds nothing beyond 65,504, and the scales of the tensorrt dialect are such: 127 steps reach 8.3 million.
    result, _ = quantized(chain(tmp_path / "m.onnx", 1e8, 1e-3), graphs.images(tmp_path / "c.npz"), "tensorrt")
    assert not result.written
    reasons = {one.node: one.reason for one in result.left}
    assert "no scale of tensorrt is so large" in reasons["first"]
    assert "no scale of tensorrt is so large" in reasons["second"]
    result, _ = quantized(chain(tmp_path / "m.onnx", 1e8, 1e-3), graphs.images(tmp_path / "c.npz"), "openvino")
    assert result.integer == ("first", "second")


def sqnr_of_chain(folder: Path, first: float, second: float) -> tuple[Quantized, Path, float]:
    folder.mkdir()
    result, out = quantized(chain(folder / "m.onnx", first, second), graphs.images(folder / "c.npz"), "tensorrt")
    (distance,) = result.distances
    assert distance.sqnr is not None
    return result, out, distance.sqnr.value


# Activations beyond float16; weights whose steps float16 would flush; both; activations that it would flush.
@pytest.mark.parametrize(("first", "second"), [(1e5, 1.0), (1.0, 1e-3), (1e5, 1e-3), (1e-5, 1.0)])
def test_what_float16_cannot_hold_stays_float32_and_costs_nothing(tmp_path: Path, first: float, second: float) -> None:
    _, _, plain = sqnr_of_chain(tmp_path / "plain", 1.0, 1.0)
    result, out, scaled = sqnr_of_chain(tmp_path / "scaled", first, second)
    assert result.integer == ("first", "second")
    assert scaled > plain - 1.0
    # TensorRT finds the integers of a convolution only where its DequantizeLinear are next to it.
    makers = {node.output[0]: node.op_type for node in onnx.load(str(out)).graph.node}
    convolutions = [node for node in onnx.load(str(out)).graph.node if node.op_type == "Conv"]
    assert [[makers[name] for name in node.input] for node in convolutions] == [["DequantizeLinear"] * 2] * 2


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "openvino", "tensorrt"])
@pytest.mark.parametrize(("first", "second", "small"), [(1.0, 1e-9, "v"), (1e-9, 1.0, "w")])
def test_weights_that_no_scale_of_the_dialect_is_small_enough_for_stay_float_by_name(
    tmp_path: Path, dialect: str, first: float, second: float, small: str
) -> None:
    result, _ = quantized(chain(tmp_path / "m.onnx", first, second), graphs.images(tmp_path / "c.npz"), dialect)
    reasons = {one.node: one.reason for one in result.left}
    reason = reasons["second" if small == "v" else "first"]
    assert re.fullmatch(rf"`{small}` needs steps of \S+: no scale of {dialect} is so small \(at least 5\.96e-08\)", reason)


def test_weights_of_zeros_lose_nothing_and_are_quantized(tmp_path: Path) -> None:
    result, _ = quantized(chain(tmp_path / "m.onnx", 1.0, 0.0), graphs.images(tmp_path / "c.npz"), "tensorrt")
    assert result.integer == ("first", "second")
