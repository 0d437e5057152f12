"""ReduceMean over all spatial axes -> GlobalAveragePool: the same sum, in the form that integer kernels exist for.

torch's exporter writes `adaptive_avg_pool2d(x, 1)` and `x.mean((2, 3))` as ReduceMean, which ONNX Runtime keeps in float inside a quantized graph.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.graph_pass import GraphPass


def mean_to_global_average_pool(model: ir.Model) -> int:
    """Rewrite each ReduceMean over axes 2.. of an image [N, C, ...]; without kept axes, or before a Reshape to [N, C], a Flatten follows."""
    changed = 0
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or node.domain or not _is_spatial(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        pool = ir.node("GlobalAveragePool", [source], num_outputs=1, name=_renamed(node, "GlobalAveragePool"))
        reshape = _reshape_to_matrix(result) if _keeps_axes(node) else None
        old = [node] if reshape is None else [node, reshape]
        end = result if reshape is None else reshape.outputs[0]
        new = [pool]
        if reshape is not None or not _keeps_axes(node):
            pool.outputs[0].name = pool.name
            new.append(ir.node("Flatten", [pool.outputs[0]], {"axis": 1}, num_outputs=1, name=_renamed(node, "Flatten")))
        last = new[-1].outputs[0]
        last.name, last.shape, last.type = end.name if end.is_graph_output() else new[-1].name, end.shape, end.type
        ir.convenience.replace_nodes_and_values(model.graph, old[-1], old, new, [end], [last])
        changed += 1
    return changed


def _renamed(node: ir.Node, operator: str) -> str:
    name = str(node.name)
    return name.replace("ReduceMean", operator) if "ReduceMean" in name else f"{name}/{operator}"


def _is_spatial(node: ir.Node) -> bool:
    """Whether the mean is over all axes from 2 on of [N, C, H, W] or [N, C, D, H, W]. Of rank 3 it is more likely a normalisation of features,
    which runtimes know as ReduceMean."""
    source = node.inputs[0]
    if source is None or source.shape is None or source.shape.rank() not in (4, 5):
        return False
    rank = source.shape.rank()
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        axes = np.array(node.attributes["axes"].as_ints())
    return axes is not None and sorted(int(axis) % rank for axis in np.atleast_1d(axes)) == list(range(2, rank))


def _keeps_axes(node: ir.Node) -> bool:
    return "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1


def _reshape_to_matrix(pooled: ir.Value) -> ir.Node | None:
    """The Reshape that alone reads the pooled [N, C, 1, ...] and makes [N, C] of it (a Flatten can stay as it is)."""
    uses = pooled.uses()
    if len(uses) != 1 or pooled.is_graph_output() or pooled.shape is None:
        return None
    reader, channels = uses[0].node, pooled.shape[1]
    shape = constant(reader.inputs[1]) if reader.op_type == "Reshape" else None
    if shape is not None and isinstance(channels, int) and shape.tolist() in ([-1, channels], [0, channels], [0, -1]):
        return reader
    return None


PASS = GraphPass("mean_to_global_average_pool", (7, 26), mean_to_global_average_pool)
