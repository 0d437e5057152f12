"""Which tensors of a graph a dialect quantizes, who reads them quantized, and which of them share a scale. Decides; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.quantize.ranges import RangeTable, Weight
from kdedge.exporters.quantize.roles import moved_inputs
from kdedge.exporters.quantize.wiring import FOLDED, constant, folded_into, is_float_activation, is_operand


@dataclass
class Plan:
    """`points`: values that get a Q/DQ pair, in graph order. `reads`: (node, input) that read the dequantized value of a point.
    `everywhere`: points that all readers, and the graph's outputs, see dequantized, because an integer kernel makes them.
    `weighted`: nodes whose weights are quantized. `moving`: nodes that work on the integers themselves.
    `constants`: (node, input) of other float constants that are quantized.
    `groups`: values that must share a scale, each set once. `float_nodes`: nodes that stay float where they might not, and why.
    """

    points: list[Any] = field(default_factory=list)
    reads: dict[Any, list[tuple[Any, int]]] = field(default_factory=dict)
    everywhere: set[Any] = field(default_factory=set)
    weighted: dict[Any, Weight] = field(default_factory=dict)
    moving: list[Any] = field(default_factory=list)
    constants: list[tuple[Any, int]] = field(default_factory=list)
    groups: list[list[Any]] = field(default_factory=list)
    float_nodes: dict[str, str] = field(default_factory=dict)


def plan(graph: Any, table: RangeTable, dialect: Dialect) -> Plan:
    """Apply the places of a dialect to a float graph whose structure and ranges are in `table`."""
    return _Planner(graph, table, dialect).run()


class _Planner:
    def __init__(self, graph: Any, table: RangeTable, dialect: Dialect) -> None:
        self.graph = graph
        self.table = table
        self.dialect = dialect
        self.plan = Plan()
        self.known = {row.name for row in table.activations}
        self.shared = {row.node for row in table.structure.shared}
        self.beyond = {} if dialect.leaves_no_float else dict(_beyond(graph, table, dialect))
        self.kept = {*table.keep_float, *self.beyond}
        self.quantized: set[Any] = set()  # values that exist as integers: points, and what moving nodes make of them
        self.wanted: set[Any] = set()  # values that reach a weighted node through nodes that can run on integers

    def run(self) -> Plan:
        self._choose_weighted()
        self._find_wanted()
        for node in self.graph:
            if node in self.plan.weighted:
                self._quantize_input(node, 0)
                if node.op_type in self.dialect.operators("outputs") or self.dialect.leaves_no_float:
                    self._quantize_output(node)
            elif node.name not in self.kept and self.dialect.leaves_no_float:
                self._surround(node)
            elif node.name not in self.kept:
                self._extend(node)
        self._quantize_shortcuts()
        self._order_points()
        sharing = self._sharing_nodes()
        self.plan.groups = list(_joined(sharing))
        if not self.dialect.moves_integers:
            self._read_integers(sharing)
        return self.plan

    # ---- weighted nodes --------------------------------------------------------------------------------------------------

    def _choose_weighted(self) -> None:
        rows = {row.node: row for row in self.table.structure.weights}
        takes = self.dialect.operators("inputs")
        for node in self.graph:
            row = rows.get(node.name)
            if row is None:
                continue
            reason = self._refusal(row, takes)
            if reason:
                self.plan.float_nodes[node.name] = reason
            else:
                self.plan.weighted[node] = row

    def _refusal(self, row: Weight, takes: frozenset[str]) -> str:
        if row.node in self.kept:
            return self.beyond.get(row.node, "kept float by `keep_float`")
        if row.operator not in takes:
            return f"{self.dialect.name} has no integer kernel for {row.operator}"
        return self.dialect.refuses(row)

    def _find_wanted(self) -> None:
        passes = self.dialect.operators("around") | FOLDED
        for node in reversed(list(self.graph)):
            if node in self.plan.weighted:
                self.wanted.add(node.inputs[0])
            elif node.name not in self.kept and any(value in self.wanted for value in node.outputs):
                if node.op_type in passes:
                    self.wanted.update(value for value in node.inputs if is_float_activation(value))
                elif node.name in self.shared:
                    self.wanted.update(moved_inputs(node))

    # ---- the rest of the places ------------------------------------------------------------------------------------------

    def _extend(self, node: Any) -> None:
        """Take a node without weights in, where the dialect has a place for it and it gains something."""
        wanted = any(value in self.wanted for value in node.outputs)
        if node.op_type in self.dialect.operators("around"):
            if wanted and self._has_place(node):
                for place in range(len(node.inputs)):
                    self._quantize_operand(node, place)
                self._quantize_output(node)
        elif node.op_type in self.dialect.moves_integers and node.name in self.shared:
            inputs = list(moved_inputs(node))
            if wanted and any(value in self.plan.everywhere for value in inputs):
                # The other inputs of a Concat: to quantize them costs less than to dequantize this one and to quantize the result.
                for value in inputs:
                    if value not in self.quantized:
                        self._add_point(value)
            made_of_integers = wanted or all(value in self.plan.everywhere for value in inputs)
            if made_of_integers and all(value in self.quantized for value in inputs):
                self.plan.moving.append(node)
                self.quantized.update(node.outputs)
                self.plan.everywhere.update(node.outputs)
        elif node.op_type in self.dialect.operators("inputs") and wanted and node.name in self.shared:
            self._quantize_input(node, 0)

    def _surround(self, node: Any) -> None:
        """Quantize all that a node reads and makes, where the dialect leaves nothing in float."""
        held = [value for value in (*node.inputs, *node.outputs) if value is not None and is_float_activation(value)]
        if any(folded_into(value).name not in self.known for value in held):
            self.plan.float_nodes[node.name] = f"no range was observed for what {node.op_type} reads or makes"
            return
        if any(is_operand(node, place) and not _is_finite_operand(node, place) for place in range(len(node.inputs))):
            self.plan.float_nodes[node.name] = f"{node.op_type} reads a constant that is not finite, for which no integer stands"
            return
        for place in range(len(node.inputs)):
            self._quantize_operand(node, place)
        for value in node.outputs:
            landing = folded_into(value)
            if is_float_activation(value):
                self._add_point(landing)
                self.plan.everywhere.add(landing)

    def _known_activation(self, value: Any) -> bool:
        return value is not None and is_float_activation(value) and value.name in self.known

    def _has_place(self, node: Any) -> bool:
        """Whether all inputs are quantized, or can be and one comes from an integer kernel."""
        values = [(place, value) for place, value in enumerate(node.inputs) if value is not None]
        if all(value in self.quantized for _, value in values):
            return True
        can_be = all(self._known_activation(value) or _is_finite_operand(node, place) for place, value in values)
        return can_be and any(value in self.plan.everywhere for _, value in values)

    def _quantize_operand(self, node: Any, place: int) -> None:
        value = node.inputs[place]
        if self._known_activation(value):
            self._quantize_input(node, place)
        elif _is_finite_operand(node, place):
            self.plan.constants.append((node, place))

    def _quantize_input(self, node: Any, place: int) -> None:
        value = node.inputs[place]
        self._add_point(value)
        self.plan.reads.setdefault(value, []).append((node, place))

    def _quantize_output(self, node: Any) -> None:
        value = folded_into(node.outputs[0])
        self._add_point(value)
        self.plan.everywhere.add(value)

    def _add_point(self, value: Any) -> None:
        if value not in self.quantized:
            self.quantized.add(value)
            self.plan.points.append(value)

    def _quantize_shortcuts(self) -> None:
        if not self.dialect.operators("shortcut"):
            return
        nodes = {node.name: node for node in self.graph}
        for row in self.table.structure.residuals:
            node = nodes[row.node]
            main = next(value for value in node.inputs if value.name == row.main)
            place = next(place for place, value in enumerate(node.inputs) if value.name == row.shortcut)
            if node.name not in self.kept and main.producer() in self.plan.weighted:
                self._quantize_input(node, place)

    def _order_points(self) -> None:
        made = {value: place for place, node in enumerate(self.graph) for value in node.outputs}
        self.plan.points.sort(key=lambda value: made.get(value, -1))

    # ---- shared scales ---------------------------------------------------------------------------------------------------

    def _sharing_nodes(self) -> list[Any]:
        """Nodes whose values share a scale: those that move integers, or (where a runtime moves Q/DQ itself) those that lead to a point."""
        if self.dialect.moves_integers:
            return self.plan.moving
        active, ends = [], set(self.plan.points)
        for node in reversed(list(self.graph)):
            if node.name in self.shared and node.name not in self.kept and any(value in ends for value in node.outputs):
                active.append(node)
                ends.update(moved_inputs(node))
        return active[::-1]

    def _read_integers(self, sharing: list[Any]) -> None:
        """Between two points of one scale, read the first one's integers: that changes no bit, and the runtime moves 8 bits instead of 32."""
        points = set(self.plan.points)
        for node in sharing:
            for place, value in enumerate(moved_inputs(node)):
                if value in points and (node, place) not in self.plan.reads.get(value, []):
                    self._quantize_input(node, place)


def _beyond(graph: Any, table: RangeTable, dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Nodes that touch a tensor whose range no scale of the dialect can say, and why they stay float. Of weights the largest channel counts: the
    others have no wider steps than it has. A tensor of zeros has any scale."""
    lowest, highest = dialect.activation.limits
    spans = {
        row.name: row.symmetric / highest if dialect.activation.symmetric else -np.subtract(*row.affine) / (highest - lowest)
        for row in table.activations
    }
    reaches = {row.name: max(row.symmetric, default=0.0) / dialect.weight.limits[1] for row in table.weights}
    lowest_scale, highest_scale = dialect.smallest_scale, dialect.largest_scale
    wanted = {name: scale for name, scale in (*spans.items(), *reaches.items()) if scale > highest_scale or 0.0 < scale < lowest_scale}
    for node in graph if wanted else ():
        touched = next((value.name for value in (*node.inputs, *node.outputs) if value is not None and value.name in wanted), None)
        if touched is not None:
            scale = wanted[touched]
            limit = f"large (at most {highest_scale:.3g})" if scale > highest_scale else f"small (at least {lowest_scale:.3g})"
            yield str(node.name), f"`{touched}` needs steps of {scale:.3g}: no scale of {dialect.name} is so {limit}"


def _is_finite_operand(node: Any, place: int) -> bool:
    held = constant(node.inputs[place])
    return is_operand(node, place) and held is not None and bool(np.isfinite(held).all())


def _joined(nodes: list[Any]) -> Iterator[list[Any]]:
    """Sets of values joined by nodes that move them, directly or over others."""
    leader: dict[Any, Any] = {}

    def find(value: Any) -> Any:
        while leader.setdefault(value, value) is not value:
            value = leader[value]
        return value

    for node in nodes:
        tensors = [*moved_inputs(node), *(value for value in node.outputs if is_float_activation(value))]
        for value in tensors[1:]:
            leader[find(value)] = find(tensors[0])
    members: dict[Any, list[Any]] = {}
    for value in leader:
        members.setdefault(find(value), []).append(value)
    yield from members.values()
