"""What OpenVINO executes and what NVIDIA's parser accepts of the lowered graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from executed_operators import saturates
from small_graphs import Graph, at_opset, concat, depthwise, images, lowered, option_a, residual, run, sqnr

from kdedge.exporters import model_file
from kdedge.exporters.dialects.openvino import AVX2 as OPENVINO_AVX2
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.half import to_half
from kdedge.exporters.opset import raise_opset
from kdedge.exporters.tensorrt import check_with_rtx

GRAPHS = {residual: 6, option_a: 4, depthwise: 6, concat: 4}
PROFILES = {"profiles": {"image": [[1, 3, 16, 16], [1, 3, 16, 16], [4, 3, 16, 16]]}}


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize(("graph", "convolutions"), GRAPHS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_openvino_runs_every_convolution_in_8_bits(tmp_path: Path, graph, convolutions: int, opset: int) -> None:  # type: ignore[no-untyped-def]
    openvino = pytest.importorskip("openvino")
    path = at_opset(graph(tmp_path / "float.onnx"), opset)
    # Without VNNI 8-bit weights saturate its sums, which is what the other dialect is for.
    out, _ = lowered(path, OPENVINO_AVX2 if saturates() else OPENVINO)
    core = openvino.Core()
    model = core.read_model(out)
    model.reshape([1, 3, 16, 16])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    found = [info["runtimePrecision"].astype(str) for info in executed if info["layerType"].astype(str) == "Convolution"]
    assert found in (["u8"] * convolutions, ["i8"] * convolutions)
    inputs = images(1, seed=9)
    assert sqnr(run(path, inputs), compiled(inputs)[0]) > 30.0


def test_openvino_pools_in_8_bits_between_convolutions(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", 16))
    pooled = graph.op("MaxPool", "pool", stem, kernel_shape=[2, 2], strides=[2, 2])
    out, _ = lowered(graph.write(tmp_path / "float.onnx", graph.conv("last", pooled, 16)), OPENVINO)
    model = openvino.Core().read_model(out)
    model.reshape([1, 3, 16, 16])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    assert [info["runtimePrecision"].astype(str) for info in executed if info["layerType"].astype(str) == "Pooling"] == ["u8"]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_tensorrt_rtx_parses_and_builds_without_changing_a_precision(tmp_path: Path, graph) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("tensorrt_rtx")
    out, _ = lowered(graph(tmp_path / "float.onnx"), TENSORRT)
    assert check_with_rtx(out, PROFILES).startswith("parsed and built by tensorrt-rtx")


def test_the_float16_form_of_a_tensorrt_file_keeps_the_grammar_and_the_results(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = option_a(tmp_path / "float.onnx")
    out, _ = lowered(path, TENSORRT)
    inputs = images(8, seed=9)
    raised = raise_opset(model_file.load_model(out), 19, [{"image": inputs}], out.name)
    half = tmp_path / "half.onnx"
    model_file.save_model(to_half(raised).model, half)
    scales = [held for held in onnx.load(half).graph.initializer if "_scale" in held.name]
    assert scales
    assert {held.data_type for held in scales} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in {held.data_type for held in scales}
    validate(half, TENSORRT)
    assert check_with_rtx(half, PROFILES).startswith("parsed and built by tensorrt-rtx")
    assert sqnr(run(out, inputs), run(half, inputs)) > 35.0


def test_openvino_gives_the_float_result_where_an_activation_stands_behind_a_pool(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = pool_before_relu(tmp_path / "float.onnx")
    out, _ = lowered(path, OPENVINO)
    compiled = openvino.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    inputs = images(4, seed=9)
    assert sqnr(run(path, inputs), compiled(inputs)[0]) > 30.0


def test_tensorrt_rtx_builds_an_activation_behind_a_pool(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    out, _ = lowered(pool_before_relu(tmp_path / "float.onnx"), TENSORRT)
    assert check_with_rtx(out, PROFILES).startswith("parsed and built by tensorrt-rtx")


def pool_before_relu(path: Path) -> Path:
    graph = Graph(channels=3)
    pooled = graph.op("MaxPool", "pool", graph.conv("stem", "image", 16), kernel_shape=[2, 2], strides=[2, 2])
    return graph.write(path, graph.conv("last", graph.op("Relu", "relu", pooled), 16))
