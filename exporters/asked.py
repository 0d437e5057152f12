"""What a graph asks of a runtime: the nodes that multiply, in which type each is asked for, and how many multiply-accumulates it takes.

Multiply-accumulates of one call, with the batch that the graph is meant for:

    Conv            elements of the output x inputs of one channel group x kernel elements
    ConvTranspose   elements of the input x outputs of one channel group x kernel elements
    Gemm, MatMul    elements of the output x length of the sum
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from kdedge.artifact import AskedNode, Dimension, TensorSpec
from kdedge.exporters.model_file import constant, infer_shapes

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {"Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "FusedMatMul": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1}
#: Where the second operand of a node that multiplies stands.
SECOND = {**_CONVOLUTIONS, **_PRODUCTS, "ConvTranspose": 1}
_INTEGER = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
#: Nodes that multiply too and whose multiplications are not counted here.
UNCOUNTED = frozenset({"LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "MatMulNBits", "DeformConv"})

_PRECISION = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8", "UINT8": "int8"}
#: Fusions reach no further than this behind a node.
_REACH = 8
#: Activations that saturate at the end of a range: a zero point at the type's end does their work.
_ABSORBED = ("Relu", "Clip")


def asked_nodes(
    model: ir.Model, sizes: Mapping[str, int] | None = None, *, floats: str = "", kept: Mapping[str, str] | None = None
) -> tuple[AskedNode, ...]:
    """The nodes of `model` that multiply, in order; those inside of subgraphs (If, Loop) are left out.

    `sizes`: the usual size of each dimension that varies. `floats`: the precision that float nodes are asked in, where the file does not say
    (OpenVINO takes it as an option). `kept`: by node name, why it stays float.
    """
    shaped = infer_shapes(_fixed(model, sizes or {}))
    reasons = kept or {}
    return tuple(
        _asked(node, floats, reasons.get(str(node.name), "")) for node in shaped.graph if node.op_type in SECOND or node.op_type in UNCOUNTED
    )


def usual_sizes(specs: Iterable[TensorSpec]) -> dict[str, int]:
    """The usual size of each dimension that varies, by its name."""
    return {size.name: size.typical for spec in specs for size in spec.shape if isinstance(size, Dimension)}


def reasons_in(notes: Iterable[str]) -> dict[str, str]:
    """Why nodes stay float, read from the notes that lowering and dynamic quantization leave: `NODE` (OPERATOR) stays float: REASON."""
    found = (re.fullmatch(r"`(.+?)` \(\w+\) stays float: (.+)", note, re.DOTALL) for note in notes)
    return {match.group(1): match.group(2) for match in found if match}


def _fixed(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else sizes.get(str(size.value), size) for size in value.shape])
    for value in copy.graph.outputs:
        value.shape = None
    return copy


def _asked(node: ir.Node, floats: str, kept: str) -> AskedNode:
    precision = _precision(node)
    output = node.outputs[0]
    between, quantized = _behind(output)
    bias = node.inputs[2] if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2 else None
    return AskedNode(
        name=str(node.name),
        operator=node.op_type,
        precision=floats if floats and precision == "fp32" else precision,
        macs=multiplications(node),
        names=tuple(dict.fromkeys((str(node.name), str(output.name)))),
        followers=_followers(output),
        activation=_held_as(node.inputs[0]),
        result=quantized or _type_of(output),
        bias=_held_as(bias),
        between=between,
        kept=kept if precision != "int8" else "",
    )


# ---- types -----------------------------------------------------------------------------------------------------------------


def _type_of(value: ir.Value | None) -> str:
    return "" if value is None or value.dtype is None else str(value.dtype.name).lower()


def _held_as(value: ir.Value | None) -> str:
    """The type that a value is stored in: of the integers, where it is dequantized at once."""
    producer = None if value is None else value.producer()
    return _type_of(producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else value)


def _precision(node: ir.Node) -> str:
    if node.op_type in _INTEGER:
        return "int8"
    if node.op_type == "MatMulNBits":
        return _PRECISION.get(_type_of(node.inputs[0]).upper(), "other")
    place = SECOND.get(node.op_type, 1)
    operands = (node.inputs[0], *node.inputs[place : place + 1])  # an Einsum may have one
    if all(_held_as(value) in ("int8", "uint8") and not _has_channel_scales(value) for value in operands):
        return "int8"
    return _PRECISION.get(_type_of(node.inputs[0]).upper(), "other")


def _has_channel_scales(value: ir.Value | None) -> bool:
    """Whether an activation was unpacked with a scale a channel, as the rows of an embedding are: no product of integers has such an operand,
    whose scales differ along the sum."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or _is_weight(producer.inputs[0]):
        return False
    scale = constant(producer.inputs[1])
    return scale is None or scale.size > 1


def _is_weight(value: ir.Value | None) -> bool:
    """Whether integers are a constant, or one that is quantized in the graph (TensorRT's weights)."""
    producer = None if value is None else value.producer()
    quantized = producer is not None and producer.op_type == "QuantizeLinear"
    return constant(producer.inputs[0] if producer is not None and quantized else value) is not None


def _behind(value: ir.Value) -> tuple[str, str]:
    """What stands between a value and its quantization and cannot be absorbed, and the type of the integers; two empty texts where it stays float."""
    current, folded = value, ""
    for _ in range(2):
        uses = [use.node for use in current.uses()]
        if not current.is_graph_output() and uses and all(node.op_type == "QuantizeLinear" for node in uses):
            return ("" if not folded or _zero_at_the_end(uses[0]) else folded), _type_of(uses[0].outputs[0])
        if current.is_graph_output() or len(uses) != 1 or uses[0].op_type not in _ABSORBED:
            return "", ""
        folded, current = uses[0].op_type, uses[0].outputs[0]
    return "", ""


def _zero_at_the_end(quantize: ir.Node) -> bool:
    """Whether zero is the smallest value that the quantized type holds, so that a ReLU changes nothing."""
    given = len(quantize.inputs) > 2 and quantize.inputs[2] is not None
    zero, kind = constant(quantize.inputs[2]) if given else np.zeros(1), _type_of(quantize.outputs[0])
    return zero is not None and kind in ("int8", "uint8") and bool((zero == (-128 if kind == "int8" else 0)).all())


def _followers(value: ir.Value) -> tuple[str, ...]:
    found: list[str] = []
    current = value
    while len(found) < 2 * _REACH and not current.is_graph_output():
        uses = list(current.uses())
        if len(uses) != 1 or uses[0].node.op_type in SECOND:
            break
        node = uses[0].node
        current = node.outputs[0]
        found += [str(node.name), str(current.name)]
    return tuple(dict.fromkeys(found))


# ---- multiply-accumulates --------------------------------------------------------------------------------------------------


def multiplications(node: ir.Node) -> int | None:
    """Multiply-accumulates of a node whose shapes were inferred; None where a size is not known, or the operator is not counted."""
    if node.op_type not in SECOND:
        return None
    first, second, output = _sizes(node.inputs[0]), _sizes(node.inputs[SECOND[node.op_type]]), _sizes(node.outputs[0])
    if node.op_type in _CONVOLUTIONS:
        return None if output is None or second is None else math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return None if first is None or second is None else math.prod(first) * math.prod(second[1:])
    summed = None if first is None else first[-2 if _flag(node, "transA") else -1]
    return None if output is None or summed is None else math.prod(output) * summed


def _sizes(value: Any) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    sizes = tuple(value.shape)
    return sizes if all(isinstance(size, int) for size in sizes) else None


def _flag(node: ir.Node, name: str) -> bool:
    found = node.attributes.get(name)
    return found is not None and bool(found.value)
