"""Small ONNX graphs from ONNX's own text syntax, with arrays as initializers."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from kdedge.exporters.model_file import infer_shapes


def graph(text: str, opset: Any = 20, **constants: Any) -> ir.Model:
    """The model `text` describes (`(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }`); nodes are named after their first output."""
    inputs, _, body = text.partition(") =>")
    declared = "".join(f", {_declared(array)} {name}" for name, array in constants.items())
    model = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["" : {opset}]> agraph {inputs}{declared}) =>{body}')
    for value in list(model.graph.inputs):
        if value.name in constants:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(constants[value.name], name=value.name)
            model.graph.register_initializer(value)
    for node in model.graph.all_nodes():
        node.name = node.name or str(node.outputs[0].name)
    return infer_shapes(model)


def _declared(array: Any) -> str:
    names = {"float32": "float", "float64": "double"}
    kind = names.get(array.dtype.name, array.dtype.name)
    return f"{kind}[{', '.join(map(str, array.shape))}]" if array.shape else kind
