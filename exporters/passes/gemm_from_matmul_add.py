"""MatMul by a constant + Add of a constant row on a matrix -> one Gemm, the form that quantizers and runtimes know as a linear layer."""

from __future__ import annotations

import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.graph_pass import GraphPass


def gemm_from_matmul_add(model: ir.Model) -> int:
    """Join each MatMul([n, k], constant [k, m]) with the Add(constant [m]) that alone reads it. Gemm takes matrices, so inputs of more axes stay."""
    changed = 0
    for node in list(model.graph):
        if node.op_type == "Add" and not node.domain and (found := _match(node)):
            matmul, bias = found
            gemm = ir.node("Gemm", [*matmul.inputs, bias], num_outputs=1, name=matmul.name)
            output = gemm.outputs[0]
            output.name, output.shape, output.type = node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type
            ir.convenience.replace_nodes_and_values(model.graph, node, [matmul, node], [gemm], [node.outputs[0]], [output])
            changed += 1
    return changed


def _match(add: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    for product, bias in (add.inputs, reversed(add.inputs)):
        matmul = product.producer() if product is not None else None
        if matmul is None or matmul.op_type != "MatMul" or matmul.domain or bias is None:
            continue
        left, weight, row = matmul.inputs[0], constant(matmul.inputs[1]), constant(bias)
        matrix = left is not None and left.shape is not None and left.shape.rank() == 2
        alone = len(product.uses()) == 1 and not product.is_graph_output()
        if matrix and alone and weight is not None and weight.ndim == 2 and row is not None and row.shape == (weight.shape[1],):
            return matmul, bias
    return None


PASS = GraphPass("gemm_from_matmul_add", (7, 26), gemm_from_matmul_add)
