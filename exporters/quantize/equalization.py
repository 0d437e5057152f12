"""Cross-layer equalization: channels of one tensor are brought to like sizes by factors that the layers before and behind it take up.

After Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1: where
f(s x) = s f(x) for s > 0 (ReLU, pooling, addition), dividing channel c of a layer's weights and bias by s_c and multiplying the next layer's weights
for it by s_c leaves the function as it is. With r1 the sizes of a channel before and r2 those of the weights that read it, s = sqrt(r1 / r2) makes
both sqrt(r1 r2).

The paper takes the range of the weights before for r1: that suits weights with one scale a tensor. Where each output channel has a scale of its own
only the activation still shares one, and r1 is the largest magnitude seen in it (the sizes of SmoothQuant; Xiao et al. 2023, eq. 4, at 0.5).

A Clip to [0, 6] is homogeneous only while it does not bite. Its channels may grow, never shrink, until the largest value seen reaches the limit: then
nothing changes on the examples, and elsewhere a channel is cut where it was never seen to be, as its range would cut it in integers anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.layers import Batch, stream, together
from kdedge.exporters.quantize.roles import WEIGHTED, channel_axis
from kdedge.exporters.quantize.wiring import attribute, bias_place, constant, is_float_activation

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

ROUNDS = 20  # of the paper's iteration over all tensors, as a depthwise layer stands between two of them
CONVERGED = 1e-3
LARGEST = 128.0  # a factor; more would bring float16 and int32 biases to their limits

# f(s x) = s f(x) for s > 0, channel by channel.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"})

# Those, and others that `_scales_through` knows, that take axes behind axis 1 together.
_OF_PLACES = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "ReduceMean"})


@dataclass(frozen=True)
class Equalized:
    """New weights and biases by name (none where nothing can be equalized), and what a person should know."""

    tensors: dict[str, Float32]
    note: str


@dataclass
class _Group:
    """Values that have the same factors, the layers that make them and those that read them."""

    values: list[Any] = field(default_factory=list)
    makers: list[Any] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)  # what a Clip makes, and its upper end
    leaky: list[Any] = field(default_factory=list)  # what a LeakyRelu reads: quantized by itself, and larger below zero than what is made of it

    @property
    def read(self) -> tuple[str, ...]:
        """What the readers read, and leaky activations between."""
        return tuple(dict.fromkeys(str(value.name) for value in (*(node.inputs[0] for node in self.readers), *self.leaky)))

    @property
    def is_spatial(self) -> bool:
        """Whether convolutions make it: channels lie on axis 1, else on the last one."""
        return any(node.op_type == "Conv" for node in self.makers)


def equalize(model: Any, batches: Sequence[Batch], per_channel: bool = True) -> Equalized:
    """Factors for all tensors of an `onnx_ir.Model` that only equalizable layers make and read. `per_channel`: how the weights will be quantized.

    Raises:
        ExportError: the graph fails on a batch.
    """
    groups = _groups(model.graph)
    limited = sum(len(group.limits) for group in groups)
    note = f"{len(groups)} tensors or groups of tensors equalized"
    if limited:
        note += f"; behind {limited} activations with an upper limit, channels grow until the largest value seen reaches it"
    if not groups:
        return Equalized({}, note)
    seen = _seen(model, groups, batches, per_channel)
    sizes = [_largest(seen[name] for name in group.read) if per_channel else None for group in groups]
    floors = [_floors(group, seen) for group in groups]
    weights, biases = _held(groups)
    for _ in range(ROUNDS):
        largest = 0.0
        for place, group in enumerate(groups):
            before = sizes[place]
            if before is None:
                before = _largest(_rows(weights[node], node) for node in group.makers)
            factors = _factors(before, [node for node in group.readers if not (per_channel and _is_depthwise(node))], weights)
            floor = floors[place]
            if floor is not None:
                factors = np.clip(factors / factors.max(), np.minimum(floor, 1.0), 1.0)
                floors[place] = floor / factors
            _apply(group, factors, weights, biases)
            sizes[place] = before / factors if per_channel else None
            largest = max(largest, float(np.abs(factors - 1).max()))
        if largest < CONVERGED:
            break
    tensors = {str(node.inputs[1].name): np.asarray(array, np.float32) for node, array in weights.items()}
    tensors |= {name: np.asarray(array, np.float32) for name, array in biases.items()}
    return Equalized(tensors, note)


# ---- which tensors ---------------------------------------------------------------------------------------------------------


def _groups(graph: Any) -> list[_Group]:
    """The groups in graph order."""
    leader: dict[Any, Any] = {}
    blocked: set[Any] = set(graph.inputs) | set(graph.outputs)
    uses = Counter(value for node in graph.all_nodes() for value in node.inputs if value is not None)
    blocked.update(value for node in graph.all_nodes() if node.graph is not graph for value in node.inputs if value is not None)
    makers: list[tuple[Any, Any]] = []
    readers: list[tuple[Any, Any]] = []
    offsets: set[Any] = set()
    limits: list[tuple[Any, float]] = []
    leaky: list[Any] = []

    def find(value: Any) -> Any:
        while leader.setdefault(value, value) is not value:
            value = leader[value]
        return value

    for node in graph:
        values = [value for value in (*node.inputs, *node.outputs) if is_float_activation(value)]
        if _is_layer(node, uses):
            makers.append((node.outputs[0], node))
            readers.append((node.inputs[0], node))
            place = bias_place(node)
            if place is not None and place[0] is not node:
                offsets.add(place[0])
        elif node in offsets or _scales_through(node):
            for value in values[1:]:
                leader[find(value)] = find(values[0])
            if node.op_type == "Clip" and len(node.inputs) > 2 and node.inputs[2] is not None:
                limits.append((node.outputs[0], float(np.asarray(constant(node.inputs[2])))))
            if node.op_type == "LeakyRelu":
                leaky.append(node.inputs[0])
        else:
            blocked.update(values)
    groups: dict[Any, _Group] = {}
    for value in {value: None for node in graph for value in node.outputs}:
        groups.setdefault(find(value), _Group()).values.append(value)
    for value, node in makers:
        groups[find(value)].makers.append(node)
    for value, node in readers:
        if find(value) in groups:
            groups[find(value)].readers.append(node)
    for value, limit in limits:
        groups[find(value)].limits[str(value.name)] = limit
    for value in leaky:
        if find(value) in groups:
            groups[find(value)].leaky.append(value)
    closed = {find(value) for value in blocked}
    return [group for head, group in groups.items() if head not in closed and group.makers and group.readers and _is_one_axis(group)]


def _is_one_axis(group: _Group) -> bool:
    """Whether the channels of all makers and readers lie on one axis, which nothing between them moves or takes together."""
    if not group.is_spatial:
        between = {value.producer().op_type for value in group.values}
        return not between & _OF_PLACES and not any(node.op_type == "Conv" for node in group.readers)
    flat = [value.shape is not None and len(value.shape) == 2 for value in (node.inputs[0] for node in group.readers if node.op_type != "Conv")]
    return all(node.op_type == "Conv" for node in group.makers) and all(flat)


def _is_layer(node: Any, uses: Counter[Any]) -> bool:
    """Whether the weights of a node can take factors up on both sides: they are its own, and its channels are told apart."""
    if node.op_type not in WEIGHTED - {"ConvTranspose"} or node.domain or not is_float_activation(node.inputs[0]):
        return False
    held = constant(node.inputs[1])
    if held is None or held.dtype != np.float32 or uses[node.inputs[1]] != 1:
        return False
    if node.op_type == "Conv":
        return (int(attribute(node, "group", 1)) == 1 or _is_depthwise(node)) and _bias_is_own(node, uses)
    plain = node.op_type == "MatMul" or (attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0))
    return held.ndim == 2 and plain and _bias_is_own(node, uses)


def _bias_is_own(node: Any, uses: Counter[Any]) -> bool:
    place = bias_place(node)
    if place is None:
        return True
    value = place[0].inputs[place[1]]
    held = constant(value)
    return held is not None and uses[value] == 1 and held.size == constant(node.inputs[1]).shape[_axis(node)]  # type: ignore[union-attr]


def _is_depthwise(node: Any) -> bool:
    held = constant(node.inputs[1])
    return node.op_type == "Conv" and held is not None and 1 < held.shape[0] == int(attribute(node, "group", 1)) and held.shape[1] == 1


def _scales_through(node: Any) -> bool:
    """Whether factors on the channels of the inputs come out as factors on the channels of the output."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op_type in _HOMOGENEOUS:
        return True
    if node.op_type == "Clip":
        bounds = [value for value in node.inputs[1:3] if value is not None]
        low, *high = [constant(value) for value in bounds] or [None]
        return low is not None and node.inputs[1] is not None and float(low) == 0.0 and all(limit is not None and float(limit) > 0 for limit in high)
    if node.op_type == "Add":
        shapes = [None if value is None or value.shape is None else list(value.shape) for value in node.inputs]
        return all(is_float_activation(value) for value in node.inputs) and shapes[0] is not None and shapes[0] == shapes[1]
    if node.op_type == "Flatten":
        shape = node.inputs[0].shape
        return attribute(node, "axis", 1) == 1 and shape is not None and len(shape) > 2 and all(size == 1 for size in shape[2:])
    if node.op_type == "ReduceMean":
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
        rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
        found = np.asarray([] if axes is None else axes).reshape(-1)  # none named: all are meant
        return rank is not None and rank > 2 and found.size > 0 and all(int(axis) % rank >= 2 for axis in found)
    return False


# ---- factors ---------------------------------------------------------------------------------------------------------------


def _axis(node: Any) -> int:
    held = constant(node.inputs[1])
    assert held is not None
    return channel_axis(node, held.ndim)


def _held(groups: list[_Group]) -> tuple[dict[Any, Float64], dict[str, Float64]]:
    """Weights by node, biases by name, of all layers that take up factors."""
    weights: dict[Any, Float64] = {}
    biases: dict[str, Float64] = {}
    for group in groups:
        for node in (*group.makers, *group.readers):
            weights[node] = np.asarray(constant(node.inputs[1]), np.float64)
        for node in group.makers:
            place = bias_place(node)
            if place is not None:
                value = place[0].inputs[place[1]]
                biases[str(value.name)] = np.asarray(constant(value), np.float64)
    return weights, biases


def _rows(weight: Float64, node: Any) -> Float64:
    """The largest magnitude of each output channel's weights."""
    return np.asarray(np.abs(np.moveaxis(weight, _axis(node), 0)).reshape(weight.shape[_axis(node)], -1).max(axis=1))


def _columns(weight: Float64, node: Any) -> Float64:
    """The same of each input channel's."""
    axis = 0 if _is_depthwise(node) else 1 - _axis(node)
    return np.asarray(np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(axis=1))


def _largest(rows: Iterable[Float64]) -> Float64:
    return np.asarray(np.max(np.stack(list(rows)), axis=0))


def _factors(before: Float64, readers: list[Any], weights: dict[Any, Float64]) -> Float64:
    """sqrt(r1 / r2); 1 where a channel is dead. Without a reader whose channels share a scale, r1 itself, around its geometric mean."""
    if readers:
        behind = _largest(_columns(weights[node], node) for node in readers)
        alive = (before > 0) & (behind > 0)
        factors = np.sqrt(np.where(alive, before, 1.0) / np.where(alive, behind, 1.0))
    else:
        alive = before > 0
        mean = float(np.exp(np.log(before[alive]).mean())) if alive.any() else 1.0
        factors = np.where(alive, before, mean) / mean
    return np.asarray(np.where(alive, np.clip(factors, 1 / LARGEST, LARGEST), 1.0))


def _apply(group: _Group, factors: Float64, weights: dict[Any, Float64], biases: dict[str, Float64]) -> None:
    for node in group.makers:
        weights[node] = weights[node] / _shaped(factors, _axis(node), weights[node].ndim)
        place = bias_place(node)
        if place is not None:
            name = str(place[0].inputs[place[1]].name)
            biases[name] = biases[name] / factors.reshape(biases[name].shape)
    for node in group.readers:
        axis = 0 if _is_depthwise(node) else 1 - _axis(node)
        weights[node] = weights[node] * _shaped(factors, axis, weights[node].ndim)


def _shaped(factors: Float64, axis: int, rank: int) -> Float64:
    return factors.reshape([-1 if place == axis else 1 for place in range(rank)])


def _floors(group: _Group, seen: Mapping[str, Float64]) -> Float64 | None:
    """The factors with which the largest value seen reaches an upper limit; None where there is none."""
    if not group.limits:
        return None
    return np.asarray(np.maximum(_largest(seen[name] / limit for name, limit in group.limits.items()), 1 / LARGEST))


def _seen(model: Any, groups: Sequence[_Group], batches: Sequence[Batch], per_channel: bool) -> dict[str, Float64]:
    """The largest magnitude seen in each channel of what the groups read (only where `per_channel` asks for it) and of what is limited."""
    axes = {name: 1 if group.is_spatial else -1 for group in groups for name in ((*group.read, *group.limits) if per_channel else group.limits)}
    made = [str(value.name) for node in model.graph for value in node.outputs if value.name in axes]
    largest: dict[str, Float64] = {}
    for names in together(model, made, batches):
        for arrays in stream(model, names, batches):
            for name, array in zip(names, arrays, strict=True):
                found = np.abs(np.moveaxis(array, axes[name], 0)).reshape(array.shape[axes[name]], -1).max(axis=1).astype(np.float64)
                largest[name] = np.maximum(largest[name], found) if name in largest else found
    return largest
