"""Opening a graph for quantization, and the few questions about its wiring that analysis, lowering and validation all ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.naming import ensure_names

# Activations that a range absorbs: values outside of it saturate at its ends, which is what these operators do.
FOLDED = frozenset({"Relu", "Clip"})
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})

# Normalisations with a factor (input 1) and an offset (input 2).
NORMALIZING = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"})
# Float inputs that say how an operator works and are no operands: limits, sizes, fillings.
_PARAMETERS = {"Clip": (1, 2), "Resize": (1, 2), "Pad": (2,), "Upsample": (1,), "Dropout": (1,)}

_ACTIVATION_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8})

Array = npt.NDArray[Any]


def load(path: Path) -> Any:
    """The model as `onnx_ir.Model`: local functions inlined, every node named, shapes and types inferred.

    Raises:
        ExportError: the file is missing, is no ONNX model, or is broken inside.
    """
    model = model_file.load_model(path)
    if model.functions:
        InlinePass()(model)
    ensure_names(model)
    try:
        return model_file.infer_shapes(model)
    except Exception as error:  # onnx's shape inference raises protobuf's, its own C++ and plain Python errors: all mean a broken graph
        raise ExportError(f"`{path.name}` is not a valid ONNX graph: {str(error).strip().splitlines()[0]}") from error


def constant(value: Any) -> Array | None:
    """The array behind an initializer or a Constant node; None for anything that the input can change."""
    if value is None or value.is_graph_input():
        return None
    held = model_file.constant(value)
    return None if held is None else np.asarray(held)


def is_float_activation(value: Any) -> bool:
    """Whether this is a float32 tensor that depends on the input."""
    return value is not None and value.dtype == ir.DataType.FLOAT and constant(value) is None


def is_activation(value: Any) -> bool:
    """The same for any type that a quantized or a half-precision graph holds its activations in."""
    return value is not None and value.dtype in _ACTIVATION_TYPES and constant(value) is None


def is_operand(node: Any, place: int) -> bool:
    """Whether an input of a node is a float constant that it computes with."""
    held = constant(node.inputs[place])
    return held is not None and held.dtype == np.float32 and held.size > 0 and place not in _PARAMETERS.get(node.op_type, ())


def attribute(node: Any, name: str, default: Any) -> Any:
    """Value of an attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def bias_place(node: Any) -> tuple[Any, int] | None:
    """The node and the input through which the bias of a weighted node enters, None where it has none.

    A MatMul has no third input: its bias is a constant row that the Add which alone reads the product adds. `node` may be part of a
    quantized graph, where the row comes out of a DequantizeLinear.
    """
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    product, weight = node.outputs[0], node.inputs[1]
    uses = product.uses()
    if product.is_graph_output() or len(uses) != 1 or uses[0].node.op_type != "Add" or weight is None or weight.shape is None:
        return None
    place = 1 - uses[0].idx
    row = uses[0].node.inputs[place]
    producer = None if row is None else row.producer()
    held = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else row
    is_row = constant(held) is not None and row.shape is not None and list(row.shape) == [weight.shape[-1]]
    return (uses[0].node, place) if is_row else None


def folded_into(value: Any) -> Any:
    """Where the value of a kernel lands once the activations that follow are folded into it: the value itself, or that of the last Relu or Clip."""
    while not value.is_graph_output():
        uses = value.uses()
        if len(uses) != 1 or uses[0].node.op_type not in FOLDED or uses[0].idx != 0:
            break
        value = uses[0].node.outputs[0]
    return value
