"""What one call of a graph has to multiply and to move, counted by hand for small graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import Graph, calibrated, lowered

from kdedge.artifact import Artifact, AskedNode, Dimension, GraphFile, ImageEncoder, Lineage, TensorSpec
from kdedge.exporters.dialects.openvino import DIALECT
from kdedge.exporters.quantize.wiring import load
from kdedge.exporters.work import is_sparse, work_of, work_of_graph
from kdedge.latency.work import Layer, Work
from kdedge.workspace import Workspace


def two_convolutions(path: Path) -> Path:
    """3x3 with stride 1, 3 to 32 channels; then depthwise 3x3 with stride 2; then Gemm from 32 to 10. Input 3x16x16."""
    graph = Graph(channels=3, size=16)
    wide = graph.conv("wide", "image", 32)
    return graph.write(path, graph.head(graph.conv("deep", wide, 32, stride=2, group=32)))


def by_name(work: Work) -> dict[str, Layer]:
    return {layer.name: layer for layer in work.layers}


def test_a_graph_is_counted_layer_by_layer(tmp_path: Path) -> None:
    work = work_of_graph(load(two_convolutions(tmp_path / "g.onnx")), {"N": 2})
    wide, deep, gemm = (by_name(work)[name] for name in ("wide", "deep", "logits"))
    assert (wide.macs, wide.kernel, wide.depthwise) == (2 * 32 * 256 * 3 * 9, (3, 3), False)
    assert (wide.weights, wide.stored_bytes, wide.values) == (32 * 3 * 9, 4 * 32 * 3 * 9, 2 * (3 + 32) * 256)
    assert (deep.macs, deep.kernel, deep.depthwise) == (2 * 32 * 64 * 9, (), True)  # a stride: Winograd spares nothing
    assert (gemm.macs, gemm.kernel, gemm.weights) == (2 * 10 * 32, (), 320)
    assert (work.input_bytes, work.output_bytes) == (2 * 3 * 256 * 4, 2 * 10 * 4)
    assert {layer.precision for layer in work.layers} == {"fp32"}


def test_a_quantized_graph_holds_a_byte_a_weight(tmp_path: Path) -> None:
    model = two_convolutions(tmp_path / "g.onnx")
    quantized = lowered(model, DIALECT, calibrated(model))[0]
    before, after = (by_name(work_of_graph(load(file), {"N": 1})) for file in (model, quantized))
    assert after["wide"].precision == "int8"
    assert (after["wide"].weights, after["wide"].stored_bytes) == (before["wide"].weights, before["wide"].weights)
    assert {name: (layer.macs, layer.kernel) for name, layer in after.items()} == {name: (layer.macs, layer.kernel) for name, layer in before.items()}


def test_weights_of_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    graph = Graph()
    graph.constants.append(onnx.helper.make_tensor("w", onnx.TensorProto.INT4, (16, 10), np.arange(160) % 8))
    weight = graph.op("DequantizeLinear", "weight", "w", graph.constant("scale", 0.1))
    pooled = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "pooled", "image"))
    file = graph.write(tmp_path / "g.onnx", graph.op("MatMul", "product", pooled, weight), opset=21)
    (layer,) = work_of_graph(load(file), {"N": 1}).layers
    assert (layer.weights, layer.stored_bytes) == (160, 80)


def test_weights_that_two_layers_share_are_counted_once(tmp_path: Path) -> None:
    graph = Graph()
    first = graph.conv("a", "image", 16, bias=False)
    second = graph.op("Conv", "b", first, "a.weight", channels=16, pads=[1] * 4)
    work = by_name(work_of_graph(load(graph.write(tmp_path / "g.onnx", second)), {"N": 1}))
    assert (work["a"].weights, work["b"].weights) == (16 * 16 * 9, 0)
    assert work["a"].macs == work["b"].macs


def test_a_batch_multiplies_work_and_no_weights(tmp_path: Path) -> None:
    model = load(two_convolutions(tmp_path / "g.onnx"))
    one, eight = (work_of_graph(model, {"N": size}) for size in (1, 8))
    assert eight.macs == 8 * one.macs
    assert eight.input_bytes == 8 * one.input_bytes
    assert [layer.stored_bytes for layer in eight.layers] == [layer.stored_bytes for layer in one.layers]


@pytest.mark.parametrize(
    ("operator", "size", "attributes", "share"),
    [
        ("Conv", 4, {"pads": [1] * 4}, (10 / 12) ** 2),  # along an axis 2 + 3 + 3 + 2 of 12 products
        ("Conv", 1, {"pads": [1] * 4}, 1 / 9),
        ("Conv", 4, {}, 1.0),
        ("Conv", 4, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (5 / 6) ** 2),  # one behind: 3 + 2 of 6
        ("Conv", 4, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (5 / 6) ** 2),
        ("Conv", 3, {"pads": [2] * 4, "dilations": [2, 2]}, (5 / 9) ** 2),  # 2 + 1 + 2 of 9
        ("ConvTranspose", 2, {"pads": [1] * 4}, (4 / 6) ** 2),  # two places of the input reach 4 results each way of 3, cut to 2
    ],
)
def test_which_products_meet_no_padding(operator: str, size: int, attributes: dict[str, Any], share: float, tmp_path: Path) -> None:
    graph = Graph(channels=2, size=size)
    graph.constant("w", np.ones((2, 2, 3, 3)))
    (layer,) = work_of_graph(load(graph.write(tmp_path / "g.onnx", graph.op(operator, "c", "image", "w", channels=2, **attributes))), {"N": 1}).layers
    assert layer.unpadded == pytest.approx(share)


def test_a_precision_that_is_given_takes_the_place_of_the_files(tmp_path: Path) -> None:
    work = by_name(work_of_graph(load(two_convolutions(tmp_path / "g.onnx")), {"N": 1}, {"wide": "fp16"}))
    assert (work["wide"].precision, work["deep"].precision) == ("fp16", "fp32")


@pytest.mark.parametrize(
    ("row", "sparse"),
    [([1, 0, 2, 0, 0, 0, 3, 4], True), ([1, 2, 3, 0, 0, 0, 0, 0], False), ([0, 0, 0, 0], True), ([1, 0], False), ([1, 1, 0, 0, 5], True)],
)
def test_two_of_four_neighbours_at_most_are_not_zero_in_sparse_weights(row: list[int], sparse: bool) -> None:
    weights = np.array(row, np.float32).reshape(1, -1, 1, 1)
    assert is_sparse(weights, 1) is sparse
    assert is_sparse(weights.reshape(1, -1), 1) is sparse


def test_sparse_weights_are_seen_in_the_graph(tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "g.onnx")
    proto = onnx.load(path)
    (weight,) = [item for item in proto.graph.initializer if item.name == "logits.weight"]  # [10, 32], summed along the second axis (transB)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, ::2] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    layers = by_name(work_of_graph(ir.from_proto(proto), {"N": 1}))
    assert [layers[name].sparse for name in ("wide", "deep", "logits")] == [False, False, True]


# ---- artifacts -------------------------------------------------------------------------------------------------------------


def artifact(path: Path, kind: str, asked: tuple[AskedNode, ...]) -> Artifact:
    """An artifact at batch 2, of which only what is counted matters."""
    batch = Dimension("N", 1, 2, 8)
    graph = GraphFile("main", (path,), (TensorSpec("image", "float32", (batch, 3, 16, 16)),), (TensorSpec("logits", "float32", (batch, 10)),))
    lineage = Lineage("r", "t", "s", "", "")
    return Artifact("onnxruntime-x86", "fp32", kind, "onnxruntime", "d", (graph,), "", 1, {}, ImageEncoder((16, 16)), (), lineage, asked=asked)


def test_an_onnx_artifact_is_counted_from_its_file_in_the_precision_that_was_asked(tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "g.onnx")
    work = work_of(artifact(path, "onnx", (AskedNode("wide", "Conv", "bf16", 1, ("wide",)),)))
    assert (by_name(work)["wide"].macs, by_name(work)["wide"].precision) == (2 * 32 * 256 * 3 * 9, "bf16")
    assert work.input_bytes == 2 * 3 * 256 * 4


def test_of_other_formats_kernels_and_weights_are_not_known(tmp_path: Path) -> None:
    work = work_of(artifact(tmp_path / "absent.xml", "openvino", (AskedNode("wide", "Conv", "int8", 100, ("wide",)),)))
    assert work == Work((Layer("wide", "Conv", "int8", 100, kernel=None),), 2 * 3 * 256 * 4, 2 * 10 * 4)


def test_it_is_a_stage_whose_result_comes_back_from_the_cache(tmp_path: Path) -> None:
    made = artifact(two_convolutions(tmp_path / "g.onnx"), "onnx", ())
    workspace = Workspace(tmp_path / "ws")
    first, again = (workspace.stage("kdedge.exporters.work:work_of", made) for _ in range(2))
    assert first == again == work_of(made)
    assert [event.cached for event in workspace.events] == [False, True]
