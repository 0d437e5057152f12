"""Identity, dropout of inference and casts to the dtype that a value has already: gone; equal subexpressions computed once."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.graph_pass import GraphPass


def remove_identity(model: ir.Model) -> int:
    """Remove nodes that do nothing. Graph inputs and outputs keep their names."""
    before = len(model.graph)
    for node in list(model.graph):
        if not _does_nothing(node):
            continue
        source, made = node.inputs[0], node.outputs[0]
        if not made.is_graph_output():
            made.replace_all_uses_with(source)
        elif source.producer() is not None and not source.is_graph_output():
            # The output under its name, straight from what makes it; a value that is an output already has a name of its own.
            ir.convenience.replace_all_uses_with(made, source, replace_graph_outputs=True)
            source.name, source.type = made.name, made.type or source.type
            source.shape = source.shape if made.shape is None else made.shape  # no inference knows the names that were declared
        else:
            continue
        model.graph.remove(node, safe=True)
    common.CommonSubexpressionEliminationPass()(model)
    return before - len(model.graph)


def _does_nothing(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if source is None or node.domain:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Cast":
        return source.dtype is not None and node.attributes["to"].as_int() == source.dtype
    return node.op_type == "Dropout" and not _trains(node) and not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])


def _trains(node: ir.Node) -> bool:
    """Whether a Dropout may drop something: its third input says so (a second one alone is the ratio of a training that is over)."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = constant(node.inputs[2])
    return mode is None or bool(mode)


PASS = GraphPass("remove_identity", (7, 26), remove_identity)
