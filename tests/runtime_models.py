"""Small real ONNX models, inputs and interpreters that tests of runtimes and devices build for themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FAKE_RUNTIME = Path(__file__).parent / "fake_runtime.py"


def write_images(path: Path, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    images = np.random.default_rng(seed).random((count, 3, 8, 8), dtype=np.float32)
    np.save(path, images)
    return images


def write_net(path: Path, batch: int | str = "N", seed: int = 0) -> Path:
    """Two convolutions with a residual add, pooling and a linear layer: `image` [batch, 3, 8, 8] to `logits` [batch, 4]."""
    random = np.random.default_rng(seed)
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name))
        return name

    nodes = [
        helper.make_node("Conv", ["image", weight("w1", 16, 3, 3, 3), weight("b1", 16)], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", weight("w2", 16, 16, 3, 3), weight("b2", 16)], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["c2", "r1"], ["a1"], "add1"),
        helper.make_node("Relu", ["a1"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g1"], "pool1"),
        helper.make_node("Flatten", ["g1"], ["f1"], "flatten1"),
        helper.make_node("Gemm", ["f1", weight("w3", 16, 4), weight("b3", 4)], ["logits"], "linear1"),
    ]
    return save(path, nodes, weights, [batch, 3, 8, 8], "logits", [batch, 4])


def save(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], input_shape: list[Any], output: str, output_shape: list[Any]
) -> Path:
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def write_quantized(path: Path, floats: Path, signed: bool = False) -> Path:
    """ONNX Runtime's own static quantization, in its dialect for x86 (u8 activations, s8 weights) or with signed symmetric activations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self._batches = iter([{"image": random.random((4, 3, 8, 8), dtype=np.float32)} for _ in range(4)])

        def get_next(self) -> Any:
            return next(self._batches, None)

    quantize_static(
        str(floats),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if signed else {},
    )
    return path


def write_half(path: Path, floats: Path) -> Path:
    """The same graph with float16 weights and arithmetic; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(floats)), keep_io_types=True), str(path))
    return path


def write_interpreter(path: Path) -> str:
    """An executable that is this Python with one more runtime, `fake`. It takes `-m MODULE ARGUMENTS`."""
    path.write_text(
        f"""#!{sys.executable}
import importlib.util, runpy, sys
import kdedge.runtimes as runtimes
spec = importlib.util.spec_from_file_location("kdedge.runtimes.fake", {str(FAKE_RUNTIME)!r})
module = importlib.util.module_from_spec(spec)
sys.modules["kdedge.runtimes.fake"] = module
spec.loader.exec_module(module)
runtimes.ADAPTERS["fake"] = "fake"
assert sys.argv[1] == "-m", sys.argv
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
    )
    path.chmod(0o755)
    return str(path)
