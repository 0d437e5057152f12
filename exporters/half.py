"""Float32 graph -> float16, written into the graph: every value has the type that its node computes in, with casts between (strongly typed).

Runtimes that take precision from the graph (TensorRT from version 10.12 with the flag, 11 always) leave no other way. What stays float32: inputs and
outputs of the graph, the normalisation in front, operators that sum or exponentiate (`SENSITIVE`), nodes with a constant that float16 cannot hold,
and what ONNX defines for float32 only. Works on Q/DQ graphs as well: their scales become float16, which ONNX allows from opset 19. Between a
DequantizeLinear and what computes on its integers no cast is put: runtimes look for the two side by side.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import Feed, run
from kdedge.exporters.model_file import constant, infer_shapes, opset_of, tidy, to_bytes

#: Sums over many values, squares and exponentials: what overflows (above 65504) or loses small addends first.
SENSITIVE = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "ReduceMean",
        "ReduceSum",
        "ReduceL2",
        "Exp",
        "Pow",
    }
)
LARGEST = float(np.finfo(np.float16).max)
#: Larger numbers stand for infinity and may become it.
INFINITE = 1e30
SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
_NORMALISING = frozenset({"Sub", "Div", "Mul", "Add"})
# Operators whose output dtype is an attribute that nothing here rewrites.
_OWN_DTYPE = frozenset({"EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"})
#: Scales of Q/DQ may be float16 from this opset on.
SCALES_OPSET = 19


@dataclass(frozen=True)
class Halved:
    """The float16 graph, and one note for each node that stays float32 because of numbers that float16 cannot hold, with the reason."""

    model: ir.Model
    notes: tuple[str, ...]


def to_half(model: ir.Model, keep: Iterable[str] = SENSITIVE, feeds: Sequence[Feed] = ()) -> Halved:
    """A float16 copy of `model`. `keep`: operators, or names or patterns (`*`) of nodes, that stay float32. `feeds`: inputs on which it is run first;
    nodes that read or make numbers there that float16 cannot hold stay float32 as well.

    Raises:
        ExportError: Q/DQ below opset 19, or a node with a subgraph (If, Loop, Scan).
    """
    copy = infer_shapes(tidy(model.clone()))
    _check(copy)
    chosen = _Choice(copy, tuple(keep), largest_values(copy, feeds))
    _Rewriter(copy, chosen).rewrite()
    return Halved(infer_shapes(tidy(copy)), tuple(chosen.notes))


def largest_values(model: ir.Model, feeds: Sequence[Feed]) -> dict[str, float]:
    """The largest magnitude that each float32 value of a graph has on `feeds`, by name. What stands for infinity (a mask's) is left out."""
    copy = model.clone()
    held = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(
        value for node in copy.graph for value in node.outputs if value.dtype == _FLOAT and value.shape is not None and value.name not in held
    )
    names = [str(value.name) for value in copy.graph.outputs if value.dtype == _FLOAT]
    largest: dict[str, float] = {}
    data = to_bytes(copy) if feeds else b""
    for feed in feeds:  # one at a time: each result is all activations of a batch
        for name, array in run(data, [feed], names)[0].items():
            sizes = np.abs(array[np.abs(array) < INFINITE])
            largest[name] = max(largest.get(name, 0.0), float(sizes.max(initial=0.0)))
    return largest


def _check(model: ir.Model) -> None:
    for node in model.graph:
        if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
            raise ExportError(f"`{node.name}` ({node.op_type}) holds a subgraph, which cannot be made float16; leave fp16 out for this model")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and opset_of(model) < SCALES_OPSET:
            raise ExportError(f"float16 scales of Q/DQ need opset {SCALES_OPSET}, the graph has {opset_of(model)}; raise its opset first")


class _Choice:
    """Which nodes compute in float16, and what types their inputs and outputs then have."""

    def __init__(self, model: ir.Model, keep: tuple[str, ...], largest: Mapping[str, float]) -> None:
        self.opset = opset_of(model)
        self.largest = largest
        self.notes: list[str] = []
        self.half: set[ir.Node] = set()
        normalising: set[ir.Node] = set()
        for node in model.graph:
            if _normalises(node, normalising):
                normalising.add(node)
            elif self._can_be_half(node, keep):
                self.half.add(node)

    def input_is_half(self, node: ir.Node, place: int) -> bool:
        """Whether a float input of `node` is to be float16."""
        return node in self.half and self._allows(node, "inputs", place)

    def output_is_half(self, node: ir.Node, place: int) -> bool:
        """Whether a float output of `node` is float16."""
        return node in self.half and self._allows(node, "outputs", place)

    def _can_be_half(self, node: ir.Node, keep: tuple[str, ...]) -> bool:
        if node.domain or node.op_type in _OWN_DTYPE or any(node.op_type == one or fnmatch.fnmatchcase(str(node.name), one) for one in keep):
            return False
        if node.op_type == "QuantizeLinear" and self._reads_float32(node.inputs[0]):
            return False  # it may as well quantize what is float32 already
        places = [
            place for place, value in enumerate(node.inputs) if value is not None and value.dtype == _FLOAT and self._allows(node, "inputs", place)
        ]
        makes = any(value.dtype == _FLOAT and self._allows(node, "outputs", place) for place, value in enumerate(node.outputs))
        for place in places:
            held = constant(node.inputs[place])
            scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and place == 1
            if held is not None and (reason := _does_not_fit(held, scale)):
                self.notes.append(f"`{node.name}` ({node.op_type}) stays float32: its constant `{node.inputs[place].name}` {reason}")
                return False
        values = [node.inputs[place] for place in places] + [value for value in node.outputs if value.dtype == _FLOAT]
        for name in (str(value.name) for value in values if value is not None):
            size = self.largest.get(name, 0.0)
            if size > LARGEST or 0.0 < size < SMALLEST_NORMAL:
                limit = f"more than float16's {LARGEST:.0f}" if size > LARGEST else f"below float16's normal numbers ({SMALLEST_NORMAL:.2g})"
                self.notes.append(f"`{node.name}` ({node.op_type}) stays float32: `{name}` reached {size:.3g}, {limit}")
                return False
        if (source := self._float32_source(node)) is not None:
            self.notes.append(f"`{node.name}` ({node.op_type}) stays float32: it computes on the integers of `{source.name}`, which does")
            return False
        return bool(places) or makes

    def _float32_source(self, node: ir.Node) -> ir.Node | None:
        """The DequantizeLinear that stays float32, of a node that reads nothing but integers (beside a bias)."""
        sources = [value.producer() for value in node.inputs[:2] if value is not None and value.dtype == _FLOAT]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            return None
        return next((source for source in sources if source not in self.half), None)

    def _reads_float32(self, value: ir.Value | None) -> bool:
        producer = value.producer() if value is not None else None
        return value is not None and value.is_graph_input() if producer is None else producer not in self.half

    def _allows(self, node: ir.Node, side: str, place: int) -> bool:
        schema: Any = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        formal = getattr(schema, side)
        name = formal[min(place, len(formal) - 1)].type_str
        allowed = next((constraint.allowed_type_strs for constraint in schema.type_constraints if constraint.type_param_str == name), [name])
        return "tensor(float16)" in allowed


class _Rewriter:
    """Carries the choice out: casts, half initializers, types."""

    def __init__(self, model: ir.Model, choice: _Choice) -> None:
        self.graph = model.graph
        self.choice = choice
        self.float_values = {value for node in self.graph for value in (*node.inputs, *node.outputs) if value is not None and value.dtype == _FLOAT}
        self.cast_values: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.constants: dict[ir.Value, ir.Value] = {}

    def rewrite(self) -> None:
        """Change the graph in place."""
        for node in list(self.graph):
            for place, value in enumerate(node.inputs):
                # A Cast takes whatever comes; only what it makes is chosen.
                if value is not None and value in self.float_values and node.op_type != "Cast":
                    node.replace_input_with(place, self._as(value, _HALF if self.choice.input_is_half(node, place) else _FLOAT, node))
            for place, value in enumerate(node.outputs):
                if value in self.float_values and self.choice.output_is_half(node, place):
                    value.dtype = _HALF
                    _retype_attributes(node)
        for place, value in enumerate(list(self.graph.outputs)):
            if value in self.float_values and value.dtype == _HALF:
                self._restore_output(place, value)

    def _as(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        if value.dtype == dtype:
            return value
        if value.is_initializer():
            return self._half_constant(value)
        key = (value, dtype)
        if key not in self.cast_values:
            name = f"{value.name}/to_{'half' if dtype == _HALF else 'float'}"
            node = self._dequantize_again(value, name) if dtype == _FLOAT else None
            if node is None:
                node = ir.node("Cast", [value], {"to": int(dtype)}, num_outputs=1, name=name)
            made = node.outputs[0]
            made.name, made.dtype, made.shape = node.name, dtype, value.shape
            self.graph.insert_before(user, node)
            self.cast_values[key] = made
        return self.cast_values[key]

    def _dequantize_again(self, value: ir.Value, name: str) -> ir.Node | None:
        """A second DequantizeLinear that makes a half value in float32; None where another node makes it, or its scale is computed."""
        producer = value.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        scale = next((whole for whole, half in self.constants.items() if half is producer.inputs[1]), None)
        if scale is None:
            return None
        held = [producer.inputs[0], scale, *producer.inputs[2:]]
        return ir.node("DequantizeLinear", held, dict(producer.attributes), num_outputs=1, name=name)

    def _half_constant(self, value: ir.Value) -> ir.Value:
        if value not in self.constants:
            array = np.asarray(constant(value)).astype(np.float16)
            name = f"{value.name}/half"
            half = ir.val(name, _HALF, array.shape, const_value=ir.tensor(array, name=name))
            self.graph.register_initializer(half)
            self.constants[value] = half
        return self.constants[value]

    def _restore_output(self, place: int, value: ir.Value) -> None:
        name = str(value.name)
        output = self.cast_values.get((value, _FLOAT))  # where a node reads it as float32, too
        if output is None:
            node = ir.node("Cast", [value], {"to": int(_FLOAT)}, num_outputs=1, name=f"{name}/to_float")
            output = node.outputs[0]
            output.dtype, output.shape = _FLOAT, value.shape
            self.graph.append(node)
        value.name, output.name = f"{name}/half", name
        self.graph.outputs[place] = output


def _normalises(node: ir.Node, before: set[ir.Node]) -> bool:
    """Whether a node is arithmetic with a constant on a graph input: mean and std are cheap, and exact only in float32."""
    if node.op_type not in _NORMALISING or node.domain:
        return False
    varying = [value for value in node.inputs if value is not None and constant(value) is None]
    return len(varying) == 1 and (varying[0].is_graph_input() or varying[0].producer() in before)


def _does_not_fit(array: np.ndarray[Any, np.dtype[Any]], scale: bool) -> str:
    """Why float16 cannot hold a constant, "" where it can. Weights that vanish beside larger ones do no harm; a scale, or a constant that is small
    as a whole (an epsilon), would lose its value."""
    sizes = np.abs(array[np.isfinite(array) & (array != 0)].astype(np.float64))
    if not sizes.size:
        return ""
    if sizes.max() > LARGEST:
        return f"reaches {sizes.max():.3g}, more than float16's {LARGEST:.0f}"
    smallest = sizes.min() if scale else sizes.max()
    return f"is as small as {smallest:.3g}, below float16's normal numbers ({SMALLEST_NORMAL:.2g})" if smallest < SMALLEST_NORMAL else ""


def _retype_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
    elif node.op_type == "ConstantOfShape":
        held = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(held.astype(np.float16)))
