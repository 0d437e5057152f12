"""A ResNet-20 for 32x32 images as ONNX with seeded random weights: what the loop benchmarks run when they are given no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10
WIDTHS = (16, 32, 64)
BLOCKS = 3


class _Graph:
    """Nodes and weights under construction."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, values: npt.NDArray[np.float64]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, source: str, channels: int, width: int, stride: int = 1, kernel: int = 3) -> str:
        scale = np.sqrt(2.0 / (channels * kernel * kernel))
        weight = self.weight(self._random.normal(0.0, scale, (width, channels, kernel, kernel)))
        bias = self.weight(np.zeros(width))
        return self.add("Conv", source, weight, bias, pads=[kernel // 2] * 4, strides=[stride, stride])

    def linear(self, source: str, features: int, output: str) -> None:
        weight = self.weight(self._random.normal(0.0, 0.1, (features, CLASSES)))
        self.add("Gemm", source, weight, self.weight(np.zeros(CLASSES)), output=output)


def write_resnet20(path: Path, seed: int = 0) -> None:
    """Write it with a dynamic batch: `image` float32 [N, 3, 32, 32] to `logits` [N, 10]."""
    graph = _Graph(seed)
    last, channels = graph.add("Relu", graph.conv("image", 3, WIDTHS[0])), WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            stride = 2 if stage and not block else 1
            inner = graph.add("Relu", graph.conv(last, channels, width, stride))
            shortcut = last if channels == width else graph.conv(last, channels, width, stride, kernel=1)
            last = graph.add("Relu", graph.add("Add", graph.conv(inner, width, width), shortcut))
            channels = width
    graph.linear(graph.add("Flatten", graph.add("GlobalAveragePool", last)), channels, "logits")
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])]
    built = helper.make_graph(graph.nodes, "resnet20", inputs, outputs, graph.weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
