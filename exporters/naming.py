"""Names that people know and bytes that repeat: what an exporter left in a graph is cleaned away, nodes are named after the module they came from.

A node becomes `layer1.0.conv1/Conv`, its output has the same name, so that a pattern of the recipe (`keep_float: [fc/*]`), a row of the
drift table and a layer in a runtime's profile read alike. Inputs, outputs and parameters keep their names.
"""

from __future__ import annotations

import ast
import re

import onnx_ir as ir
from onnx_ir.passes import common

_MODULE = re.compile(r"[A-Za-z0-9]\w*(\.\w+)*")
_SCOPES = "pkg.torch.onnx.name_scopes"


def strip(model: ir.Model) -> None:
    """Remove everything that says where and from which code a graph was made: metadata, doc strings, producer, stack traces and paths."""
    common.ClearMetadataAndDocStringPass()(model)
    model.doc_string = None
    model.producer_name = "kdedge"
    model.producer_version = None
    model.domain = None
    model.model_version = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.name = "student"
    for value in _all_values(model):
        value.metadata_props.clear()
        value.doc_string = None


def name_after_modules(model: ir.Model, wrapper: str = "inner") -> None:
    """Rename nodes, intermediate values and nameless constants by the scopes that torch's exporter recorded (call it before `strip`).

    `wrapper`: the attribute under which kdedge's own model holds the student's; people do not know it, so names start below it.
    """
    for value in list(model.graph.initializers.values()):
        value.name = _below(str(value.name), wrapper)
    taken: dict[str, int] = {str(value.name): 0 for value in (*model.graph.inputs, *model.graph.outputs)}
    fixed = set(model.graph.outputs)
    for node in model.graph:
        scope = _below(_scope(node), wrapper)
        node.name = _unique(f"{scope}/{node.op_type}" if scope else node.op_type, taken)
        for place, value in enumerate(node.outputs):
            if value not in fixed:
                value.name = node.name if place == 0 else f"{node.name}:{place}"
    for value in list(model.graph.initializers.values()):
        name = str(value.name)
        if name.endswith(".weight_bias") and (bias := name.removesuffix("weight_bias") + "bias") not in model.graph.initializers:
            value.name = name = bias  # what folding a batch normalisation made
        if _is_parameter_name(name):
            taken[name] = 0
    for node in model.graph:
        for place, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and str(value.name) not in taken:
                value.name = _unique(f"{node.name}.{place}", taken)


def ensure_names(model: ir.Model) -> None:
    """Give a name to each node and value that has none or shares one; the others keep theirs (for graphs that people made)."""
    common.NameFixPass()(model)
    seen: set[str] = set()
    for node in model.graph.all_nodes():
        base = node.name or node.op_type
        name, number = base, 1
        while name in seen:
            name, number = f"{base}_{number}", number + 1
        node.name = name
        seen.add(name)


def _scope(node: ir.Node) -> str:
    """The dotted module that a node came from: the owner of a convolution's weight (where batch normalisation was folded in, torch's record
    names the normalisation), else torch's record, else the owner of whatever parameter the node reads."""
    if node.op_type in ("Conv", "ConvTranspose") and (owner := _owner(node.inputs[1])):
        return owner
    if recorded := node.metadata_props.get(_SCOPES):
        module = (ast.literal_eval(recorded)[:-1] or [""])[-1]
        if isinstance(module, str) and _MODULE.fullmatch(module):
            return module
    return next((owner for value in node.inputs if (owner := _owner(value))), "")


def _owner(value: ir.Value | None) -> str:
    if value is None or not value.is_initializer() or not _is_parameter_name(str(value.name)):
        return ""
    return str(value.name).rpartition(".")[0]


def _is_parameter_name(name: str) -> bool:
    return not name.startswith("val_")


def _below(name: str, wrapper: str) -> str:
    return "" if name == wrapper else name.removeprefix(f"{wrapper}.")


def _unique(name: str, taken: dict[str, int]) -> str:
    if name not in taken:
        taken[name] = 0
        return name
    while True:
        taken[name] += 1
        candidate = f"{name}_{taken[name]}"
        if candidate not in taken:
            taken[candidate] = 0
            return candidate


def _all_values(model: ir.Model) -> list[ir.Value]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        values.extend(node.outputs)
    return values
