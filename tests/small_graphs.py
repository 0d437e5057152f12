"""Small float ONNX graphs for the quantization tests: named after what is in them, weights from a seed, every node and tensor named in the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from kdedge.artifact import ImportPath
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.equivalence import session_of
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import LoweredReport, lower
from kdedge.exporters.quantize.ranges import RangeTable, write_table
from kdedge.recipe import QuantizeSection

Array = npt.NDArray[Any]


class Graph:
    """Nodes under construction. Each method returns the name of its output, which is the name of its node too."""

    def __init__(self, channels: int = 16, size: int = 16, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)
        self.input = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, size, size])
        self.channels: dict[str, int] = {"image": channels}

    def op(self, operator: str, name: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        self.channels[name] = self.channels.get(inputs[0], 0) if channels is None else channels
        return name

    def constant(self, name: str, values: Any, dtype: str = "float32") -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(self, name: str, source: str, width: int, kernel: int = 3, stride: int = 1, group: int = 1, bias: bool = True) -> str:
        fan = self.channels[source] // group
        inputs = [source, self.constant(f"{name}.weight", self.random.normal(0, (2 / (fan * kernel**2)) ** 0.5, (width, fan, kernel, kernel)))]
        if bias:
            inputs.append(self.constant(f"{name}.bias", self.random.normal(0, 0.1, width)))
        return self.op("Conv", name, *inputs, channels=width, pads=[kernel // 2] * 4, strides=[stride, stride], group=group)

    def gemm(self, name: str, source: str, width: int) -> str:
        weight = self.constant(f"{name}.weight", self.random.normal(0, 0.2, (width, self.channels[source])))
        return self.op("Gemm", name, source, weight, self.constant(f"{name}.bias", self.random.normal(0, 0.1, width)), channels=width, transB=1)

    def head(self, source: str, width: int = 10) -> str:
        """Global average pool, flatten, Gemm."""
        return self.gemm("logits", self.op("Flatten", "flat", self.op("GlobalAveragePool", "pooled", source)), width)

    def write(self, path: Path, *outputs: str, opset: int = 18) -> Path:
        described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        model = helper.make_model(
            helper.make_graph(self.nodes, "test", [self.input], described, self.constants),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=8,
        )
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def relu6(graph: Graph, name: str, source: str) -> str:
    if "six" not in {constant.name for constant in graph.constants}:
        graph.constant("zero", 0.0)
        graph.constant("six", 6.0)
    return graph.op("Clip", name, source, "zero", "six")


def residual(path: Path, channels: int = 16) -> Path:
    """A stem, an identity block, a block with a convolution on the shortcut, and a head."""
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", channels))
    inner = graph.op("Relu", "a1_relu", graph.conv("a1", stem, channels))
    block = graph.op("Relu", "a_relu", graph.op("Add", "a_add", graph.conv("a2", inner, channels), stem))
    inner = graph.op("Relu", "b1_relu", graph.conv("b1", block, 2 * channels, stride=2))
    wide = graph.conv("b2", inner, 2 * channels)
    bypass = graph.conv("b_down", block, 2 * channels, kernel=1, stride=2)
    graph.head(graph.op("Relu", "b_relu", graph.op("Add", "b_add", bypass, wide)))
    return graph.write(path, "logits")


def option_a(path: Path, channels: int = 16) -> Path:
    """A block whose shortcut is a strided slice with zero channels around it (two Slice nodes, as torch exports it)."""
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", channels))
    inner = graph.op("Relu", "a1_relu", graph.conv("a1", stem, 2 * channels, stride=2))
    main = graph.conv("a2", inner, 2 * channels)
    for name, values in (("start", [0]), ("end", [2**31]), ("rows", [2]), ("columns", [3]), ("two", [2])):
        graph.constant(name, values, "int64")
    rows = graph.op("Slice", "rows_slice", stem, "start", "end", "rows", "two")
    both = graph.op("Slice", "columns_slice", rows, "start", "end", "columns", "two")
    padding = graph.constant("padding", [0, channels // 2, 0, 0, 0, channels // 2, 0, 0], "int64")
    shortcut = graph.op("Pad", "pad", both, padding, channels=2 * channels)
    block = graph.op("Relu", "a_relu", graph.op("Add", "a_add", main, shortcut))
    graph.head(graph.op("Relu", "last_relu", graph.conv("last", block, 2 * channels)))
    return graph.write(path, "logits")


def depthwise(path: Path, channels: int = 16) -> Path:
    """An inverted residual with ReLU6 and a linear bottleneck that the addition reads directly."""
    graph = Graph(channels=3)
    stem = relu6(graph, "stem_clip", graph.conv("stem", "image", channels))
    low = graph.conv("project0", stem, channels, kernel=1)
    wide = relu6(graph, "expand_clip", graph.conv("expand", low, 4 * channels, kernel=1))
    deep = relu6(graph, "depthwise_clip", graph.conv("depthwise", wide, 4 * channels, group=4 * channels))
    block = graph.op("Add", "add", graph.conv("project", deep, channels, kernel=1), low)
    graph.head(relu6(graph, "last_clip", graph.conv("last", block, 4 * channels, kernel=1)))
    return graph.write(path, "logits")


def concat(path: Path, channels: int = 16) -> Path:
    """Two branches and a max pool that meet in a Concat; one branch is read by another convolution as well."""
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", channels))
    left = graph.op("Relu", "left_relu", graph.conv("left", stem, channels))
    right = graph.op("Relu", "right_relu", graph.conv("right", left, channels))
    pooled = graph.op("MaxPool", "pool", stem, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joined = graph.op("Concat", "concat", left, right, pooled, axis=1, channels=3 * channels)
    graph.head(graph.op("Relu", "last_relu", graph.conv("last", joined, channels)))
    return graph.write(path, "logits")


def at_opset(path: Path, opset: int) -> Path:
    """The file with another opset; its operators mean the same in all of them."""
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = opset, 10
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


# ---- what tests do with them -----------------------------------------------------------------------------------------------


def dialect(name: str) -> Dialect:
    """A dialect by its name."""
    found = ImportPath(DIALECTS[name]).load()
    assert isinstance(found, Dialect)
    return found


def images(count: int, channels: int = 3, size: int = 16, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random((count, channels, size, size), dtype=np.float32)


def calibrated(model: Path, inputs: Array | None = None, observer: str = "minmax", keep_float: tuple[str, ...] = ()) -> RangeTable:
    """The range table of a graph that takes `image`, from these examples (64 random ones by default)."""
    examples = images(64) if inputs is None else inputs
    return observe(model, [{"image": examples}], QuantizeSection.model_validate({"observer": observer, "keep_float": keep_float}))


def lowered(model: Path, target: Dialect, table: RangeTable | None = None) -> tuple[Path, LoweredReport]:
    ranges = model.with_suffix(".json")
    write_table(calibrated(model) if table is None else table, ranges)
    out = model.with_name(f"{model.stem}.{target.name}.onnx")
    return out, lower(model, ranges, target, out)


def run(model: Path, inputs: Array, entries: Mapping[str, str] | None = None) -> Array:
    """The first output of a graph that takes `image`, in ONNX Runtime with these session configuration entries."""
    return run_with(model, {"image": inputs}, entries)


def run_with(model: Path, inputs: Mapping[str, Array], entries: Mapping[str, str] | None = None) -> Array:
    """The same of a graph with other inputs."""
    session = session_of(model, lambda: _options(entries))  # as a CPU with VNNI computes, whichever this is
    return np.asarray(session.run(None, dict(inputs))[0])


def executed(model: Path, entries: Mapping[str, str] | None = None) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime really runs, with how many there are of each."""
    options = _options(entries)
    options.optimized_model_filepath = str(model.with_suffix(".optimized.onnx"))
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    found: dict[str, int] = {}
    for node in onnx.load(options.optimized_model_filepath).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def _options(entries: Mapping[str, str] | None = None) -> Any:
    options = ort.SessionOptions()
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def sqnr(reference: Array, found: Array) -> float:
    """Signal to quantization noise ratio in dB."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()))


def constants(model: Path) -> dict[str, Array]:
    """The initializers of a file by name."""
    return {held.name: numpy_helper.to_array(held) for held in onnx.load(model).graph.initializer}


def readers(model: Path) -> dict[str, list[str]]:
    """Node name -> its inputs, with what a DequantizeLinear makes written as `dq(source)`: how a graph is wired around its Q/DQ."""
    graph = onnx.load(model).graph
    made: Mapping[str, onnx.NodeProto] = {output: node for node in graph.node for output in node.output}

    def described(name: str) -> str:
        node = made.get(name)
        if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
            return name
        inner = described(node.input[0])
        return f"dq({inner})" if node.op_type == "DequantizeLinear" else inner

    return {node.name: [described(name) for name in node.input] for node in graph.node if node.op_type not in ("DequantizeLinear", "QuantizeLinear")}
