"""Writes what a plan decided into the graph: Q/DQ pairs, integer weights and biases, and nodes that move integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.quantize import encoding
from kdedge.exporters.quantize.encoding import Encoding
from kdedge.exporters.quantize.plan import Plan
from kdedge.exporters.quantize.ranges import RangeTable, Weight
from kdedge.exporters.quantize.roles import WEIGHTED
from kdedge.exporters.quantize.wiring import FOLDED, NORMALIZING, bias_place, constant, folded_into

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


class Writer:
    """Rewrites one graph in place. `encodings` holds one for each point and for each value that a moving node makes."""

    def __init__(self, graph: Any, plan: Plan, encodings: dict[Any, Encoding], dialect: Dialect, table: RangeTable) -> None:
        self.graph = graph
        self.plan = plan
        self.encodings = encodings
        self.dialect = dialect
        self.ranges = table.weight_ranges()
        self.names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        self.names |= {str(value.name) for node in graph for value in node.outputs}
        self.node_names = {str(node.name) for node in graph}
        self.moving = set(plan.moving)
        self.integers: dict[Any, Any] = {}  # value -> the same as integers
        self.weights: dict[tuple[str, int, bytes], Any] = {}  # dequantized weights that nodes share
        self.superseded: list[tuple[Any, Any]] = []  # values behind activations that the integers make superfluous, and those before

    def write(self) -> None:
        """Weights first (they look activations' encodings up by the float values), then everything else in graph order."""
        for node, row in self.plan.weighted.items():
            self._write_weight(node, row)
        for node, place in self.plan.constants:
            self._write_constant(node, place)
        points = set(self.plan.points)
        first = next(iter(self.graph))
        for value in self.graph.inputs:
            if value in points:
                self._write_pair(value, before=first)
        for node in list(self.graph):
            if node in self.moving:
                self._write_moving(node)
            for value in list(node.outputs):
                if value in points:
                    self._write_pair(value, after=node)
        self._remove_superseded()

    # ---- activations -----------------------------------------------------------------------------------------------------

    def _write_pair(self, value: Any, after: Any = None, before: Any = None) -> None:
        uses = self._uses_of_dequantized(value)
        is_output = value in self.plan.everywhere and value.is_graph_output()
        scale, zero = self._parameters(value)
        base = str(value.name)
        source = self._without_activation(value) if value in self.plan.everywhere and self.dialect.drops_activations else value
        quantize = self._node("QuantizeLinear", [source, scale, zero], base, self._integer_type(), value.shape)
        self.integers[value] = quantize.outputs[0]
        dequantize = self._node("DequantizeLinear", [quantize.outputs[0], scale, zero], base, ir.DataType.FLOAT, value.shape)
        self._insert([quantize, dequantize], after, before)
        for node, place in uses:
            node.replace_input_with(place, dequantize.outputs[0])
        if is_output:
            self._take_over_output(value, dequantize.outputs[0], "float")
        if source is not value:
            self.superseded.append((value, source))

    def _without_activation(self, value: Any) -> Any:
        """The value before the activations that the integers' range cuts in the same places, so that they need not be computed."""
        held, (lowest, highest) = self.encodings[value], self.dialect.activation.limits
        low, high = ((end - held.zero_point) * float(held.scale) for end in (lowest, highest))
        point = value
        while (node := value.producer()) is not None and node.op_type in FOLDED and folded_into(node.inputs[0]) is point:
            least, most = _ends(node)
            if low < least or high > most * (1 + 1e-6):
                break
            value = node.inputs[0]
        return value

    def _remove_superseded(self) -> None:
        for value, source in self.superseded:
            while value is not source:
                node = value.producer()
                value = node.inputs[0]
                self.graph.remove(node, safe=True)

    def _uses_of_dequantized(self, value: Any) -> list[tuple[Any, int]]:
        if value not in self.plan.everywhere:
            return [(node, place) for node, place in self.plan.reads.get(value, []) if node not in self.moving]
        return [(use.node, use.idx) for use in value.uses() if use.node not in self.moving]

    def _write_moving(self, node: Any) -> None:
        """Feed integers in; what comes out is integers, and is dequantized for those who read it as numbers."""
        for place in range(len(node.inputs) if node.op_type == "Concat" else 1):
            node.replace_input_with(place, self.integers[node.inputs[place]])
        if node.op_type == "Pad":
            self._fill_with_zero_point(node)
        for value in list(node.outputs):
            uses = self._uses_of_dequantized(value)
            is_output = value.is_graph_output()
            base, shape = str(value.name), value.shape
            self.integers[value] = value
            if uses or is_output:
                scale, zero = self._parameters(value)
                dequantize = self._node("DequantizeLinear", [value, scale, zero], base, ir.DataType.FLOAT, shape)
                self._insert([dequantize], node, None)
                for reader, place in uses:
                    reader.replace_input_with(place, dequantize.outputs[0])
                if is_output:
                    self._take_over_output(value, dequantize.outputs[0], "quantized")
            if not is_output:
                value.name = self._fresh(f"{base}_quantized")
            value.type = ir.TensorType(self._integer_type())

    def _fill_with_zero_point(self, node: Any) -> None:
        zero = np.asarray(self.encodings[node.outputs[0]].zero_point, self.dialect.activation.dtype)
        filling = self._constant(f"{node.name}_fill", zero)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, filling)

    def _take_over_output(self, value: Any, replacement: Any, suffix: str) -> None:
        """Make `replacement` the graph output that `value` was, under its name."""
        name = str(value.name)
        value.name = self._fresh(f"{name}_{suffix}")
        replacement.name = name
        replacement.shape = value.shape
        for place, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[place] = replacement

    def _parameters(self, value: Any) -> tuple[Any, Any]:
        held, base = self.encodings[value], str(value.name)
        zero = np.asarray(held.zero_point, self.dialect.activation.dtype)
        return self._constant(f"{base}_scale", np.asarray(held.scale, np.float32)), self._constant(f"{base}_zero_point", zero)

    # ---- weights ---------------------------------------------------------------------------------------------------------

    def _write_weight(self, node: Any, row: Weight) -> None:
        weight = constant(node.inputs[1])
        assert weight is not None
        source = self.encodings[node.inputs[0]]
        place = bias_place(node)
        if place is not None and place[0] is not node and self.dialect.leaves_no_float:
            place = None  # the product has a scale of its own before the Add, whose row is a constant like any other
        bias = None if place is None else constant(place[0].inputs[place[1]])
        separate = self.dialect.per_channel(row.operator)
        scales = encoding.weight_scales(np.asarray(self.ranges[row.name, row.axis].symmetric), bias, source, self.dialect, separate)
        node.replace_input_with(1, self._dequantized_weight(node, row, weight, scales))
        if place is not None and bias is not None and self.dialect.bias == "int32":
            place[0].replace_input_with(place[1], self._dequantized_bias(node, row, bias, source, scales))

    def _dequantized_weight(self, node: Any, row: Weight, weight: Array, scales: Float32) -> Any:
        key = (row.name, row.axis, scales.tobytes())
        if key in self.weights:
            return self.weights[key]
        integers = encoding.quantize(weight, scales, row.axis, self.dialect.weight)
        per_channel = self.dialect.per_channel(row.operator)
        held = scales if per_channel else scales.reshape(())
        scale = self._constant(f"{row.name}_scale", held)
        zero = self._constant(f"{row.name}_zero_point", np.zeros(held.shape, integers.dtype))
        axis = {"axis": row.axis} if per_channel else {}
        nodes = []
        if self.dialect.weight_storage == "integer":
            quantized = self._constant(f"{row.name}_quantized", integers)
        else:
            # The rounded values, as float: Q finds the same integers again, also after the constant was cast to float16.
            rounded = self._constant(f"{row.name}_rounded", integers.astype(np.float32) * encoding.along(scales, row.axis, weight.ndim))
            nodes.append(self._node("QuantizeLinear", [rounded, scale, zero], row.name, ir.DataType.from_numpy(integers.dtype), rounded.shape, axis))
            quantized = nodes[0].outputs[0]
        nodes.append(self._node("DequantizeLinear", [quantized, scale, zero], row.name, ir.DataType.FLOAT, quantized.shape, axis))
        self._insert(nodes, None, node)
        self.weights[key] = nodes[-1].outputs[0]
        return self.weights[key]

    def _dequantized_bias(self, node: Any, row: Weight, bias: Array, source: Encoding, scales: Float32) -> Any:
        integers, product = encoding.quantize_bias(bias, source, scales)
        name = f"{row.node}_bias"  # its scale is this node's own: a bias that nodes share would not fit
        held = [
            self._constant(f"{name}_{what}", array)
            for what, array in (("quantized", integers), ("scale", product), ("zero_point", np.zeros_like(integers)))
        ]
        dequantize = self._node("DequantizeLinear", held, name, ir.DataType.FLOAT, held[0].shape, {"axis": 0})
        self._insert([dequantize], None, node)
        return dequantize.outputs[0]

    # ---- other constants -------------------------------------------------------------------------------------------------

    def _write_constant(self, node: Any, place: int) -> None:
        """A constant operand as integers: the factor of a normalisation, and the operand of a weighted node that analysis made no row of, as a
        weight of one scale; what is added to that as its bias; any other one like an activation."""
        held = constant(node.inputs[place])
        assert held is not None
        base, dialect = f"{node.name}_input{place}", self.dialect
        scaling, source = node.op_type in WEIGHTED | NORMALIZING, self.encodings.get(node.inputs[0])
        factor = self._scale_of_constant(node.inputs[1]) if scaling and place == 2 else None
        if scaling and place == 1:
            bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            scales = encoding.weight_scales(np.abs(held).max().reshape(1), bias, source, dialect, per_channel=False)
            integers, zero = encoding.quantize(held, scales, 0, dialect.weight), np.asarray(0, dialect.weight.dtype)
            scale = scales.reshape(())
        elif factor is not None and source is not None:
            flat, product = encoding.quantize_bias(held, source, factor.reshape(1))
            integers, scale, zero = flat.reshape(held.shape), product[:1].reshape(()), np.asarray(0, np.int32)
        else:
            own = encoding.encode_constant(held, dialect)
            integers, zero = encoding.quantize_activation(held, own, dialect), np.asarray(own.zero_point, dialect.activation.dtype)
            scale = np.asarray(own.scale, np.float32)
        parts = [self._constant(f"{base}_{what}", array) for what, array in (("quantized", integers), ("scale", scale), ("zero_point", zero))]
        dequantize = self._node("DequantizeLinear", parts, base, ir.DataType.FLOAT, parts[0].shape)
        self._insert([dequantize], None, node)
        node.replace_input_with(place, dequantize.outputs[0])

    def _scale_of_constant(self, value: Any) -> Array | None:
        """The scale of a constant that was quantized here; None for what is no constant, whose Q/DQ are written later."""
        producer = value.producer()
        return constant(producer.inputs[1]) if producer is not None and producer.op_type == "DequantizeLinear" else None

    # ---- making things ---------------------------------------------------------------------------------------------------

    def _node(self, operator: str, inputs: list[Any], base: str, dtype: Any, shape: Any, attributes: dict[str, int] | None = None) -> Any:
        suffix = "quantized" if operator == "QuantizeLinear" else "dequantized"
        node = ir.node(operator, inputs, attributes or {}, name=_unused(f"{base}_{operator}", self.node_names))
        output = node.outputs[0]
        output.name, output.type, output.shape = self._fresh(f"{base}_{suffix}"), ir.TensorType(dtype), shape
        return node

    def _constant(self, name: str, array: Array) -> Any:
        name = self._fresh(name)
        value = ir.Value(
            name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        self.graph.register_initializer(value)
        return value

    def _insert(self, nodes: list[Any], after: Any, before: Any) -> None:
        if after is not None:
            self.graph.insert_after(after, nodes)
        else:
            self.graph.insert_before(before, nodes)

    def _fresh(self, name: str) -> str:
        return _unused(name, self.names)

    def _integer_type(self) -> Any:
        return ir.DataType.from_numpy(np.dtype(self.dialect.activation.dtype))


def _ends(node: Any) -> tuple[float, float]:
    """Between which numbers a Relu or Clip changes nothing. An end that is computed may lie anywhere, so that no range is known to be inside."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    ends = [-math.inf, math.inf]
    for place, bound in enumerate(node.inputs[1:3]):
        if bound is not None:
            held = constant(bound)
            ends[place] = -ends[place] if held is None else float(held)
    return ends[0], ends[1]


def _unused(name: str, taken: set[str]) -> str:
    """The name, or the first one with a number that is not taken; it is taken then."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate
