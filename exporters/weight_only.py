"""int8-weights: weights as int8 with one scale an output channel, unpacked by a DequantizeLinear in front of each layer; activations stay float.

    wq, s = weight as int8, symmetric            y = Conv(x, DequantizeLinear(wq, s), b)

A quarter of the float file and nearly its outputs. It shrinks what is shipped and not the time: runtimes unpack the weights when they load the file
(ONNX Runtime where `unpack_weights` is set, TensorRT, OpenVINO's convolutions) or inside the kernel, and multiply floats. An embedding table stays
packed and only the rows that are picked are unpacked, unless a layer multiplies by the same table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kdedge.errors import ExportError
from kdedge.exporters.integer_weights import Quantized, add_constant, quantize_symmetric
from kdedge.exporters.model_file import constant, infer_shapes, opset_of, tidy
from kdedge.exporters.quantize.keep_float import kept_float

#: Fewer weights cost more as scales, names and a node than they save.
SMALLEST = 256
#: `DequantizeLinear` has one scale a channel from this opset on.
AXIS_OPSET = 13
NOTE = "weights are int8 in the file and float when they are used: the file shrinks, the time does not"


@dataclass(frozen=True)
class _Use:
    """One node that reads a weight: which input that is, and the axis of the weight that its output's channels lie on."""

    node: ir.Node
    place: int
    axis: int


def quantize_weights(model: ir.Model, keep_float: Iterable[str] = (), *, packed_tables: bool = True) -> Quantized:
    """A copy of `model` with int8 weights in each Conv, ConvTranspose, Gemm, MatMul and embedding, but those that `keep_float` names.

    `packed_tables`: rows are picked from an embedding's integers; else its whole table is unpacked in front of it, like any weight.

    Raises:
        ExportError: the opset is below 13, nothing has weights to quantize, or a pattern of `keep_float` names nothing.
    """
    if opset_of(model) < AXIS_OPSET:
        raise ExportError(f"int8-weights needs opset {AXIS_OPSET} (a scale a channel), the graph has {opset_of(model)}; raise its opset first")
    kept = kept_float(model, keep_float)
    copy = infer_shapes(tidy(model.clone()))
    uses: dict[ir.Value, list[_Use]] = {}
    for node in copy.graph:
        if (found := _weight_of(node)) is not None:
            uses.setdefault(node.inputs[found.place], []).append(found)
    done: list[str] = []
    notes = [NOTE]
    for weight, readers in uses.items():
        free = [use for use in readers if use.node.name not in kept]
        notes += [f"`{use.node.name}` ({use.node.op_type}) stays float: kept float by `keep_float`" for use in readers if use not in free]
        if free and (reason := _unfit(weight)):
            notes += [f"`{use.node.name}` ({use.node.op_type}) stays float: {reason}" for use in free]
        elif len(free) < len(readers) and free:
            # The float table stays in the file anyway: integers beside it would make it larger.
            notes += [f"`{use.node.name}` ({use.node.op_type}) stays float: it shares its weights with a node that is kept float" for use in free]
        elif free:
            _quantize(copy.graph, weight, free, packed_tables)
            done += [str(use.node.name) for use in free]
    if not done:
        left = "; ".join(notes[1:]) or "no node of it has constant weights"
        raise ExportError(f"int8-weights finds no weights to quantize in this graph: {left}")
    return Quantized(infer_shapes(tidy(copy)), tuple(done), tuple(notes))


def _weight_of(node: ir.Node) -> _Use | None:
    """Where a node's constant float weights are, None where it has none of a known kind."""
    if node.domain:
        return None
    place = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "Gather": 0}.get(node.op_type, -1)
    if node.op_type == "MatMul":
        place = 1 if constant(node.inputs[1]) is not None else 0
    held = constant(node.inputs[place]) if place >= 0 else None
    if held is None or held.dtype != np.float32 or held.ndim < 2:
        return None
    return _Use(node, place, _axis(node, place, held.ndim))


def _axis(node: ir.Node, place: int, rank: int) -> int:
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1  # [in, out / groups, ...]: groups share the scales of their channels
        case "Gemm":
            return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
        case "MatMul":
            return rank - 1 if place == 1 else rank - 2
    # Each column of an embedding has its own scale, as the layers that read it take columns for channels.
    return rank - 1


def _unfit(weight: ir.Value) -> str:
    held = constant(weight)
    if held.size < SMALLEST:
        return f"{held.size} weights are too few to gain by it"
    if not np.isfinite(held).all():
        return "its weights hold infinity or NaN"
    return "its weights are an output of the graph" if weight.is_graph_output() else ""


def _quantize(graph: ir.Graph, weight: ir.Value, readers: list[_Use], packed_tables: bool) -> None:
    """Replace one weight in all nodes that read it. It is stored once, in the channels of the layer that multiplies by it."""
    layers = [use for use in readers if use.node.op_type != "Gather"]
    axis = (layers or readers)[0].axis
    integers, scales = quantize_symmetric(constant(weight), axis)
    name = str(weight.name)
    packed, scale = add_constant(graph, f"{name}/int8", integers), add_constant(graph, f"{name}/scale", scales)
    if packed_tables and not layers and all(_picks_rows(use.node) for use in readers):
        for use in readers:
            _unpack_rows(graph, use.node, packed, scale)
        return
    first = min(readers, key=lambda use: _position(graph, use.node)).node
    unpacked = _insert(graph, first, "DequantizeLinear", [packed, scale], f"{name}/real", axis)
    for use in readers:
        use.node.replace_input_with(use.place, unpacked)


def _picks_rows(node: ir.Node) -> bool:
    """Whether a Gather takes rows by indices of known rank, so that the columns' axis of its result is known."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    table, indices = constant(node.inputs[0]), node.inputs[1]
    return axis == 0 and table.ndim == 2 and indices is not None and indices.shape is not None


def _unpack_rows(graph: ir.Graph, node: ir.Node, packed: ir.Value, scale: ir.Value) -> None:
    """Gather integers and unpack what was picked."""
    result = node.outputs[0]
    users = [(use.node, use.idx) for use in result.uses()]
    node.replace_input_with(0, packed)
    rank = node.inputs[1].shape.rank()
    name, is_output = str(result.name), result.is_graph_output()
    unpacked = ir.node("DequantizeLinear", [result, scale], {"axis": rank}, num_outputs=1, name=f"{node.name}/real")
    graph.insert_after(node, unpacked)
    made = unpacked.outputs[0]
    made.shape, made.type = result.shape, result.type
    for user, place in users:
        user.replace_input_with(place, made)
    if is_output:
        graph.outputs[list(graph.outputs).index(result)] = made
    result.name, result.type = f"{name}/int8", None
    made.name = name


def _insert(graph: ir.Graph, before: ir.Node, operator: str, inputs: list[ir.Value], name: str, axis: int) -> ir.Value:
    node = ir.node(operator, inputs, {"axis": axis}, num_outputs=1, name=name)
    node.outputs[0].name = name
    graph.insert_before(before, node)
    made: ir.Value = node.outputs[0]
    return made


def _position(graph: ir.Graph, node: ir.Node) -> int:
    return next(place for place, each in enumerate(graph) if each is node)
