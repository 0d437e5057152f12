"""What each tensor of a float graph is to quantization: weights and their channel axes, residual additions, shared scales, known signs and ranges."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from kdedge.exporters.quantize.ranges import Activation, Residual, SharedScale, Structure, Weight
from kdedge.exporters.quantize.wiring import FOLDED, attribute, bias_place, constant, folded_into, is_activation, is_float_activation

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Operators that only move values (or pick the largest): what comes out is among what went in, or zero.
MOVING = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Pad",
        "Split",
        "Gather",
        "Identity",
        "Dropout",
        "Concat",
        "Resize",
    }
)
FIXED_RANGE: dict[str, tuple[float, float]] = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
# Operators that other kernels than convolutions may run on integers.
ARITHMETIC = frozenset({"Add", "Mul", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid", "Tanh", "Softmax", "HardSigmoid"})
# Operators that only hardware without float kernels runs on integers. None that is fed infinities on purpose (Where, Log): their ranges mean nothing.
OTHERS = frozenset(
    {
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "BatchNormalization",
        "Gelu",
        "Erf",
        "HardSwish",
        "Elu",
        "PRelu",
        "Softplus",
        "Mish",
        "Sub",
        "Div",
        "Pow",
        "Sqrt",
        "Neg",
        "Abs",
        "Min",
        "Max",
        "Sum",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "GlobalMaxPool",
        "DepthToSpace",
        "SpaceToDepth",
    }
)
QUANTIZABLE = WEIGHTED | ARITHMETIC | MOVING | FOLDED | OTHERS

_NON_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt", "Softplus", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
_KEEPS_SIGN = frozenset({"GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "GlobalMaxPool", "Ceil", "Floor"})
_NON_NEGATIVE_IF_ALL_ARE = frozenset({"Add", "Mul", "Min", "Concat", "Sum"})


def analyse(model: Any) -> Structure:
    """Find what the graph alone can tell. `model` is an `onnx_ir.Model`; subgraphs (If, Loop) are left alone."""
    graph = model.graph
    weights = tuple(row for row in map(_weight, graph) if row is not None)
    residuals = find_residuals(graph)
    shared = tuple(row for row in map(_shared, graph) if row is not None)
    non_negative = find_non_negative(graph)
    return Structure(weights, _activations(graph, weights, residuals, shared, non_negative), residuals, shared)


# ---- weights ---------------------------------------------------------------------------------------------------------------


def channel_axis(node: Any, rank: int) -> int:
    """Axis of the output channels of a weighted node's constant operand."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else rank - 1


def _weight(node: Any) -> Weight | None:
    if node.op_type not in WEIGHTED or node.domain:
        return None
    held = constant(node.inputs[1])
    if held is None or held.dtype.name != "float32" or not is_float_activation(node.inputs[0]):
        return None
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0 or attribute(node, "transA", 0)):
        return None
    if node.op_type == "MatMul" and held.ndim != 2:
        return None
    axis = channel_axis(node, held.ndim)
    group = int(attribute(node, "group", 1))
    # A grouped transposed convolution has [inputs, outputs / groups, ...]: no axis counts all of its output channels.
    if node.op_type == "ConvTranspose" and group != 1:
        return None
    bias = None
    if place := bias_place(node):
        bias = place[0].inputs[place[1]]
        offsets = constant(bias)
        if offsets is None or offsets.size != held.shape[axis]:
            return None
    return Weight(
        name=node.inputs[1].name,
        node=node.name,
        operator=node.op_type,
        axis=axis,
        shape=tuple(int(size) for size in held.shape),
        activation=node.inputs[0].name,
        output=node.outputs[0].name,
        bias=None if bias is None else bias.name,
        group=group,
    )


# ---- additions -------------------------------------------------------------------------------------------------------------


def find_residuals(graph: Any, transparent: frozenset[str] = frozenset()) -> tuple[Residual, ...]:
    """Additions of two activations of which at least one comes straight from a weighted node that nobody else reads.

    The main branch is the side with the longest path from the lowest common ancestor, counted first in weighted nodes, then in nodes
    (an option-A shortcut of slices and a pad is as long in nodes as the two convolutions that it bypasses). `transparent` operators are
    looked through, so that a graph with Q/DQ in it gives the same answer.
    """
    order = {node: place for place, node in enumerate(graph)}
    found = []
    for node in graph:
        if node.op_type != "Add":
            continue
        sides = tuple(_source(value, transparent) for value in node.inputs)
        if not all(is_activation(value) for value in sides):
            continue
        fusible = [_ends_in_weighted(value) for value in sides]
        if sides[0] is sides[1] or not any(fusible):
            continue
        main = fusible.index(True) if not all(fusible) else _longer(sides, order, transparent)
        found.append(Residual(node.name, sides[main].name, sides[1 - main].name))
    return tuple(found)


def _source(value: Any, transparent: frozenset[str]) -> Any:
    while value.producer() is not None and value.producer().op_type in transparent:
        value = value.producer().inputs[0]
    return value


def _ends_in_weighted(value: Any) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in WEIGHTED and len(value.uses()) == 1 and not value.is_graph_output()


def _longer(sides: tuple[Any, ...], order: dict[Any, int], transparent: frozenset[str]) -> int:
    below = [_distances(value, order, transparent) for value in sides]
    common = set(below[0]) & set(below[1])
    ancestor = max(common, key=lambda value: order.get(value.producer(), -1), default=None)
    if ancestor is None:
        return 0
    lengths = [distances[ancestor] for distances in below]
    return 0 if lengths[0] >= lengths[1] else 1


def _distances(value: Any, order: dict[Any, int], transparent: frozenset[str]) -> dict[Any, tuple[int, int]]:
    """Longest path, as (weighted nodes, nodes), from each ancestor to `value`.

    Nodes are visited once, latest first: all paths from them are known then."""
    longest: dict[Any, tuple[int, int]] = {value: (0, 0)}
    waiting: list[tuple[int, Any]] = []
    queued: set[Any] = set()

    def visit(current: Any) -> None:
        node = current.producer()
        if node is not None and node not in queued:
            queued.add(node)
            heapq.heappush(waiting, (-order[node], node))

    visit(value)
    while waiting:
        _, node = heapq.heappop(waiting)
        weighted, nodes = max(longest[output] for output in node.outputs if output in longest)
        step = (weighted + (node.op_type in WEIGHTED), nodes + (node.op_type not in transparent))
        for before in node.inputs:
            if is_activation(before):
                longest[before] = max(longest.get(before, step), step)
                visit(before)
    return longest


# ---- shared scales ---------------------------------------------------------------------------------------------------------


def moved_inputs(node: Any) -> tuple[Any, ...]:
    """The inputs whose values a moving operator moves (the others are shapes, axes and indices)."""
    return tuple(node.inputs) if node.op_type == "Concat" else (node.inputs[0],)


def _shared(node: Any) -> SharedScale | None:
    if node.op_type not in MOVING or node.domain or not _only_moves(node):
        return None
    inputs = moved_inputs(node)
    if not all(is_float_activation(value) for value in inputs):
        return None
    outputs = [value for value in node.outputs if is_float_activation(value)]
    return SharedScale(node.name, node.op_type, tuple(dict.fromkeys(value.name for value in (*inputs, *outputs))))


def _only_moves(node: Any) -> bool:
    if node.op_type == "Resize":
        return str(attribute(node, "mode", "nearest")) == "nearest"
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        filled = constant(node.inputs[2])  # zero is exact in every type; anything else may not be
        return filled is not None and float(filled.reshape(-1)[0]) == 0.0
    return True


# ---- signs and ranges ------------------------------------------------------------------------------------------------------


def find_non_negative(graph: Any) -> set[Any]:
    """Values that cannot be negative, whatever the input."""
    known: set[Any] = set()
    for node in graph:
        if _cannot_be_negative(node, known):
            known.update(node.outputs)
    return known


def _cannot_be_negative(node: Any, known: set[Any]) -> bool:
    kind = node.op_type
    if kind in _NON_NEGATIVE:
        return True
    if kind == "Clip":
        lowest = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return node.inputs[0] in known or (lowest is not None and float(lowest) >= 0.0)
    held: Callable[[Any], bool] = lambda value: value in known or _constant_is_non_negative(value)  # noqa: E731
    if kind == "Max":
        return any(held(value) for value in node.inputs)
    if kind in _NON_NEGATIVE_IF_ALL_ARE:
        return all(held(value) for value in node.inputs)
    if kind in _KEEPS_SIGN or (kind in MOVING and _only_moves(node)):
        return node.inputs[0] in known
    return False


def _constant_is_non_negative(value: Any) -> bool:
    held = constant(value)
    return held is not None and held.size > 0 and float(held.min()) >= 0.0


def _activations(
    graph: Any, weights: tuple[Weight, ...], residuals: tuple[Residual, ...], shared: tuple[SharedScale, ...], non_negative: set[Any]
) -> tuple[Activation, ...]:
    """Rows for all tensors that any dialect may want to quantize: what weighted, arithmetic and moving nodes read and write.
    What a kernel makes only for a folded activation is left out: the range of what comes after counts. Values are moved before they are cut."""
    moved = {name for row in shared for name in row.tensors}
    roles = _roles(weights, residuals, shared, {value.name: folded_into(value).name for node in graph for value in node.outputs})
    rows: dict[str, Activation] = {}
    for node in graph:
        if node.op_type not in QUANTIZABLE or node.domain:
            continue
        for value in (*node.inputs, *node.outputs):
            if not is_float_activation(value) or value.name in rows or (folded_into(value) is not value and value.name not in moved):
                continue
            producer = value.producer()
            fixed = None if producer is None else FIXED_RANGE.get(producer.op_type)
            own = tuple(sorted(roles.get(value.name, set()) | ({"fixed-range"} if fixed else set())))
            rows[value.name] = Activation(value.name, own, value in non_negative, fixed)
    return tuple(rows.values())


def _roles(
    weights: tuple[Weight, ...], residuals: tuple[Residual, ...], shared: tuple[SharedScale, ...], landing: dict[str, str]
) -> dict[str, set[str]]:
    roles: dict[str, set[str]] = {}

    def add(name: str, role: str) -> None:
        roles.setdefault(name, set()).add(role)

    for weight in weights:
        add(weight.activation, "weighted-input")
        add(landing[weight.output], "weighted-output")
    for residual in residuals:
        add(residual.main, "residual-main")
        add(residual.shortcut, "residual-shortcut")
    for row in shared:
        for name in row.tensors:
            add(name, "concat-member" if row.operator == "Concat" else "moved")
    return roles
