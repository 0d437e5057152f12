"""Mean and standard deviation in front of the first convolution -> into its weights, so that what is quantized is the image itself.

The pixels of a picture are n / 255: 256 numbers, which 8 bits hold exactly. (x - mean) / std they do not: each channel has a grid of its own, and one
scale for all three fits none of them. With w the weights and a x + b the normalisation, a and b by channel of the image,

    conv(a x + b, w) = conv(x - s, a w) + conv(a s + b, w),   s = 128/255

The last term is not a bias where the convolution pads with zeros: at the border fewer products go into it. It is computed by the same convolution,
from one more channel that has the same value everywhere and is padded with zeros as the others are. (Where nothing is padded, it goes into the bias.)
x - s is on the grid of n / 255 in [-128/255, 127/255]: exact for unsigned integers with zero point 128 and for signed ones with zero point 0. As s is
near the mean of most networks, the weights of the added channel are small, and its value is chosen so small that they fill the range of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.folding import replace_constant
from kdedge.exporters.passes.graph_pass import GraphPass
from kdedge.exporters.quantize.wiring import attribute

Float64 = npt.NDArray[np.float64]

#: What the largest pixel may be: images in [0, 1] and in [0, 255].
FULL_SCALES = (1.0, 255.0)
CODES = 255
CENTRE = 128

#: Suffixes of what is added, behind the name of the graph's input.
CENTRED, WIDENED = "/centred", "/with_constant"


@dataclass(frozen=True)
class Normalization:
    """What was found: `nodes` from the graph input `image` to the convolution compute factor * x + offset, by channel; `full_scale` is white."""

    image: ir.Value
    nodes: tuple[ir.Node, ...]
    layer: ir.Node
    factor: Float64
    offset: Float64
    full_scale: float

    @property
    def step(self) -> float:
        """Between two pixels that differ by one code."""
        return self.full_scale / CODES

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value of the centred image."""
        return -CENTRE * self.step, (CODES - CENTRE) * self.step

    @property
    def reach(self) -> tuple[float, float]:
        """Between which numbers normalised images lie: what calibration has to find, if these are images of that scale."""
        at_ends = np.stack([self.offset, self.factor * self.full_scale + self.offset])
        return float(at_ends.min()), float(at_ends.max())


def find_normalization(model: ir.Model) -> Normalization | str:
    """The normalisation in front of a graph's first convolution, or a sentence that says why there is none to fold."""
    reasons: list[str] = []
    for image in model.graph.inputs:
        if image.dtype != ir.DataType.FLOAT or image.shape is None or image.shape.rank() != 4:
            continue
        for use in image.uses():
            found = _chain(image, use.node)
            if isinstance(found, Normalization):
                return found
            reasons.append(found)
    return reasons[0] if reasons else "no input of the graph is a float32 image [N, C, H, W]"


def fold_normalization(model: ir.Model) -> int:
    """Fold the normalisation of the first image input into its convolution; 0 where `find_normalization` says why not."""
    found = find_normalization(model)
    if isinstance(found, str):
        return 0
    graph, layer = model.graph, found.layer
    shift = CENTRE * found.step
    weight = np.asarray(constant(layer.inputs[1]), np.float64)
    scaled = weight * found.factor.reshape(1, -1, 1, 1)
    # What the zero of the centred image stands for, seen through each tap.
    rest = (weight * (found.factor * shift + found.offset).reshape(1, -1, 1, 1)).sum(axis=1, keepdims=True)
    centred = _node(graph, found, "Sub", CENTRED, [found.image, _constant(model, f"{found.image.name}{CENTRED}.shift", np.float32(shift))])
    source, new = centred.outputs[0], [centred]
    if not np.any(rest):
        pass
    elif not _pads(layer):
        bias = np.zeros(len(weight)) if len(layer.inputs) < 3 or layer.inputs[2] is None else np.asarray(constant(layer.inputs[2]), np.float64)
        replace_constant(model, layer, 2, "bias", bias + rest.sum(axis=(1, 2, 3)))
    else:
        value = _smallest_code(rest / found.step, scaled) * found.step
        amounts = _constant(model, f"{found.image.name}{WIDENED}.pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64))
        filling = _constant(model, f"{found.image.name}{WIDENED}.value", np.float32(value))
        widened = _node(graph, found, "Pad", WIDENED, [source, amounts, filling])
        source, new = widened.outputs[0], [centred, widened]
        scaled = np.concatenate([scaled, rest / float(np.float32(value))], axis=1)
    graph.insert_before(layer, new)
    layer.replace_input_with(0, source)
    replace_constant(model, layer, 1, "weight", scaled)
    for node in reversed(found.nodes):
        graph.remove(node, safe=True)
    return 1


# ---- what is there ---------------------------------------------------------------------------------------------------------


def _chain(image: ir.Value, node: ir.Node) -> Normalization | str:
    """Follow Sub, Add, Mul and Div by constants from the image to a convolution."""
    channels = image.shape[1] if image.shape is not None else None
    if not isinstance(channels, int):
        return f"`{image.name}` has a free number of channels"
    factor, offset = np.ones(channels), np.zeros(channels)
    nodes: list[ir.Node] = []
    value = image
    while node.op_type in ("Sub", "Add", "Mul", "Div") and node.domain in ("", "ai.onnx"):
        step = _affine(node, value, channels)
        if isinstance(step, str):
            return step
        factor, offset = factor * step[0], offset * step[0] + step[1]
        nodes.append(node)
        value = node.outputs[0]
        if len(value.uses()) != 1 or value.is_graph_output():
            return f"what `{node.name}` makes is read by more than one node"
        node = value.uses()[0].node
    if not nodes:
        return f"`{image.name}` is not normalised: {node.op_type} `{node.name}` reads it"
    if reason := _objection_to(node, value):
        return reason
    if not (np.isfinite(factor).all() and np.isfinite(offset).all() and np.all(factor != 0)):
        return f"`{nodes[-1].name}` divides by zero, or multiplies by it"
    scale = _full_scale(factor, offset)
    if scale is None:
        return f"the mean that `{image.name}` is normalised by lies neither in [0, 1] nor in [0, 255]: these are no pixels"
    return Normalization(image, tuple(nodes), node, factor, offset, scale)


def _affine(node: ir.Node, value: ir.Value, channels: int) -> tuple[Float64, Float64] | str:
    """Factor and offset of one node, by channel."""
    place = 0 if node.inputs[0] is value else 1
    held: Any = constant(node.inputs[1 - place])
    if held is None or held.dtype != np.float32:
        return f"`{node.name}` computes with something that is no float32 constant"
    shape = (1,) * (4 - held.ndim) + held.shape
    if len(shape) != 4 or any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return f"`{node.name}` has a constant of shape {list(held.shape)}, which is not one number a channel"
    values = np.broadcast_to(held.reshape(-1).astype(np.float64), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Div":
        return (1.0 / np.where(values == 0, np.nan, values), zero) if place == 0 else f"`{node.name}` divides by the image"
    if node.op_type == "Mul":
        return values, zero
    if node.op_type == "Add":
        return one, values
    return (one, -values) if place == 0 else (-one, values)


def _objection_to(layer: ir.Node, value: ir.Value) -> str:
    if layer.op_type != "Conv" or layer.domain not in ("", "ai.onnx"):
        return f"behind the normalisation comes {layer.op_type} `{layer.name}` and no convolution"
    weight: Any = constant(layer.inputs[1])
    if layer.inputs[0] is not value or weight is None or weight.dtype != np.float32 or weight.ndim != 4:
        return f"`{layer.name}` does not multiply the normalised image by constant float32 weights"
    if int(attribute(layer, "group", 1)) != 1:
        return f"`{layer.name}` has groups, of which each would need a channel of its own"
    if not _pads(layer) and len(layer.inputs) > 2 and layer.inputs[2] is not None and constant(layer.inputs[2]) is None:
        return f"the bias of `{layer.name}` is computed"
    return ""


def _full_scale(factor: Float64, offset: Float64) -> float | None:
    """White, in the image's own units: the mean that becomes 0 lies below it, and normalised images reach about as far as numbers of variance 1."""
    means = -offset / factor
    fitting = [scale for scale in FULL_SCALES if np.all((means >= -1e-6 * scale) & (means <= scale * (1 + 1e-6)))]
    # Pixels in [0, 1] are spread by about 1/4 of that.
    return min(fitting, key=lambda scale: abs(math.log(float(np.abs(factor).mean()) * scale / 4)), default=None)


def _pads(layer: ir.Node) -> bool:
    """Whether the convolution adds zeros around its input (`SAME_...` may)."""
    kind = str(attribute(layer, "auto_pad", "NOTSET"))
    return any(attribute(layer, "pads", ())) if kind == "NOTSET" else kind != "VALID"


# ---- what takes its place --------------------------------------------------------------------------------------------------


def _smallest_code(rest: Float64, scaled: Float64) -> int:
    """The code of the added channel: the smallest whose weights, `rest` by the code, are not larger than the others of the same output channel, where
    there is one: the largest step of a weight then changes the least."""
    largest = np.abs(scaled).max(axis=(1, 2, 3))
    needed = np.abs(rest).max(axis=(1, 2, 3)) / np.maximum(largest, np.finfo(np.float32).tiny)
    return int(np.clip(math.ceil(min(float(needed.max()), CODES)), 1, CODES - CENTRE)) if needed.size else 1


def _node(graph: ir.Graph, found: Normalization, operator: str, suffix: str, inputs: list[ir.Value]) -> ir.Node:
    name = f"{found.image.name}{suffix}"
    node = ir.node(operator, inputs, num_outputs=1, name=name)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    return node


def _constant(model: ir.Model, name: str, array: Any) -> ir.Value:
    held = np.asarray(array)
    value = ir.val(name, ir.DataType.from_numpy(held.dtype), held.shape, const_value=ir.tensor(held, name=name))
    model.graph.register_initializer(value)
    return value


PASS = GraphPass("fold_normalization", (11, 26), fold_normalization)
