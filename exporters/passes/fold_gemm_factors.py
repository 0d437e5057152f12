"""The factors alpha and beta of a Gemm -> into its constant weights and bias.

Integer kernels know no factors: a Gemm that has them stays float, and other passes leave it alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.folding import has_bias, replace_constant
from kdedge.exporters.passes.graph_pass import GraphPass
from kdedge.exporters.quantize.wiring import attribute


def fold_gemm_factors(model: ir.Model) -> int:
    """Multiply the constants of each Gemm alpha A B + beta C by these factors, which are 1 afterwards. One whose B or C is computed and has a
    factor stays as it is."""
    changed = 0
    for node in list(model.graph):
        if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx"):
            continue
        factors = {place: float(attribute(node, name, 1.0)) for place, name in ((1, "alpha"), (2, "beta"))}
        if all(factor == 1.0 for factor in factors.values()):
            continue
        multiplied = [place for place, factor in factors.items() if factor != 1.0 and (place == 1 or has_bias(node))]
        held = {place: constant(node.inputs[place]) for place in multiplied}
        if any(array is None or array.dtype != np.float32 for array in held.values()):
            continue
        for place, array in held.items():
            replace_constant(model, node, place, "weight" if place == 1 else "bias", factors[place] * np.asarray(array, np.float64))
        for name in ("alpha", "beta"):
            node.attributes.pop(name, None)
        changed += 1
    return changed


PASS = GraphPass("fold_gemm_factors", (7, 26), fold_gemm_factors)
