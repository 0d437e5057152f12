"""Small ONNX files as other people's exporters write them, and calibration files for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
FLOAT, HALF, INT64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL


def described(name: str, shape: list[Any] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constants(**arrays: Any) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(array if isinstance(array, np.ndarray) else np.asarray(array, np.float32), name) for name, array in arrays.items()
    ]


def random(*shape: int, seed: int = 0, scale: float = 0.3) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
    opset: int = 17,
    ir: int = 8,
    domains: tuple[str, ...] = (),
) -> Path:
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "main", inputs, outputs, weights), opset_imports=opsets, ir_version=ir), str(path))
    return path


def classifier(path: Path, opset: int = 17, batch: Any = "batch", channels: int = 16, ir: int = 8) -> Path:
    """image [batch, 3, 8, 8] -> Conv -> BatchNormalization -> Relu -> Conv (its bias an Add) -> pool -> Gemm -> logits [batch, 5]."""
    weights = constants(
        w1=random(channels, 3, 3, 3),
        scale=1 + random(channels, seed=1),
        shift=random(channels, seed=2),
        mean=random(channels, seed=3),
        variance=1 + np.abs(random(channels, seed=4)),
        w2=random(2 * channels, channels, 3, 3, seed=5, scale=0.1),
        b2=random(1, 2 * channels, 1, 1, seed=6),
        w3=random(2 * channels, 5, seed=7),
        b3=random(5, seed=8),
    )
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "variance"], ["n1"], "norm"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "b2"], ["a2"], "bias"),
        helper.make_node("Relu", ["a2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "head"),
    ]
    return save(path, nodes, [described("image", [batch, 3, 8, 8])], [described("logits", [batch, 5])], weights, opset, ir)


def weights_as_inputs(path: Path) -> Path:
    """The classifier as IR version 3 has it: every weight is an input too."""
    model = onnx.load(str(classifier(path, opset=8, ir=3)))
    for tensor in model.graph.initializer:
        model.graph.input.append(described(tensor.name, list(tensor.dims)))
    onnx.save(model, str(path))
    return path


def in_half(path: Path) -> Path:
    """x [n, 32] float16 -> MatMul -> Relu -> MatMul -> y float16, and a Cast inside."""
    weights = [
        numpy_helper.from_array(random(32, 64).astype(np.float16), "w1"),
        numpy_helper.from_array(random(64, 8, seed=1).astype(np.float16), "w2"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], "first"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("Cast", ["r"], ["h"], "again", to=HALF),
        helper.make_node("MatMul", ["h", "w2"], ["y"], "second"),
    ]
    return save(path, nodes, [described("x", ["n", 32], HALF)], [described("y", ["n", 8], HALF)], weights)


def tokens(path: Path) -> Path:
    """ids int64 and keep bool [batch, length] -> embedding, masked with minus infinity -> attention of one head -> two outputs, one of them int64."""
    width = 32
    weights = [
        *constants(table=random(50, width), wq=random(width, width, seed=1), wk=random(width, width, seed=2), wv=random(width, width, seed=3)),
        *constants(never=np.float32(-np.inf), zero=0.0, wo=random(width, 4, seed=4)),
        numpy_helper.from_array(np.asarray([1], np.int64), "one"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "embed"),
        helper.make_node("MatMul", ["e", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["e", "wk"], ["k"], "key"),
        helper.make_node("MatMul", ["e", "wv"], ["v"], "value"),
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], "scores"),
        helper.make_node("Where", ["keep", "zero", "never"], ["flat_mask"], "masked"),
        helper.make_node("Unsqueeze", ["flat_mask", "one"], ["mask"], "widen"),
        helper.make_node("Add", ["s", "mask"], ["sm"], "mask_scores"),
        helper.make_node("Softmax", ["sm"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"], "mix"),
        helper.make_node("MatMul", ["o", "wo"], ["tags"], "out"),
        helper.make_node("ArgMax", ["tags"], ["best"], "choose", axis=-1, keepdims=0),
    ]
    inputs = [described("ids", ["batch", "length"], INT64), described("keep", ["batch", "length"], BOOL)]
    return save(path, nodes, inputs, [described("tags", ["batch", "length", 4]), described("best", ["batch", "length"], INT64)], weights)


def with_state(path: Path) -> Path:
    """frame [1, 64], state [2, 1, 32] and a scalar rate int64 -> y [1, 32]; a convolution stands in both branches of an If."""
    weights = constants(w=random(64, 32), wc=random(4, 1, 3, seed=1))
    weights.append(numpy_helper.from_array(np.asarray(16000, np.int64), "sixteen"))
    weights.append(numpy_helper.from_array(np.asarray([0], np.int64), "axis"))

    def branch(name: str, kind: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Conv", ["shaped", "wc"], [f"{name}_c"], f"{name}_conv", pads=[1, 1]),
            helper.make_node(kind, [f"{name}_c"], [f"{name}_y"], f"{name}_{kind}"),
        ]
        return helper.make_graph(nodes, name, [], [described(f"{name}_y", [1, 4, 32])])

    nodes = [
        helper.make_node("MatMul", ["frame", "w"], ["m"], "encode"),
        helper.make_node("ReduceMax", ["state"], ["top"], "newest", axes=[0], keepdims=0),
        helper.make_node("Add", ["m", "top"], ["sum"], "remember"),
        helper.make_node("Unsqueeze", ["sum", "axis"], ["shaped"], "shape"),
        helper.make_node("Equal", ["rate", "sixteen"], ["is"], "which"),
        helper.make_node("If", ["is"], ["chosen"], "branch", then_branch=branch("then", "Relu"), else_branch=branch("other", "Tanh")),
        helper.make_node("Identity", ["chosen"], ["y"], "done"),
    ]
    inputs = [described("frame", [1, 64]), described("state", [2, 1, 32]), described("rate", [], INT64)]
    return save(path, nodes, inputs, [described("y", [1, 4, 32])], weights)


def of_microsoft(path: Path) -> Path:
    """x [n, 32] -> MatMul -> com.microsoft.Gelu -> MatMul -> y, by an exporter that wrote no types in between."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], "first"),
        helper.make_node("Gelu", ["m"], ["g"], "gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "w2"], ["y"], "second"),
    ]
    weights = constants(w1=random(32, 64), w2=random(64, 48, seed=1))
    return save(path, nodes, [described("x", ["n", 32])], [described("y", ["n", 48])], weights, domains=("com.microsoft",))


def images(path: Path, count: int = 24, seed: int = 0) -> Path:
    np.savez(path, image=np.random.default_rng(seed).normal(0, 1, (count, 3, 8, 8)).astype(np.float32))
    return path


def rows(path: Path, count: int = 24, width: int = 32) -> Path:
    np.savez(path, x=np.random.default_rng(0).normal(0, 1, (count, width)).astype(np.float32))
    return path
