"""A float16 graph in float32: what it computes becomes more exact, and quantizers and CPUs can work on it. Inputs and outputs keep their types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from kdedge.exporters.foreign.opening import graphs_of

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
#: Attributes that name the type of a result.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")


def computes_in_half(model: ir.Model) -> bool:
    """Whether any weight, input or cast of the graph is float16."""
    return any(
        any(value.dtype == _HALF for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()))
        or any(value.dtype == _HALF for node in graph for value in node.outputs)
        or any(_names_half(attribute) for node in graph for attribute in node.attributes.values())
        for graph in graphs_of(model)
    )


def widen(model: ir.Model) -> None:
    """Make all float16 in the graph, and in graphs inside of it, float32; casts at the inputs and outputs keep the interface."""
    outputs = [value for value in model.graph.outputs if value.dtype == _HALF]
    inputs = [value for value in model.graph.inputs if value.dtype == _HALF]
    for graph in list(graphs_of(model)):
        for value in list(graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype == _HALF:
                value.const_value = _widened(value.const_value)
                value.type = ir.TensorType(_FLOAT)
        for node in graph:
            _widen_attributes(node)
            for value in node.outputs:
                _widen_type(value)
        for value in (*graph.inputs, *graph.outputs):
            _widen_type(value)
    for value in inputs:
        _cast_input(model.graph, value)
    for value in dict.fromkeys(outputs):
        _cast_output(model.graph, value)


def _names_half(attribute: Any) -> bool:
    if attribute.type == ir.AttributeType.TENSOR:
        return bool(attribute.as_tensor().dtype == _HALF)
    return attribute.name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.as_int() == _HALF


def _widened(tensor: Any) -> Any:
    return ir.tensor(np.asarray(tensor.numpy(), np.float32), name=tensor.name)


def _widen_type(value: ir.Value) -> None:
    if value.dtype == _HALF:
        value.type = ir.TensorType(_FLOAT)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if not _names_half(attribute):
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        else:
            node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))


def _cast_input(graph: ir.Graph, value: ir.Value) -> None:
    value.type = ir.TensorType(_HALF)
    cast = ir.node("Cast", [value], {"to": int(_FLOAT)}, name=f"{value.name}_to_float32")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = f"{value.name}_float32", ir.TensorType(_FLOAT), value.shape
    for use in list(value.uses()):
        if use.node is not cast:
            use.node.replace_input_with(use.idx, cast.outputs[0])
    first = next(iter(graph), None)
    if first is None:
        graph.append(cast)
    else:
        graph.insert_before(first, [cast])


def _cast_output(graph: ir.Graph, value: ir.Value) -> None:
    """A graph output under its name, cast from what the graph now makes."""
    if value.is_graph_input():
        return  # handed through, and it kept its type
    name = str(value.name)
    value.name = f"{name}_float32"
    cast = ir.node("Cast", [value], {"to": int(_HALF)}, name=f"{name}_to_float16")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(_HALF), value.shape
    graph.append(cast)
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = cast.outputs[0]
