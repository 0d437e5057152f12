"""Float graphs of the operator families that a dialect has to decide about. Each is a small network around one family: a stem, the family, a head.

`width` and `size` are channels and pixels, so that the same graph serves a test (small) and a measurement (large).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from small_graphs import Graph, at_opset, concat, depthwise, option_a, relu6, residual

from kdedge.exporters import model_file
from kdedge.exporters.shapes import fix_shapes

Builder = Callable[[Path], Path]


def _stem(width: int, size: int) -> tuple[Graph, str]:
    graph = Graph(channels=3, size=size)
    return graph, graph.op("Relu", "stem_relu", graph.conv("stem", "image", width))


def _finish(graph: Graph, path: Path, last: str, opset: int = 18) -> Path:
    graph.head(graph.op("Relu", "last_relu", graph.conv("last", last, graph.channels[last])))
    return graph.write(path, "logits", opset=opset)


# ---- convolutions ----------------------------------------------------------------------------------------------------------


def grouped(path: Path, width: int = 32, size: int = 16) -> Path:
    """Convolutions in four groups, as ResNeXt has them."""
    graph, stem = _stem(width, size)
    inner = graph.op("Relu", "grouped_relu", graph.conv("grouped", stem, width, group=4))
    return _finish(graph, path, graph.op("Relu", "mix_relu", graph.conv("mix", inner, width, kernel=1)))


def transposed(path: Path, width: int = 16, size: int = 16) -> Path:
    """A decoder step: half the size, a transposed convolution back, and a skip connection that meets it in a Concat."""
    graph, stem = _stem(width, size)
    low = graph.op("Relu", "low_relu", graph.conv("low", stem, width, stride=2))
    graph.constant("up.weight", graph.random.normal(0, 0.2, (width, width, 2, 2)))
    graph.constant("up.bias", graph.random.normal(0, 0.1, width))
    up = graph.op("Relu", "up_relu", graph.op("ConvTranspose", "up", low, "up.weight", "up.bias", strides=[2, 2]))
    return _finish(graph, path, graph.op("Concat", "joined", up, stem, axis=1, channels=2 * width))


def resized(path: Path, width: int = 16, size: int = 16, mode: str = "nearest") -> Path:
    """A decoder step with a Resize, and a skip connection that is added."""
    graph, stem = _stem(width, size)
    low = graph.op("Relu", "low_relu", graph.conv("low", stem, width, stride=2))
    scales = graph.constant("scales", [1.0, 1.0, 2.0, 2.0])
    up = graph.op("Resize", "up", low, "", scales, mode=mode)
    return _finish(graph, path, graph.op("Add", "joined", up, stem))


def resized_linear(path: Path, width: int = 16, size: int = 16) -> Path:
    """The same with interpolation, which makes new values."""
    return resized(path, width, size, mode="linear")


# ---- activations and gates -------------------------------------------------------------------------------------------------


def silu(path: Path, width: int = 16, size: int = 16) -> Path:
    """Two convolutions with x * Sigmoid(x)."""
    graph, last = _stem(width, size)
    for number in (1, 2):
        wide = graph.conv(f"conv{number}", last, width)
        last = graph.op("Mul", f"silu{number}", wide, graph.op("Sigmoid", f"sigmoid{number}", wide))
    return _finish(graph, path, last)


def hard_swish(path: Path, width: int = 16, size: int = 16) -> Path:
    """Two convolutions with the operator HardSwish."""
    graph, last = _stem(width, size)
    for number in (1, 2):
        last = graph.op("HardSwish", f"swish{number}", graph.conv(f"conv{number}", last, width))
    return _finish(graph, path, last)


def hard_swish_parts(path: Path, width: int = 16, size: int = 16) -> Path:
    """The same as x * Clip(x + 3, 0, 6) / 6, as older exporters wrote it."""
    graph, last = _stem(width, size)
    graph.constant("three", 3.0)
    graph.constant("sixth", 1 / 6)
    for number in (1, 2):
        wide = graph.conv(f"conv{number}", last, width)
        gate = relu6(graph, f"gate{number}", graph.op("Add", f"shifted{number}", wide, "three"))
        last = graph.op("Mul", f"swish{number}", graph.op("Mul", f"gated{number}", wide, gate), "sixth")
    return _finish(graph, path, last)


def gelu(path: Path, width: int = 16, size: int = 16) -> Path:
    """Two convolutions with the operator Gelu."""
    graph, last = _stem(width, size)
    for number in (1, 2):
        last = graph.op("Gelu", f"gelu{number}", graph.conv(f"conv{number}", last, width))
    return _finish(graph, path, last, opset=20)


def gelu_erf(path: Path, width: int = 16, size: int = 16) -> Path:
    """The same as x * (1 + Erf(x / sqrt 2)) / 2."""
    graph, last = _stem(width, size)
    for number in (1, 2):
        last = erf_gelu(graph, f"gelu{number}", graph.conv(f"conv{number}", last, width))
    return _finish(graph, path, last)


def erf_gelu(graph: Graph, name: str, source: str) -> str:
    """Gelu in the five nodes that exporters below opset 20 write."""
    known = {constant.name for constant in graph.constants}
    for constant, value in (("root_two", 2**0.5), ("one", 1.0), ("half", 0.5)):
        if constant not in known:
            graph.constant(constant, value)
    erf = graph.op("Erf", f"{name}_erf", graph.op("Div", f"{name}_scaled", source, "root_two"))
    product = graph.op("Mul", f"{name}_product", source, graph.op("Add", f"{name}_one", erf, "one"))
    return graph.op("Mul", name, product, "half")


def squeeze_excite(path: Path, width: int = 16, size: int = 16) -> Path:
    """A depthwise convolution whose channels are weighted by a gate, as MobileNetV3 and EfficientNet do."""
    graph, stem = _stem(width, size)
    deep = graph.op("Relu", "deep_relu", graph.conv("deep", stem, width, group=width))
    mean = graph.op("GlobalAveragePool", "squeeze_mean", deep)
    inner = graph.op("Relu", "squeeze_relu", graph.conv("squeeze", mean, width // 2, kernel=1))
    gate = graph.op("HardSigmoid", "gate", graph.conv("excite", inner, width, kernel=1))
    return _finish(graph, path, graph.op("Mul", "gated", deep, gate))


# ---- transformers ----------------------------------------------------------------------------------------------------------


def linear(graph: Graph, name: str, source: str, inputs: int, outputs: int) -> str:
    """MatMul and the Add of its bias, as exporters write a linear layer on a sequence."""
    graph.constant(f"{name}.weight", graph.random.normal(0, inputs**-0.5, (inputs, outputs)))
    graph.constant(f"{name}.bias", graph.random.normal(0, 0.1, outputs))
    return graph.op("Add", name, graph.op("MatMul", f"{name}_product", source, f"{name}.weight"), f"{name}.bias")


def layer_norm(graph: Graph, name: str, source: str, width: int, parts: bool = False) -> str:
    """LayerNormalization over the last axis: one operator, or the nine of older exporters (`parts`)."""
    scale = graph.constant(f"{name}.scale", graph.random.normal(1, 0.1, width))
    offset = graph.constant(f"{name}.offset", graph.random.normal(0, 0.1, width))
    if not parts:
        return graph.op("LayerNormalization", name, source, scale, offset, axis=-1, epsilon=1e-5)
    known = {constant.name for constant in graph.constants}
    for constant, value, dtype in (("last_axis", [-1], "int64"), ("two", 2.0, "float32"), ("epsilon", 1e-5, "float32")):
        if constant not in known:
            graph.constant(constant, value, dtype)
    centred = graph.op("Sub", f"{name}_centred", source, graph.op("ReduceMean", f"{name}_mean", source, "last_axis", keepdims=1))
    variance = graph.op("ReduceMean", f"{name}_variance", graph.op("Pow", f"{name}_squares", centred, "two"), "last_axis", keepdims=1)
    deviation = graph.op("Sqrt", f"{name}_deviation", graph.op("Add", f"{name}_safe", variance, "epsilon"))
    normal = graph.op("Div", f"{name}_normal", centred, deviation)
    return graph.op("Add", name, graph.op("Mul", f"{name}_scaled", normal, scale), offset)


def attention(path: Path, width: int = 32, size: int = 16, heads: int = 2, parts: bool = False) -> Path:
    """A vision transformer of one block: patches, attention, an MLP with Gelu, a head on the mean token.

    `parts`: LayerNormalization and Gelu in the operators that exporters below opset 17 and 20 write.
    """
    graph = Graph(channels=3, size=size)
    graph.constant("patches.weight", graph.random.normal(0, 0.2, (width, 3, 4, 4)))
    graph.constant("patches.bias", graph.random.normal(0, 0.1, width))
    patches = graph.op("Conv", "patches", "image", "patches.weight", "patches.bias", strides=[4, 4], channels=width)
    tokens = (size // 4) ** 2
    graph.constant("as_tokens", [0, width, tokens], "int64")
    graph.constant("as_heads", [0, tokens, heads, width // heads], "int64")
    graph.constant("as_rows", [0, tokens, width], "int64")
    graph.constant("root", (width / heads) ** -0.5)
    rows = graph.op("Transpose", "rows", graph.op("Reshape", "flat_patches", patches, "as_tokens"), perm=[0, 2, 1])

    normal = layer_norm(graph, "norm1", rows, width, parts)
    split = {}
    for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        made = graph.op("Reshape", f"{name}_split", linear(graph, name, normal, width, width), "as_heads")
        split[name] = graph.op("Transpose", f"{name}_heads", made, perm=order)
    scores = graph.op("Mul", "scaled", graph.op("MatMul", "scores", split["query"], split["key"]), "root")
    context = graph.op("MatMul", "context", graph.op("Softmax", "shares", scores, axis=-1), split["value"])
    merged = graph.op("Reshape", "merged", graph.op("Transpose", "context_rows", context, perm=[0, 2, 1, 3]), "as_rows")
    attended = graph.op("Add", "attended", linear(graph, "out", merged, width, width), rows)

    inner = linear(graph, "up", layer_norm(graph, "norm2", attended, width, parts), width, 4 * width)
    curved = erf_gelu(graph, "gelu", inner) if parts else graph.op("Gelu", "gelu", inner)
    block = graph.op("Add", "block", linear(graph, "down", curved, 4 * width, width), attended)
    graph.constant("token_axis", [1], "int64")
    graph.channels["mean"] = width
    mean = graph.op("ReduceMean", "mean", layer_norm(graph, "norm3", block, width, parts), "token_axis", keepdims=0, channels=width)
    graph.gemm("logits", mean, 10)
    return graph.write(path, "logits", opset=18 if parts else 20)


def attention_parts(path: Path, width: int = 32, size: int = 16, heads: int = 2) -> Path:
    """The same with LayerNormalization and Gelu in parts."""
    return attention(path, width, size, heads, parts=True)


def perceptron(path: Path, width: int = 32, size: int = 16) -> Path:
    """Three Gemm with ReLU on the flat image."""
    graph = Graph(channels=3, size=size)
    last = graph.op("Flatten", "flat", "image", channels=3 * size * size)
    for number in (1, 2):
        last = graph.op("Relu", f"relu{number}", graph.gemm(f"gemm{number}", last, width))
    graph.gemm("logits", last, 10)
    return graph.write(path, "logits")


FAMILIES: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        residual, option_a, depthwise, concat, grouped, transposed, resized, resized_linear, silu, hard_swish, hard_swish_parts, gelu, gelu_erf,
        squeeze_excite, attention, attention_parts, perceptron,
    )
}  # fmt: skip


def with_one_image(path: Path, opset: int | None = None) -> Path:
    """The file for a batch of one, as targets get it, and at another opset where one is asked for."""
    model = fix_shapes(model_file.load_model(path), {"N": 1})
    model_file.save_model(model, path)
    if opset is not None and onnx.load(path).opset_import[0].version < opset:
        at_opset(path, opset)
    return path
