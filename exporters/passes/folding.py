"""What passes share that fold an affine map into the layer before it: which layers take one, and how they get constants of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.quantize.roles import channel_axis
from kdedge.exporters.quantize.wiring import attribute

Float64 = npt.NDArray[np.float64]


def takes_affine(layer: ir.Node) -> bool:
    """Whether f (W x + b) + o can be written into this layer: its weights are constants that nothing else scales, and one node reads its result."""
    if layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or layer.domain not in ("", "ai.onnx"):
        return False
    value = layer.outputs[0]
    weight = constant(layer.inputs[1]) if len(layer.inputs) > 1 else None
    if len(value.uses()) != 1 or value.is_graph_output() or weight is None or weight.dtype != np.float32:
        return False
    if has_bias(layer) and not _is_by_channel(constant(layer.inputs[2])):
        return False
    if layer.op_type == "Gemm":
        return all(attribute(layer, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(layer, "transA", 0)
    # Of a grouped transposed convolution no axis counts all output channels.
    return layer.op_type == "Conv" or int(attribute(layer, "group", 1)) == 1


def has_bias(layer: ir.Node) -> bool:
    """Whether the layer adds something."""
    return len(layer.inputs) > 2 and layer.inputs[2] is not None


def _is_by_channel(bias: Any) -> bool:
    """Whether a bias is one number a channel, or one for all: that of a Gemm may also have one a row."""
    return bias is not None and all(size == 1 for size in bias.shape[:-1])


def fold_into(model: ir.Model, layer: ir.Node, after: ir.Node, factor: Float64 | None, offset: Float64 | float, inner: Float64 | float = 0.0) -> None:
    """Let `layer` compute factor * (what it computes + inner) + offset, per output channel, and remove the node `after` it that did.
    No `factor` is 1 everywhere, and leaves the weights as they are."""
    weight = np.asarray(constant(layer.inputs[1]), np.float64)
    axis = channel_axis(layer, weight.ndim)
    bias: Any = np.asarray(constant(layer.inputs[2]), np.float64).reshape(-1) if has_bias(layer) else 0.0
    if factor is not None:
        replace_constant(model, layer, 1, "weight", weight * factor.reshape([-1 if place == axis else 1 for place in range(weight.ndim)]))
    scale: Any = 1.0 if factor is None else factor
    replace_constant(model, layer, 2, "bias", np.broadcast_to(scale * (bias + inner) + offset, (weight.shape[axis],)))
    result, output = after.outputs[0], layer.outputs[0]
    result.replace_all_uses_with(output, replace_graph_outputs=True)
    model.graph.remove(after, safe=True)
    if output.is_graph_output():
        output.name = result.name


def replace_constant(model: ir.Model, layer: ir.Node, place: int, what: str, values: Float64) -> None:
    """Give one layer a constant of its own: others may share the old one."""
    name = f"{layer.name}/folded_{what}"
    while name in model.graph.initializers:  # folded before
        name += "_too"
    array = np.ascontiguousarray(values.astype(np.float32))
    value = ir.val(name, ir.DataType.FLOAT, array.shape, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    if place == len(layer.inputs):
        layer.resize_inputs(place + 1)
    layer.replace_input_with(place, value)
