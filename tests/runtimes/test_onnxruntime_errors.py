"""What ONNX Runtime says reaches a person without its codes, its source files and the paths of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.onnxruntime import open_session, said_by


def reshape(path: Path) -> Path:
    """A graph whose batch is baked into a Reshape."""
    node = helper.make_node("Reshape", ["image", "shape"], ["logits"], name="baked")
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 3])
    graph = helper.make_graph([node], "graph", inputs, outputs, [shape])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_node_that_fails_is_named_and_the_reason_given(tmp_path: Path) -> None:
    session = open_session([str(reshape(tmp_path / "model.onnx"))], {})
    with pytest.raises(Exception, match="Reshape") as caught:
        session.run({"image": np.zeros((2, 3), np.float32)})
    said = said_by(caught.value)
    assert said.startswith("Non-zero status code returned while running Reshape node. Name:'baked' Status Message: input_shape_size")
    assert said.endswith("Input shape:{2,3}, requested shape:{1,3}")


def test_a_wrong_input_and_an_error_without_words(tmp_path: Path) -> None:
    session = open_session([str(reshape(tmp_path / "model.onnx"))], {})
    with pytest.raises(Exception, match="data type") as caught:
        session.run({"image": np.zeros((1, 3))})
    assert said_by(caught.value) == "Unexpected input data type. Actual: (tensor(double)) , expected: (tensor(float))"
    assert said_by(MemoryError()) == "MemoryError"


def test_a_file_that_is_no_model_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(RuntimeFailure) as caught:
        open_session([str(tmp_path / "junk.onnx")], {})
    assert str(caught.value) == "onnxruntime cannot open junk.onnx: Protobuf parsing failed."
