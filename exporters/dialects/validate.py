"""Walks a finished graph with a dialect's table and names every node that breaks its grammar, before any runtime is started."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import DialectError
from kdedge.exporters import model_file
from kdedge.exporters.dialects.dialect import Dialect, Integer
from kdedge.exporters.quantize.roles import WEIGHTED, channel_axis, find_residuals, moved_inputs
from kdedge.exporters.quantize.wiring import (
    FOLDED,
    NORMALIZING,
    QDQ,
    bias_place,
    constant,
    folded_into,
    is_float_activation,
    is_operand,
    load,
)

Array = npt.NDArray[Any]
Finding = tuple[Any, str]  # the node (None for the file as a whole) and what is wrong with it

SMALLEST_NORMAL_FLOAT16 = 2.0**-14
FLOAT16_SCALES_FROM_OPSET = 19
_SEEN_THROUGH = QDQ | {"Cast"}


def validate(path: Path, dialect: Dialect, keep_float: Collection[str] = ()) -> None:
    """Check a quantized ONNX file. `keep_float`: nodes that are meant to stay float, whose places are not asked for.

    Raises:
        ExportError: the file is no ONNX model.
        DialectError: it breaks the grammar; the message lists every node and reason.
    """
    found = violations(load(path), dialect, keep_float)
    if found:
        raise DialectError(f"`{path.name}` is not written in the dialect {dialect.name}:\n  " + "\n  ".join(found))


def violations(model: Any, dialect: Dialect, keep_float: Collection[str] = ()) -> list[str]:
    """What is wrong with an `onnx_ir.Model`, one sentence each, in graph order."""
    findings = [*_limits(model, dialect)]
    for node in model.graph:
        findings += _operator(node, dialect)
        if dialect.leaves_no_float and node.op_type not in QDQ and node.name not in keep_float:
            findings += _left_in_float(node)
        if node.op_type in QDQ:
            findings += _parameters(node, dialect, model_file.opset_of(model))
            findings += _pair(node, dialect)
        elif node.op_type in WEIGHTED and node.name not in keep_float:
            findings += _weighted(node, dialect)
    findings += _residuals(model.graph, dialect, keep_float)
    return [reason if node is None else f"`{node.name}` ({node.op_type}): {reason}" for node, reason in findings]


# ---- the file --------------------------------------------------------------------------------------------------------------


def _limits(model: Any, dialect: Dialect) -> Iterator[Finding]:
    opset = model_file.opset_of(model)
    if not dialect.minimum_opset <= opset <= dialect.maximum_opset:
        yield None, f"opset {opset} is outside {dialect.minimum_opset} to {dialect.maximum_opset}"
    if model.ir_version > dialect.maximum_ir:
        yield None, f"IR version {model.ir_version} is newer than {dialect.maximum_ir}"


def _operator(node: Any, dialect: Dialect) -> Iterator[Finding]:
    if node.domain not in ("", "ai.onnx"):
        yield node, f"operators of the domain `{node.domain}` are not part of the dialect"
    elif node.op_type in dialect.forbidden:
        yield node, "this operator has no place in a Q/DQ graph of this dialect"
    elif reason := dialect.demands(node):
        yield node, reason


# ---- Q and DQ --------------------------------------------------------------------------------------------------------------


def _kind(node: Any) -> str:
    """Whether a Q or DQ node belongs to a weight, a bias, another constant or an activation."""
    source = node.inputs[0]
    producer = source.producer()
    if node.op_type == "DequantizeLinear" and producer is not None and producer.op_type == "QuantizeLinear":
        source = producer.inputs[0]
    held = constant(source)
    if held is None:
        return "activation"
    if held.dtype == np.int32:
        return "bias"
    return "weight" if any(_is_weight_of(use) for use in _uses(node.outputs[0])) else "constant"


def _uses(value: Any) -> Iterator[Any]:
    """Who reads a value, behind Q/DQ and casts."""
    for use in value.uses():
        if use.node.op_type in _SEEN_THROUGH:
            yield from _uses(use.node.outputs[0])
        else:
            yield use


def _is_weight_of(use: Any) -> bool:
    return use.idx == 1 and use.node.op_type in WEIGHTED | NORMALIZING


def _parameters(node: Any, dialect: Dialect, opset: int) -> Iterator[Finding]:
    kind = _kind(node)
    if kind == "bias" and dialect.bias != "int32" and "int32" not in dialect.reads_bias:
        yield node, "the bias is quantized; this dialect wants it in float"
        return
    scale = constant(node.inputs[1])
    if scale is None or not scale.size:
        yield node, "the scale is not a constant" if scale is None else "the scale is empty"
        return
    yield from ((node, reason) for reason in _scale(scale, kind, dialect, opset))
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        yield node, "the zero point is not a constant"
        return
    if kind != "bias":
        integer = dialect.weight if kind == "weight" else dialect.activation
        yield from ((node, reason) for reason in _zero_point(node, zero, integer))
    elif zero is not None and (zero != 0).any():
        yield node, "the zero point of a bias is not 0"
    if kind == "weight":
        yield from ((node, reason) for reason in _stored_weight(node, dialect))
    if kind == "activation":
        yield from ((node, reason) for reason in _fixed_by_hardware(node, float(scale.reshape(-1)[0]), zero, dialect))


def _scale(scale: Array, kind: str, dialect: Dialect, opset: int) -> Iterator[str]:
    if not np.isfinite(scale).all() or (scale <= 0).any():
        yield f"the scale must be finite and positive, found {_extreme(scale)}"
        return
    if scale.dtype == np.float16 and opset < FLOAT16_SCALES_FROM_OPSET:
        yield f"a float16 scale needs opset {FLOAT16_SCALES_FROM_OPSET}, the file has {opset}"
    # Scales that are small as a whole stay float32, and so does what computes on their integers.
    small = scale.dtype == np.float32 and scale.max() < SMALLEST_NORMAL_FLOAT16
    if dialect.rest == "float16" and kind != "bias" and not small:
        with np.errstate(over="ignore"):
            halves = scale.astype(np.float16).astype(np.float64)
        if not np.isfinite(halves).all() or (halves < SMALLEST_NORMAL_FLOAT16).any():
            found = f"{scale.min():.3g}" if scale.size == 1 else f"{scale.min():.3g} to {scale.max():.3g}"
            limit = f"the smallest is {SMALLEST_NORMAL_FLOAT16:.3g}"
            yield f"a scale of {found} is no normal number in float16 ({limit}): it would be flushed to 0 or overflow"
    if scale.size > 1 and kind == "activation":
        yield "an activation has one scale, not one a channel"
    if scale.size > 1 and kind == "weight" and not dialect.weight.per_channel:
        yield "weights have one scale a tensor in this dialect"


def _extreme(scale: Array) -> str:
    wrong = scale[~np.isfinite(scale) | (scale <= 0)]
    return f"{wrong.reshape(-1)[0]}"


def _zero_point(node: Any, zero: Array | None, integer: Integer) -> Iterator[str]:
    if zero is not None:
        dtype = zero.dtype.name
    elif node.op_type == "DequantizeLinear":
        dtype = integer.dtype  # DequantizeLinear takes what it gets; QuantizeLinear is checked by itself
    else:
        made = node.outputs[0].dtype  # uint8, unless the node says otherwise
        dtype = "uint8" if made is None else str(made).lower()
    if dtype != integer.dtype:
        yield f"the type is {dtype}, this dialect wants {integer.dtype}"
    if integer.symmetric and zero is not None and (zero != 0).any():
        yield f"the zero point is {zero.reshape(-1)[np.flatnonzero(zero)[0]]}, this dialect wants 0"


def _stored_weight(node: Any, dialect: Dialect) -> Iterator[str]:
    held = constant(node.inputs[0])
    takes = dialect.reads_weights | {dialect.weight_storage}
    if node.op_type == "DequantizeLinear" and held is not None:
        if "integer" not in takes:
            yield "the weight is stored as integers; this dialect stores it in float before Q and DQ"
        elif held.dtype.name != dialect.weight.dtype:
            yield f"the weight is stored as {held.dtype.name}, this dialect wants {dialect.weight.dtype}"
        elif held.size and (held.min() < dialect.weight.limits[0] or held.max() > dialect.weight.limits[1]):
            yield f"weights reach {held.min()} to {held.max()}, allowed are {dialect.weight.limits[0]} to {dialect.weight.limits[1]}"
    if node.op_type == "QuantizeLinear" and "float" not in takes:
        yield "the weight is stored in float before Q and DQ; this dialect stores integers"


def _fixed_by_hardware(node: Any, scale: float, zero: Array | None, dialect: Dialect) -> Iterator[str]:
    lowest, highest = dialect.activation.limits
    if scale * (highest - lowest) < dialect.smallest_range * (1 - 1e-3):
        yield f"a range of {scale * (highest - lowest):.3g} is narrower than {dialect.smallest_range:.3g}"
    producer = node.inputs[0].producer()
    if node.op_type == "QuantizeLinear" and producer is not None and producer.op_type in dialect.fixed:
        wanted, place = dialect.fixed[producer.op_type]
        found = 0 if zero is None else int(zero.reshape(-1)[0])
        if not np.isclose(scale, wanted, rtol=1e-5) or found != place:
            yield f"after {producer.op_type} the scale is {wanted:.6g} and the zero point {place} in this dialect, found {scale:.6g} and {found}"


def _pair(node: Any, dialect: Dialect) -> Iterator[Finding]:
    if node.op_type == "DequantizeLinear":
        for source in _integer_sources(node.inputs[0], dialect):
            if constant(source) is None:
                yield node, f"it dequantizes `{source.name}`, which no QuantizeLinear made"
        return
    value = node.outputs[0]
    if value.is_graph_output() or not value.uses():
        yield node, "its integers reach no DequantizeLinear"
    for use in value.uses():
        if use.node.op_type != "DequantizeLinear" and use.node.op_type not in dialect.moves_integers:
            yield node, f"its integers go to `{use.node.name}` ({use.node.op_type}) instead of a DequantizeLinear"


def _integer_sources(value: Any, dialect: Dialect) -> list[Any]:
    """Where integers come from, back through nodes that move them; those of a QuantizeLinear are left out."""
    producer = value.producer()
    if producer is None or constant(value) is not None:
        return [value]
    if producer.op_type == "QuantizeLinear":
        return []
    if producer.op_type in dialect.moves_integers:
        return [found for moved in moved_inputs(producer) for found in _integer_sources(moved, dialect)]
    return [value]


# ---- weighted nodes --------------------------------------------------------------------------------------------------------


def _dequantizer(value: Any) -> Any:
    """The DequantizeLinear that makes a value, casts aside; None where it is float."""
    while value is not None and value.producer() is not None and value.producer().op_type == "Cast":
        value = value.producer().inputs[0]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _weighted(node: Any, dialect: Dialect) -> Iterator[Finding]:
    weight = _dequantizer(node.inputs[1])
    if weight is None or _kind(weight) != "weight":
        return
    if node.op_type not in dialect.operators("inputs"):
        yield node, f"its weights are quantized, but {dialect.name} has no integer kernel for {node.op_type}"
        return
    source = _dequantizer(node.inputs[0])
    if source is None:
        yield node, f"its weights are quantized but its input `{node.inputs[0].name}` is not"
    yield from ((node, reason) for reason in _channels(node, weight, dialect))
    if (place := bias_place(node)) and not (dialect.leaves_no_float and place[0] is not node):
        yield from ((node, reason) for reason in _bias(place[0].inputs[place[1]], source, weight, dialect))
    if node.op_type in dialect.operators("outputs"):
        yield from ((node, reason) for reason in _output(node, dialect))


def _channels(node: Any, weight: Any, dialect: Dialect) -> Iterator[str]:
    scale, shape = constant(weight.inputs[1]), weight.outputs[0].shape
    if scale is None or scale.size == 1 or shape is None:
        return
    if dialect.weight.per_channel and not dialect.per_channel(node.op_type):
        yield f"its weights have {scale.size} scales; those of a {node.op_type} have one in this dialect"
        return
    axis, wanted = int(weight.attributes["axis"].as_int()) if "axis" in weight.attributes else 1, channel_axis(node, len(shape))
    if axis % len(shape) != wanted:
        yield f"its weights are quantized along axis {axis}, output channels are axis {wanted}"
    elif shape[wanted] != scale.size:
        yield f"its weights have {shape[wanted]} output channels and {scale.size} scales"


def _bias(value: Any, source: Any, weight: Any, dialect: Dialect) -> Iterator[str]:
    bias = _dequantizer(value)
    if dialect.bias == "float":
        return  # a quantized one was named where its DequantizeLinear stands
    held = None if bias is None else constant(bias.inputs[0])
    if "float" in dialect.reads_bias and held is None:
        return
    if held is None or held.dtype != np.int32:
        yield "its bias is not stored as int32"
        return
    scales = [None if one is None else constant(one.inputs[1]) for one in (bias, source, weight)]
    if all(scale is not None for scale in scales):
        own, activation, weights = (np.asarray(scale, np.float64) for scale in scales)
        if not np.allclose(own, activation * weights, rtol=1e-5, atol=0.0):
            yield "the scale of its bias is not the product of the scales of its input and weights"


def _output(node: Any, dialect: Dialect) -> Iterator[str]:
    value = folded_into(node.outputs[0])
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        yield f"its output `{value.name}` is not quantized (or not for all that read it): it would run as float"
    elif value is not node.outputs[0] and value.producer().op_type == "Relu":
        zero = constant(readers[0].inputs[2]) if len(readers[0].inputs) > 2 else None
        found, smallest = 0 if zero is None else int(zero.reshape(-1)[0]), dialect.activation.limits[0]
        if found != smallest:
            yield f"the zero point after its ReLU is {found}; it must be {smallest}, or the ReLU keeps it in float"


# ---- where nothing may stay float ------------------------------------------------------------------------------------------


def _left_in_float(node: Any) -> Iterator[Finding]:
    for place, value in enumerate(node.inputs):
        cut = node.op_type in FOLDED and folded_into(value) is not value  # computed inside the kernel before it
        if value is not None and not cut and (is_float_activation(value) or is_operand(node, place)) and _dequantizer(value) is None:
            yield node, f"it reads `{value.name}` in float; this hardware takes no float node"
    for value in node.outputs:
        landing = folded_into(value)
        if is_float_activation(value) and (landing.is_graph_output() or any(use.node.op_type != "QuantizeLinear" for use in landing.uses())):
            yield node, f"its output `{landing.name}` stays in float; this hardware takes no float node"


# ---- residual additions ----------------------------------------------------------------------------------------------------


def _residuals(graph: Any, dialect: Dialect, keep_float: Collection[str]) -> Iterator[Finding]:
    nodes = {node.name: node for node in graph}
    for row in find_residuals(graph, transparent=_SEEN_THROUGH):
        node = nodes[row.node]
        main = next(place for place, value in enumerate(node.inputs) if _origin(value).name == row.main)
        convolution = _origin(node.inputs[main]).producer()
        if node.name in keep_float or _dequantizer(convolution.inputs[1]) is None:
            continue
        quantized = [_dequantizer(value) is not None for value in node.inputs]
        if "Add" in dialect.operators("shortcut"):
            if quantized[main]:
                yield node, f"its side from `{convolution.name}` is quantized: convolution and addition cannot become one kernel"
            if not quantized[1 - main]:
                yield node, f"its shortcut `{row.shortcut}` is not quantized"
        elif "Add" in dialect.operators("around") and _is_quantized(node.outputs[0]) and not all(quantized):
            yield node, "its output is quantized but not all of its inputs: it would run as float"


def _origin(value: Any) -> Any:
    while value.producer() is not None and value.producer().op_type in _SEEN_THROUGH:
        value = value.producer().inputs[0]
    return value


def _is_quantized(value: Any) -> bool:
    return any(use.node.op_type == "QuantizeLinear" for use in folded_into(value).uses())
