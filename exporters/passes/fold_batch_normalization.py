"""BatchNormalization behind a convolution or a linear layer -> into its weights and bias.

torch's exporter does this itself; a student that was given as an ONNX file may have come without. Left in, it stands between an integer kernel and
its ReLU, in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.graph_pass import GraphPass
from kdedge.exporters.quantize.roles import channel_axis
from kdedge.exporters.quantize.wiring import attribute


def fold_batch_normalization(model: ir.Model) -> int:
    """Fold each BatchNormalization whose input a Conv, ConvTranspose or Gemm with constant weights makes for it alone.

    With f = scale / sqrt(variance + epsilon), per output channel: weights f W, bias f (b - mean) + offset.
    """
    changed = 0
    for node in list(model.graph):
        layer = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] is not None else None
        if layer is None or not _foldable(layer, node):
            continue
        scale, offset, mean, variance = (np.asarray(constant(value), np.float64) for value in node.inputs[1:5])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        weight = np.asarray(constant(layer.inputs[1]), np.float64)
        axis = channel_axis(layer, weight.ndim)
        bias = np.asarray(constant(layer.inputs[2]), np.float64) if _has_bias(layer) else 0.0
        _replace(model, layer, 1, "weight", weight * factor.reshape([-1 if place == axis else 1 for place in range(weight.ndim)]))
        _replace(model, layer, 2, "bias", factor * (bias - mean) + offset)
        result, output = node.outputs[0], layer.outputs[0]
        result.replace_all_uses_with(output, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        if output.is_graph_output():
            output.name = result.name
        changed += 1
    return changed


def _foldable(layer: ir.Node, normalization: ir.Node) -> bool:
    value = layer.outputs[0]
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    if not alone or attribute(normalization, "training_mode", 0) or len(normalization.outputs) != 1:
        return False
    if any(constant(one) is None for one in (layer.inputs[1] if len(layer.inputs) > 1 else None, *normalization.inputs[1:5])):
        return False
    if _has_bias(layer) and constant(layer.inputs[2]) is None:
        return False
    if layer.op_type == "Gemm":
        return all(attribute(layer, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(layer, "transA", 0)
    # Of a grouped transposed convolution no axis counts all output channels.
    return layer.op_type == "Conv" or (layer.op_type == "ConvTranspose" and int(attribute(layer, "group", 1)) == 1)


def _has_bias(layer: ir.Node) -> bool:
    return len(layer.inputs) > 2 and layer.inputs[2] is not None


def _replace(model: ir.Model, layer: ir.Node, place: int, what: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Give one layer a constant of its own: others may share the old one."""
    name = f"{layer.name}/folded_{what}"
    array = values.astype(np.float32)
    value = ir.val(name, ir.DataType.FLOAT, array.shape, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    if place == len(layer.inputs):
        layer.resize_inputs(place + 1)
    layer.replace_input_with(place, value)


PASS = GraphPass("fold_batch_normalization", (9, 26), fold_batch_normalization)
