"""What does not depend on the inputs is computed now: shape arithmetic, masks of fixed size, transposed weights."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import optimizer

from kdedge.exporters.passes.graph_pass import GraphPass

#: Larger results stay as nodes: a folded Expand can be a hundred times its source.
LARGEST_ELEMENTS = 1 << 18


def fold_constants(model: ir.Model) -> int:
    """Fold constant subgraphs whose result has at most `LARGEST_ELEMENTS` elements."""
    before = len(model.graph)
    optimizer.fold_constants_ir(model, output_size_limit=LARGEST_ELEMENTS, input_size_limit=LARGEST_ELEMENTS)
    return before - len(model.graph)


PASS = GraphPass("fold_constants", (7, 26), fold_constants)
