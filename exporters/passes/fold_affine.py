"""Mul, Add, Sub and Div by a constant a channel, behind a convolution or a linear layer -> into its weights and bias.

Exporters of other frameworks write a bias as an Add of its own, and a normalisation that was folded once as Mul and Add. Left in, they stand between
an integer kernel and its activation, in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.folding import fold_into, takes_affine
from kdedge.exporters.passes.graph_pass import GraphPass
from kdedge.exporters.quantize.roles import channel_axis

Float64 = npt.NDArray[np.float64]


def fold_affine(model: ir.Model) -> int:
    """Fold each node that scales or shifts, by channel, what a Conv, ConvTranspose or Gemm with constant weights makes for it alone."""
    changed = 0
    for node in list(model.graph):
        if node.op_type not in ("Mul", "Add", "Sub", "Div") or node.domain not in ("", "ai.onnx"):
            continue
        sides = (0, 1) if node.op_type in ("Mul", "Add") else (0,)
        for side in sides:
            layer = node.inputs[side].producer() if node.inputs[side] is not None else None
            if layer is None or not takes_affine(layer):
                continue
            values = _by_channel(node.inputs[1 - side], layer)
            if values is not None and (node.op_type != "Div" or np.all(values != 0)):
                factor, offset = _map(node.op_type, values)
                fold_into(model, layer, node, factor, offset)
                changed += 1
                break
    return changed


def _by_channel(value: ir.Value | None, layer: ir.Node) -> Float64 | None:
    """A constant of one value a channel of the layer's output (or one for all), None where it is none or has another form."""
    held: Any = constant(value)
    weight: Any = constant(layer.inputs[1])
    rank = weight.ndim
    if held is None or held.dtype != np.float32 or held.ndim > rank:
        return None
    shape = (1,) * (rank - held.ndim) + held.shape
    channels = int(weight.shape[channel_axis(layer, rank)])
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(held.reshape(-1).astype(np.float64), (channels,))


def _map(operator: str, values: Float64) -> tuple[Float64 | None, Float64 | float]:
    if operator in ("Add", "Sub"):
        return None, values if operator == "Add" else -values
    return (values if operator == "Mul" else 1.0 / values), 0.0


PASS = GraphPass("fold_affine", (7, 26), fold_affine)
