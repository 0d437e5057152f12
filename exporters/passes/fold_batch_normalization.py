"""BatchNormalization behind a convolution or a linear layer -> into its weights and bias.

torch's exporter does this itself; a student that was given as an ONNX file may have come without. Left in, it stands between an integer kernel and
its ReLU, in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.folding import fold_into, takes_affine
from kdedge.exporters.passes.graph_pass import GraphPass
from kdedge.exporters.quantize.wiring import attribute


def fold_batch_normalization(model: ir.Model) -> int:
    """Fold each BatchNormalization whose input a Conv, ConvTranspose or Gemm with constant weights makes for it alone.

    With f = scale / sqrt(variance + epsilon), per output channel: weights f W, bias f (b - mean) + offset.
    """
    changed = 0
    for node in list(model.graph):
        layer = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] is not None else None
        if layer is None or not takes_affine(layer) or not _is_affine(node):
            continue
        scale, offset, mean, variance = (np.asarray(constant(value), np.float64) for value in node.inputs[1:5])
        fold_into(model, layer, node, scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5)), offset, -mean)
        changed += 1
    return changed


def _is_affine(normalization: ir.Node) -> bool:
    if attribute(normalization, "training_mode", 0) or any(value.uses() or value.is_graph_output() for value in normalization.outputs[1:]):
        return False
    return all(constant(value) is not None for value in normalization.inputs[1:5])


PASS = GraphPass("fold_batch_normalization", (9, 26), fold_batch_normalization)
