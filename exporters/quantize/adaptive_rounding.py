"""Adaptive rounding: weights are rounded up or down so that the layer's output comes out closest, not each weight by itself.

The problem is that of AdaRound (Nagel, Amjad, van Baalen, Louizos, Blankevoort 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization",
eq. 20, with the inputs of the quantized model so far as in eq. 25): for each output channel with weights w on a grid of step s

    minimize  mean (w . x - t)^2  over  w in {s floor(v / s), s ceil(v / s)}

where x are the inputs that the integers before it give, and t is what the float layer makes. The paper relaxes the binary problem and follows
gradients. Here the squared error is written out as the quadratic form that it is, w' H w - 2 c' w with H = mean x x' and c = mean t x, and one weight
after the other takes its better side until none improves: an exact descent, no learning rate, nothing drawn but the positions that are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.quantize import encoding
from kdedge.exporters.quantize.layers import Batch, Layer, Lowered, Onward, stream, together
from kdedge.exporters.quantize.wiring import attribute, constant
from kdedge.progress import advance

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

POSITIONS = 16384  # of a layer's output, over all examples: several times the 4608 unknowns of the widest 3 x 3 layers of ResNets
INPUTS = 8192  # of one output: the quadratic form of more would take over 512 MB
SWEEPS = 20  # over all weights; a few suffice, later ones change nothing
DAMPING = 0.01  # of the mean diagonal, towards the float weights: directions that the examples do not show stay as they are


@dataclass(frozen=True)
class Rounded:
    """New weights and biases by name, and what a person should know."""

    tensors: dict[str, Float32]
    note: str


def adapt_rounding(reference: Any, lowered: Lowered, batches: Sequence[Batch], dialect: Dialect, seed: int = 0) -> Rounded:
    """Round the weights of `lowered` (it is changed) towards the outputs that the float graph `reference` has, layer by layer in graph order.

    The bias of a layer takes up the mean that is left. Layers whose form is not known here, and weights that several nodes read, stay as they are.

    Raises:
        ExportError: a graph fails on a batch.
    """
    originals = {str(node.name): node for node in reference.graph}
    tensors: dict[str, Float32] = {}
    layers = list(lowered.layers())
    known = {layer.row.output: layer for layer in layers if layer.alone and is_linear_in_patches(originals[layer.row.node])}
    each = max(1, POSITIONS // max(1, sum(len(next(iter(batch.values()))) for batch in batches)))
    onward = Onward(lowered.model, [lowered.input_of(layer) for layer in known.values()], batches)
    done = 0
    for names in together(reference, list(known), batches):
        aims = _aims(reference, [originals[known[name].row.node] for name in names], batches, each, seed + done)
        for name, aim in zip(names, aims, strict=True):
            layer = known[name]
            node = originals[layer.row.node]
            sums = _Sums(int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1)
            for inputs, (places, outputs) in zip(onward.to(lowered.input_of(layer)), aim, strict=True):
                sums.add(patches(node, inputs, places), outputs)
            tensors.update(_settle(node, layer, lowered, sums, dialect))
            done += 1
            advance("adaptive rounding", done, len(known), layer.row.node)
    onward.close()
    passed = [layer.row.node for layer in layers if layer.row.output not in known]
    note = f"{len(passed)} layers keep the nearest integers ({', '.join(passed[:3])}{', ...' if len(passed) > 3 else ''})" if passed else ""
    return Rounded(tensors, note)


def _aims(reference: Any, nodes: list[Any], batches: Sequence[Batch], each: int, seed: int) -> list[list[tuple[Places, Float32]]]:
    """For each node and batch, positions drawn from its float output and the values there."""
    generator = np.random.default_rng(seed)
    aims: list[list[tuple[Places, Float32]]] = [[] for _ in nodes]
    for outputs in stream(reference, [str(node.outputs[0].name) for node in nodes], batches):
        for node, output, aim in zip(nodes, outputs, aims, strict=True):
            places = drawn(node, output, each, generator)
            aim.append((places, at(node, output, places)))
    return aims


def is_linear_in_patches(node: Any) -> bool:
    """Whether `patches` knows how the node reads its input, and its quadratic form fits into memory."""
    held = constant(node.inputs[1])
    if held is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    if node.op_type != "Conv":
        return held.ndim == 2 and min(held.shape) > 0 and held.size // held.shape[_channels(node)] <= INPUTS
    explicit = str(attribute(node, "auto_pad", "NOTSET")) in ("NOTSET", "VALID")
    return explicit and held.ndim in (3, 4) and int(np.prod(held.shape[1:])) <= INPUTS


def _settle(node: Any, layer: Layer, lowered: Lowered, sums: _Sums, dialect: Dialect) -> dict[str, Float32]:
    """Choose the integers of one layer, and the bias that goes with them."""
    original = constant(node.inputs[1])
    assert original is not None
    axis = layer.axis
    rows = np.moveaxis(original, axis, 0)
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    steps = np.broadcast_to(layer.steps.astype(np.float64), len(rows))[:, None]
    gram, cross = sums.plain() if layer.row.bias is None else sums.centred()
    integers = round_rows(flat, steps, gram, cross, dialect.weight.limits)
    weight = np.moveaxis(np.asarray(integers, np.float32).reshape(rows.shape), 0, axis) * encoding.along(layer.steps, axis, original.ndim)
    weight = np.ascontiguousarray(weight, np.float32)
    lowered.replace_weight(layer, weight)
    tensors = {layer.row.name: weight}
    if layer.bias:
        offset = sums.offset(integers * steps)
        bias = np.asarray(offset if node.op_type != "MatMul" else offset + lowered.bias(layer), np.float32)
        lowered.replace_bias(layer, bias)
        assert layer.row.bias is not None
        tensors[layer.row.bias] = bias
    return tensors


# ---- the binary problem ----------------------------------------------------------------------------------------------------


def round_rows(weights: Float64, steps: Float64, gram: Float64, cross: Float64, limits: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Integers [rows, d] with the smallest w' H w - 2 c' w that descent from the nearest ones finds; w = integers x steps.

    `weights`: float [rows, d]; `steps`: [rows, 1]; `gram`: H of each group [groups, d, d]; `cross`: c [rows, d]. Rows belong to groups in order.
    """
    groups, d = gram.shape[:2]
    ideal = (weights / steps).reshape(groups, -1, d)
    step = np.broadcast_to(steps, (len(weights), 1)).reshape(groups, -1, 1)
    low, high = np.clip(np.floor(ideal), *limits), np.clip(np.ceil(ideal), *limits)
    chosen = np.clip(np.rint(ideal), *limits)
    damping = DAMPING * np.einsum("gii->g", gram)[:, None] / d
    h = gram.copy()  # of the widest layers it has 512 MB: an identity of its size would double them
    np.einsum("gii->gi", h)[...] += damping
    c = cross.reshape(groups, -1, d) + damping[:, :, None] * weights.reshape(groups, -1, d)
    slope = np.einsum("grd,gde->gre", chosen * step, h) - c
    diagonal = np.einsum("gii->gi", h)
    for _ in range(SWEEPS):
        changed = False
        for place in range(d):
            other = low[:, :, place] + high[:, :, place] - chosen[:, :, place]
            move = (other - chosen[:, :, place]) * step[:, :, 0]
            gain = move * (2 * slope[:, :, place] + move * diagonal[:, None, place])
            better = gain < -1e-12 * np.abs(move * slope[:, :, place])
            if not better.any():
                continue
            changed = True
            move = np.where(better, move, 0.0)
            chosen[:, :, place] = np.where(better, other, chosen[:, :, place])
            slope += move[:, :, None] * h[:, None, place, :]
        if not changed:
            break
    return np.asarray(chosen.reshape(len(weights), d), np.int64)


class _Sums:
    """What the quadratic forms need of all positions: sums of x x', t x', x and t, a group of channels each."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.xx: Any = 0.0
        self.tx: Any = 0.0
        self.x: Any = 0.0
        self.t: Any = 0.0

    def add(self, patches: Float32, targets: Float32) -> None:
        """Patches [positions, groups x d] and targets [positions, channels]."""
        n = len(patches)
        x = patches.reshape(n, self.groups, -1).transpose(1, 0, 2)
        t = targets.reshape(n, self.groups, -1).transpose(1, 2, 0)
        self.count += n
        self.xx = self.xx + np.matmul(x.transpose(0, 2, 1), x).astype(np.float64)
        self.tx = self.tx + np.matmul(t, x).astype(np.float64)
        self.x = self.x + x.sum(axis=1, dtype=np.float64)
        self.t = self.t + t.sum(axis=2, dtype=np.float64)

    def plain(self) -> tuple[Float64, Float64]:
        """H [groups, d, d] and c [channels, d]."""
        return self.xx / self.count, (self.tx / self.count).reshape(-1, self.tx.shape[-1])

    def centred(self) -> tuple[Float64, Float64]:
        """The same of deviations from the mean: what a free bias leaves to the weights."""
        n = self.count
        gram = self.xx / n - self.x[:, :, None] * self.x[:, None, :] / n**2
        cross = self.tx / n - self.t[:, :, None] * self.x[:, None, :] / n**2
        return gram, cross.reshape(-1, cross.shape[-1])

    def offset(self, weights: Float64) -> Float64:
        """The bias [channels] with which these weights [channels, d] have the right mean."""
        w = weights.reshape(self.groups, -1, weights.shape[-1])
        return np.asarray((self.t - np.einsum("grd,gd->gr", w, self.x)).reshape(-1) / self.count)


# ---- what a layer reads ----------------------------------------------------------------------------------------------------


def drawn(node: Any, outputs: Array, each: int, generator: np.random.Generator) -> Places:
    """At most `each` positions of each example, without replacement: (example, place in its output, channels not counted)."""
    count = outputs[0].size // outputs.shape[1 if node.op_type == "Conv" else -1] if len(outputs) else 0
    picked = [generator.permutation(count)[:each] for _ in range(len(outputs))]
    return np.repeat(np.arange(len(outputs)), [len(row) for row in picked]), np.concatenate([*picked, np.zeros(0, np.int64)]).astype(np.int64)


def at(node: Any, outputs: Array, places: Places) -> Float32:
    """The outputs [positions, channels] at some places."""
    channels_last = np.moveaxis(outputs, 1, -1) if node.op_type == "Conv" else outputs
    example, place = places
    spatial = np.unravel_index(place, channels_last.shape[1:-1]) if channels_last.ndim > 2 else ()
    return np.ascontiguousarray(channels_last[(example, *spatial)], np.float32)


def patches(node: Any, inputs: Array, places: Places) -> Float32:
    """What the node reads for its outputs at some places: [positions, groups x d], in the order of its weights."""
    if node.op_type != "Conv":
        return at(node, inputs, places)
    example, place = places
    windows = _windows(node, inputs if inputs.ndim == 4 else inputs[:, :, None, :])
    y, x = np.divmod(place, windows.shape[3])
    return np.ascontiguousarray(windows[example, :, y, x].reshape(len(place), -1), np.float32)


def _windows(node: Any, inputs: Array) -> Array:
    """[n, channels, output height, output width, kernel height, kernel width], a view."""
    kernel = [1, *constant_shape(node)[2:]][-2:]
    flat = inputs.shape[2] == 1 and len(constant_shape(node)) == 3
    strides, dilations = (_pair(node, name, 1) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads", [0] * (2 if flat else 4)))
    top, left, bottom, right = (0, pads[0], 0, pads[1]) if flat else pads
    padded = np.pad(inputs, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return np.asarray(view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]])


def constant_shape(node: Any) -> tuple[int, ...]:
    """Shape of a node's weights."""
    held = constant(node.inputs[1])
    assert held is not None
    return tuple(held.shape)


def _pair(node: Any, name: str, default: int) -> tuple[int, int]:
    values = list(attribute(node, name, [default, default]))
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _channels(node: Any) -> int:
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1
