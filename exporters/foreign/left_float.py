"""What of a graph computes on integers after lowering and what does not, and why: node, operator, reason. Nothing is left out in silence."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from kdedge.exporters.equivalence import run
from kdedge.exporters.foreign.inputs import Feed
from kdedge.exporters.model_file import constant, load_model
from kdedge.exporters.quantize.lower import LoweredReport
from kdedge.exporters.quantize.roles import MOVING, WEIGHTED, channel_axis

#: Constants of fewer elements are thresholds, masks and the like, not weights.
SMALLEST_WEIGHT = 1024
_NOTE = re.compile(r"`(?P<node>.*)` \((?P<operator>\w+)\) stays float: (?P<reason>.*)", re.DOTALL)
_LOOKS_UP = frozenset({"Gather", "GatherElements", "GatherND"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})  # their weights may be put together by other nodes


@dataclass(frozen=True)
class FloatNode:
    """A node with weights (or a whole subgraph) that stays float. `weights`: how many numbers it holds."""

    node: str
    operator: str
    reason: str
    weights: int = 0


@dataclass(frozen=True)
class Shares:
    """Of the multiplications in convolutions and matrix products, counted on one example, and of all their weights: how many are on integers."""

    operations: int
    integer_operations: int
    weights: int
    integer_weights: int

    @property
    def operations_share(self) -> float:
        """From 0 to 1; 0 where there are none."""
        return self.integer_operations / self.operations if self.operations else 0.0


def left_float(path: Path, report: LoweredReport, known: Mapping[str, str]) -> tuple[tuple[FloatNode, ...], tuple[str, ...]]:
    """The float nodes of the graph at `path` after the lowering that `report` tells of, in graph order; and the report's other notes.
    `known`: better reasons than the report's, by node."""
    reasons, notes = _reasons(report)
    reasons |= {name: reason for name, reason in known.items() if name in reasons}
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
    return tuple(found), notes


def _reasons(report: LoweredReport) -> tuple[dict[str, str], tuple[str, ...]]:
    reasons, notes = {}, []
    for note in report.notes:
        if match := _NOTE.fullmatch(note):
            reasons[match["node"]] = match["reason"]
        else:
            notes.append(note)
    return reasons, tuple(notes)


def _inside(model: ir.Model) -> dict[ir.Node, str]:
    """Nodes of subgraphs, with the node of the main graph that they belong to."""
    found: dict[ir.Node, str] = {}

    def walk(graph: Any, owner: str) -> None:
        for node in graph:
            if owner:
                found[node] = owner
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    walk(attribute.as_graph(), owner or str(node.name))
                elif attribute.type == ir.AttributeType.GRAPHS:
                    for one in attribute.as_graphs():
                        walk(one, owner or str(node.name))

    walk(model.graph, "")
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

    Products inside of subgraphs are not counted: how often they run depends on the input.

    Raises:
        ExportError: the graph cannot be run.
    """
    model = load_model(path)
    nodes = [node for node in model.graph if node.op_type in WEIGHTED and not node.domain]
    probe = model.clone()
    probed = [node for node in probe.graph if node.op_type in WEIGHTED and not node.domain]
    wanted = {str(value.name): value for node in probed for value in (*node.inputs[:2], node.outputs[0]) if value is not None}
    asked = {name: value for name, value in wanted.items() if value.producer() is not None and constant(value) is None}
    probe.graph.outputs.extend(value for value in asked.values() if not value.is_graph_output())
    (results,) = run(probe, [feed], list(asked)) if asked else ({},)
    shapes = {name: array.shape for name, array in (*results.items(), *feed.items())}
    operations = integer_operations = weights = integer_weights = 0
    for node in nodes:
        held = constant(node.inputs[1])
        size = 0 if held is None else int(held.size)
        count = _operations(node, shapes, held)
        operations, weights = operations + count, weights + size
        if node.name in integers:
            integer_operations, integer_weights = integer_operations + count, integer_weights + size
    return Shares(operations, integer_operations, weights, integer_weights)


def _operations(node: ir.Node, shapes: dict[str, tuple[int, ...]], held: Any) -> int:
    made, read = shapes.get(str(node.outputs[0].name), ()), shapes.get(str(node.inputs[0].name) if node.inputs[0] is not None else "", ())
    if node.op_type in ("MatMul", "Gemm"):
        inner = read[0 if "transA" in node.attributes and node.attributes["transA"].as_int() else -1] if read else 0
        return int(np.prod(made, dtype=np.int64)) * int(inner)
    if held is None:
        return 0
    elements = made if node.op_type == "Conv" else read
    channels = held.shape[channel_axis(node, held.ndim)] if node.op_type == "Conv" else held.shape[0]
    return int(np.prod(elements, dtype=np.int64)) * int(held.size) // max(1, int(channels))
