"""What of a graph computes on integers after lowering and what does not, and why: node, operator, reason. Nothing is left out in silence."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from kdedge.exporters.equivalence import run
from kdedge.exporters.foreign.inputs import Feed
from kdedge.exporters.foreign.opening import graphs_inside
from kdedge.exporters.model_file import constant, load_model
from kdedge.exporters.quantize.roles import MOVING, WEIGHTED, channel_axis
from kdedge.exporters.quantize.wiring import attribute

#: Constants of fewer elements are thresholds, masks and the like, not weights.
SMALLEST_WEIGHT = 1024
_LOOKS_UP = frozenset({"Gather", "GatherElements", "GatherND"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})  # their weights may be put together by other nodes


@dataclass(frozen=True)
class FloatNode:
    """A node that stays float and has weights, or might have run on integers. `weights`: how many numbers it holds."""

    node: str
    operator: str
    reason: str
    weights: int = 0

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer, with weights or as one that may have them, and not something that stands between layers."""
        return self.weights > 0 or self.operator in WEIGHTED | _RECURRENT


@dataclass(frozen=True)
class Shares:
    """Of the multiplications in convolutions and matrix products, counted on one example, and of all their weights: how many are on integers.

    `inside`: how many of these nodes are inside of control flow. Their weights count, as float; their multiplications do not, since how often they
    run depends on the input.
    """

    operations: int
    integer_operations: int
    weights: int
    integer_weights: int
    inside: int = 0

    @property
    def operations_share(self) -> float:
        """From 0 to 1; 0 where there are none."""
        return self.integer_operations / self.operations if self.operations else 0.0


def left_float(path: Path, told: Mapping[str, str], known: Mapping[str, str]) -> tuple[FloatNode, ...]:
    """The float nodes of the graph at `path` after a lowering, in graph order. `told`: the reasons that it gave, by node; `known`: better ones."""
    reasons = {name: known.get(name, reason) for name, reason in told.items()}
    model = load_model(path)
    inside = _inside(model)
    found = []
    for node in model.graph.all_nodes():
        name, operator = str(node.name), str(node.op_type)
        holds = _weights(node)
        if node in inside:
            if operator in WEIGHTED | _RECURRENT or holds:
                found.append(FloatNode(name, operator, f"it is inside the control flow of `{inside[node]}`", holds))
        elif name in reasons:
            found.append(FloatNode(name, operator, reasons[name], holds))
        elif node.domain not in ("", "ai.onnx"):
            found.append(FloatNode(name, f"{node.domain}.{operator}", "an operator of one runtime", holds))
        elif operator in _RECURRENT or (operator not in WEIGHTED and holds):
            what = "a table that is looked up" if operator in _LOOKS_UP else f"no integer kernel for {operator}"
            found.append(FloatNode(name, operator, what, holds))
    return tuple(found)


def _inside(model: ir.Model) -> dict[ir.Node, str]:
    """Nodes of subgraphs, with the node of the main graph that they belong to."""
    found: dict[ir.Node, str] = {}

    def enter(node: ir.Node, owner: str) -> None:
        for graph in graphs_inside(node):
            for one in graph:
                found[one] = owner
                enter(one, owner)

    for node in model.graph:
        enter(node, str(node.name))
    return found


def _weights(node: ir.Node) -> int:
    """How many numbers a node's own matrices and tables hold. A row of constants is a bias or a scale, and one that is only moved is no weight."""
    if node.op_type in MOVING - _LOOKS_UP:
        return 0
    held = [constant(value) for value in node.inputs if value is not None]
    large = [array for array in held if array is not None and array.dtype.kind == "f" and array.size >= SMALLEST_WEIGHT]
    return sum(int(array.size) for array in large if sum(size > 1 for size in array.shape) > 1)


def count_shares(path: Path, integers: Collection[str], feed: Feed) -> Shares:
    """Count multiplications of the graph at `path` on one call; `integers` are the names of the nodes that do theirs on integers.

    Raises:
        ExportError: the graph cannot be run.
    """
    model = load_model(path)
    nodes = [node for node in model.graph if node.op_type in WEIGHTED and not node.domain]
    touched = {str(value.name): value for node in nodes for value in (*node.inputs[:2], node.outputs[0]) if value is not None}
    held = {name: array for name, value in touched.items() if (array := constant(value)) is not None}
    asked = [name for name, value in touched.items() if value.producer() is not None and name not in held]
    model.graph.outputs.extend(touched[name] for name in asked if not touched[name].is_graph_output())
    (results,) = run(model, [feed], asked) if asked else ({},)
    shapes = {name: array.shape for name, array in (*held.items(), *results.items(), *feed.items())}
    hidden = [node for node in _inside(model) if node.op_type in WEIGHTED and not node.domain]
    operations = integer_operations = integer_weights = 0
    weights = sum(_constants(node) for node in hidden)
    for node in nodes:
        size = sum(int(held[str(value.name)].size) for value in node.inputs[:2] if value is not None and str(value.name) in held)
        count = _operations(node, *(shapes[str(value.name)] for value in (*node.inputs[:2], node.outputs[0])))
        operations, weights = operations + count, weights + size
        if node.name in integers:
            integer_operations, integer_weights = integer_operations + count, integer_weights + size
    return Shares(operations, integer_operations, weights, integer_weights, len(hidden))


def _constants(node: ir.Node) -> int:
    """How many numbers a product multiplies by that do not depend on the input."""
    return sum(int(array.size) for value in node.inputs[:2] if (array := constant(value)) is not None)


def _operations(node: ir.Node, read: tuple[int, ...], weight: tuple[int, ...], made: tuple[int, ...]) -> int:
    """Multiplications of one node, by the shapes of what it reads, multiplies with, and makes."""
    if node.op_type in ("MatMul", "Gemm"):
        return math.prod(made) * read[0 if attribute(node, "transA", 0) else -1]
    channels = weight[channel_axis(node, len(weight))] if node.op_type == "Conv" else weight[0]
    return math.prod(made if node.op_type == "Conv" else read) * math.prod(weight) // max(1, channels)
