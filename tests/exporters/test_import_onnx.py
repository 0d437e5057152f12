"""A student that comes as an ONNX file is checked, repaired where that is proven harmless, and else refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdedge.artifact import Dimension, ImageEncoder, ModelFiles, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import run
from kdedge.exporters.import_onnx import BATCH
from kdedge.exporters.onnx import export

WEIGHTS = np.random.default_rng(3).standard_normal((5, 48)).astype(np.float32)


def onnx_file(
    path: Path, nodes: list[Any] | None = None, batch: int | str = "N", opset: int = 20, dtype: int = TensorProto.FLOAT, **initializers: Any
) -> Path:
    """x [batch, 3, 4, 4] -> logits [batch, 5]: Flatten and Gemm, or other nodes that use W."""
    nodes = nodes or [helper.make_node("Flatten", ["x"], ["f"], name="flat"), helper.make_node("Gemm", ["f", "W"], ["logits"], name="fc", transB=1)]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in {"W": WEIGHTS, **initializers}.items()]
    infos = [helper.make_tensor_value_info("x", dtype, [batch, 3, 4, 4]), helper.make_tensor_value_info("logits", dtype, [batch, 5])]
    graph = helper.make_graph(nodes, "made in /home/somebody", infos[:1], infos[1:], held, doc_string="secret")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="somebody")
    model.metadata_props.add(key="source", value="/home/somebody/train.py")
    path.write_bytes(model.SerializeToString())
    return path


def student(path: Path, batch: int | Dimension = BATCH, **changes: Any) -> ModelFiles:
    facts: dict[str, Any] = {
        "name": "onnx:given.onnx", "factory": None, "arguments": {}, "weights": None, "onnx": path,
        "inputs": (TensorSpec("x", "float32", (batch, 3, 4, 4)),), "outputs": ("logits",), "encoder": ImageEncoder(size=(4, 4), input_name="x"),
        "classes": ("a", "b", "c", "d", "e"),
    }  # fmt: skip
    return ModelFiles(**{**facts, **changes})


def images(batch: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(batch).random((batch, 3, 4, 4), dtype=np.float32)


def test_a_given_graph_becomes_a_float_graph_without_its_makers_traces(tmp_path: Path) -> None:
    graph = export(student(onnx_file(tmp_path / "given.onnx")), None, folder=tmp_path)
    assert graph.path == tmp_path / "model.onnx"
    assert graph.outputs == (TensorSpec("logits", "float32", (BATCH, 5)),)
    assert graph.parameters == 5 * 48
    assert graph.largest_difference < 1e-5
    data = graph.path.read_bytes()
    assert b"somebody" not in data
    assert b"secret" not in data
    assert [node.name for node in onnx.load(graph.path).graph.node] == ["flat", "fc"]


@pytest.mark.parametrize("shape", [[1, 48], [1, -1], [-1, 48]])
def test_a_fixed_batch_is_made_dynamic_and_proven_equal(tmp_path: Path, shape: list[int]) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "W"], ["logits"], name="fc", transB=1),
    ]
    path = onnx_file(tmp_path / "given.onnx", nodes, batch=1, shape=np.array(shape, np.int64))
    graph = export(student(path, batch=1), None, folder=tmp_path)
    assert graph.inputs[0].shape[0] == BATCH
    (found,) = run(graph.path.read_bytes(), [{"x": images(6)}])
    np.testing.assert_allclose(found["logits"], images(6).reshape(6, 48) @ WEIGHTS.T, rtol=1e-4, atol=1e-5)


def test_a_batch_that_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "W"], ["g"], name="fc", transB=1),
        helper.make_node("Expand", ["g", "shape"], ["e"], name="baked"),
        helper.make_node("Softmax", ["e"], ["logits"], name="mixes", axis=0),
    ]
    path = onnx_file(tmp_path / "given.onnx", nodes, batch=1, shape=np.array([1, 5], np.int64))
    with pytest.raises(
        ExportError, match=r"`given.onnx` gives other outputs at batch 8 .*a batch size is baked in; export it again with a dynamic batch"
    ):
        export(student(path, batch=1), None, folder=tmp_path)


def test_an_old_opset_is_raised_and_proven_equal(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], name="mean", axes=[2], keepdims=1),
        helper.make_node("Tile", ["m", "times"], ["t"], name="tile"),
        helper.make_node("Flatten", ["t"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "W"], ["logits"], name="fc", transB=1),
    ]
    path = onnx_file(tmp_path / "given.onnx", nodes, opset=13, times=np.array([1, 1, 4, 1], np.int64))
    graph = export(student(path), None, folder=tmp_path)
    assert graph.opset == 20
    assert onnx.load(graph.path).ir_version == 9
    wanted = np.tile(images(3).mean(2, keepdims=True), (1, 1, 4, 1)).reshape(3, 48) @ WEIGHTS.T
    np.testing.assert_allclose(run(graph.path.read_bytes(), [{"x": images(3)}])[0]["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_opset_17_is_left_as_it_is(tmp_path: Path) -> None:
    assert export(student(onnx_file(tmp_path / "given.onnx", opset=17)), None, folder=tmp_path).opset == 17


def test_a_fixed_batch_and_an_old_opset_together(tmp_path: Path) -> None:
    graph = export(student(onnx_file(tmp_path / "given.onnx", batch=2, opset=13), batch=2), None, folder=tmp_path)
    assert (graph.opset, graph.inputs[0].shape[0]) == (20, BATCH)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02 no model", b"PK\x03\x04" * 100])
def test_a_file_that_is_no_onnx_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "given.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"given\.onnx` is not an ONNX file"):
        export(student(tmp_path / "given.onnx"), None, folder=tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nothing\.onnx` cannot be read: No such file"):
        export(student(tmp_path / "nothing.onnx"), None, folder=tmp_path)


def test_a_graph_that_breaks_the_specification_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["nowhere", "W"], ["logits"], name="fc", transB=1)]
    with pytest.raises(ExportError, match=r"`given\.onnx` is not a valid ONNX graph"):
        export(student(onnx_file(tmp_path / "given.onnx", nodes)), None, folder=tmp_path)


def test_a_quantized_graph_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], name="dequantize"),
        helper.make_node("Flatten", ["d"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "W"], ["logits"], name="fc", transB=1),
    ]
    with pytest.raises(ExportError, match=r"quantized already \(node `quantize` is QuantizeLinear\); give the float32 model"):
        export(student(onnx_file(tmp_path / "given.onnx", nodes, s=np.array(0.1, np.float32))), None, folder=tmp_path)


def test_a_float16_graph_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "given.onnx", dtype=TensorProto.FLOAT16, W=WEIGHTS.astype(np.float16))
    with pytest.raises(ExportError, match="`x` is FLOAT16; a student is float32"):
        export(student(path), None, folder=tmp_path)


def test_an_operator_of_one_runtime_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedGemm", ["x", "W"], ["logits"], name="fused", domain="com.microsoft"),
    ]
    path = onnx_file(tmp_path / "given.onnx", nodes)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"node `fused` is `com.microsoft.FusedGemm`"):
        export(student(path), None, folder=tmp_path)


def test_other_inputs_or_outputs_than_the_recipes_are_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "given.onnx")
    with pytest.raises(ExportError, match=r"no output `scores` \(it has: logits\)"):
        export(student(path, outputs=("scores",)), None, folder=tmp_path)
    with pytest.raises(ExportError, match="has the inputs x, the model of the recipe takes image"):
        export(student(path, inputs=(TensorSpec("image", "float32", (BATCH, 3, 4, 4)),)), None, folder=tmp_path)
    with pytest.raises(ExportError, match="has the size 4 on axis 2, the model of the recipe gives 32"):
        export(student(path, inputs=(TensorSpec("x", "float32", (BATCH, 3, 32, 4)),)), None, folder=tmp_path)
    with pytest.raises(ExportError, match="mean and std must be nodes"):
        export(student(path, normalize=((0.5,) * 3, (0.2,) * 3)), None, folder=tmp_path)


def test_weights_that_the_file_lists_as_inputs_too_are_weights(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "given.onnx", batch=1, opset=11)
    model = onnx.load(path)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [5, 48]))
    onnx.save(model, path)
    graph = export(student(path, batch=1), None, folder=tmp_path)
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert (graph.inputs[0].shape[0], graph.parameters) == (BATCH, 5 * 48)
    written = onnx.load(graph.path)
    assert [value.name for value in written.graph.input] == ["x"]
    (found,) = run(graph.path.read_bytes(), [{"x": images(6)}])
    np.testing.assert_allclose(found["logits"], images(6).reshape(6, 48) @ WEIGHTS.T, rtol=1e-4, atol=1e-5)
