"""The nodes that a probe adds to a float graph: reductions to extremes, and slices that thin the values out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from kdedge.exporters import model_file

# Of larger tensors the histogram sees an even subset of each example: so many values, or this share of them. Extremes always see all.
VALUES_PER_EXAMPLE = 768
SHARE_OF_LARGE = 1 / 16
FIRST_STEPS = 10  # opset from which on Slice takes steps
FIRST_AXES_INPUT = 18  # opset from which on the axes of a reduction are an input
EASIEST_IR = 8  # before 4, a constant had to be an input too


@dataclass(frozen=True)
class Fetched:
    """What is fetched of a tensor: its values (`thinned`, or to be thinned by `stride`) and its extremes ("" where they follow from all values)."""

    values: str
    thinned: bool
    stride: int
    low: str = ""
    high: str = ""


class ProbeBuilder:
    """Adds probes to a model, which it changes. `whole`: all of a tensor counts as one example, whatever its axis 0 is."""

    def __init__(self, model: ir.Model, whole: bool) -> None:
        model.ir_version = max(EASIEST_IR, model.ir_version or 0)
        self.graph = model.graph
        self.whole = whole
        self.opset = model_file.opset_of(model)
        self.made = values_of(self.graph)
        self.symbols = {_symbol(size) for value in self.graph.inputs for size in value.shape or ()} - {None}
        self.constants: dict[int, ir.Value] = {}
        self.fetched: list[str] = []

    def plan(self, name: str, size: int) -> Fetched:
        """Probe the tensor `name`, which has about `size` values an example."""
        source, stride = self.made[name], stride_of(size)
        has_no_axis = source.shape is not None and len(source.shape) == 0
        flat = _append(self.graph, "Flatten", f"{name}/kdedge.flat", [source], axis=0 if self.whole or has_no_axis else 1)
        if not self._has_values(source):
            return Fetched(self._fetch(flat), False, stride)
        low, high = (self._fetch(self._reduce(operator, f"{name}/kdedge.{operator}", flat)) for operator in ("ReduceMin", "ReduceMax"))
        if stride == 1 or self.opset < FIRST_STEPS:
            return Fetched(self._fetch(flat), False, stride, low, high)
        bounds = [self._constant(value) for value in (0, 2**31 - 1, 1, stride)]
        return Fetched(self._fetch(_append(self.graph, "Slice", f"{name}/kdedge.some", [flat, *bounds])), True, stride, low, high)

    def _has_values(self, value: ir.Value) -> bool:
        """Whether it surely has a value, for the extremes of nothing are an error: every size is a number, or one of the inputs' own."""
        if value.shape is None:
            return False
        known = set() if self.whole else self.symbols  # a call as it stands may have an input without values
        return all(size > 0 if isinstance(size, int) else _symbol(size) in known for size in value.shape)

    def _reduce(self, operator: str, name: str, flat: ir.Value) -> ir.Value:
        if self.opset < FIRST_AXES_INPUT:
            return _append(self.graph, operator, name, [flat], axes=[1], keepdims=0)
        return _append(self.graph, operator, name, [flat, self._constant(1)], keepdims=0)

    def _fetch(self, value: ir.Value) -> str:
        self.graph.outputs.append(value)
        self.fetched.append(str(value.name))
        return str(value.name)

    def _constant(self, number: int) -> ir.Value:
        if number not in self.constants:
            tensor = ir.tensor(np.asarray([number], np.int64), name=f"kdedge.constant.{number}")
            made = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
            self.graph.register_initializer(made)
            self.constants[number] = made
        return self.constants[number]


def shapes_as_outputs(model: ir.Model, names: Sequence[str]) -> list[str]:
    """Add the shapes of some tensors to a model's outputs; their names."""
    model.ir_version = max(EASIEST_IR, model.ir_version or 0)
    made = values_of(model.graph)
    shapes = [_append(model.graph, "Shape", f"{name}/kdedge.shape", [made[name]], ir.DataType.INT64) for name in names]
    model.graph.outputs.extend(shapes)
    return [str(value.name) for value in shapes]


def values_of(graph: ir.Graph) -> dict[str, ir.Value]:
    """Inputs and what nodes make, by name."""
    found = {str(value.name): value for value in graph.inputs}
    return found | {str(value.name): value for node in graph for value in node.outputs}


def stride_of(size: int) -> int:
    """Every how many values the histogram takes one: no divisor of the tensor's size, so that it falls into step with none of its axes."""
    stride = max(1, -(-size // max(VALUES_PER_EXAMPLE, int(size * SHARE_OF_LARGE))))
    while stride > 1 and math.gcd(stride, size) != 1:
        stride += 1
    return stride


def _append(
    graph: ir.Graph, operator: str, name: str, inputs: Sequence[ir.Value], kind: ir.DataType = ir.DataType.FLOAT, **attributes: Any
) -> ir.Value:
    node = ir.node(operator, inputs, attributes=attributes, name=name)
    made = node.outputs[0]
    made.name, made.type = name, ir.TensorType(kind)
    graph.append(node)
    return made


def _symbol(size: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(size, int) else size.value
