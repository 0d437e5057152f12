"""The shortcut without parameters of CIFAR ResNets (He et al. 2016, section 4.2, option A): `x[:, :, ::2, ::2]` padded with zero channels.

torch exports the strided slice as one Slice an axis. Here they become a single one, so that the shortcut is Slice -> Pad: both only move values, keep
the range of what they read (zero added), and a quantizer can give their input and output one scale.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kdedge.exporters.model_file import constant
from kdedge.exporters.passes.graph_pass import GraphPass


def option_a_shortcut(model: ir.Model) -> int:
    """Join each Slice that is read only by another Slice, of other axes and constant bounds, with that one."""
    changed = 0
    for second in list(model.graph):
        first = second.inputs[0].producer() if second.op_type == "Slice" and second.inputs[0] is not None else None
        if first is None or first.op_type != "Slice" or len(first.outputs[0].uses()) != 1 or first.outputs[0].is_graph_output():
            continue
        bounds = _joined(first, second)
        if bounds is None:
            continue
        names = ("starts", "ends", "axes", "steps")
        values = [
            ir.val(f"{second.name}.{name}", const_value=ir.tensor(array, name=f"{second.name}.{name}"))
            for name, array in zip(names, bounds, strict=True)
        ]
        for value in values:
            value.dtype, value.shape = ir.DataType.INT64, ir.Shape([len(bounds[0])])
            model.graph.register_initializer(value)
        for place, value in enumerate((first.inputs[0], *values)):
            second.replace_input_with(place, value)
        model.graph.remove(first, safe=True)
        changed += 1
    return changed


def _joined(first: ir.Node, second: ir.Node) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]] | None:
    parts = []
    for node in (first, second):
        if len(node.inputs) != 5:
            return None
        arrays = [constant(value) for value in node.inputs[1:]]
        if any(array is None for array in arrays):
            return None
        parts.append([np.atleast_1d(array).astype(np.int64) for array in arrays])
    if set(parts[0][2]) & set(parts[1][2]) or (np.concatenate([parts[0][2], parts[1][2]]) < 0).any():
        return None
    return [np.concatenate([one, two]) for one, two in zip(*parts, strict=True)]


PASS = GraphPass("option_a_shortcut", (10, 26), option_a_shortcut)
