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


def attribute(node: Any, name: str, default: Any) -> Any:
    """Value of an attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def folded_into(value: Any) -> Any:
    """Where the value of a kernel lands once the activations that follow are folded into it: the value itself, or that of the last Relu or Clip."""
    while not value.is_graph_output():
        uses = value.uses()
        if len(uses) != 1 or uses[0].node.op_type not in FOLDED or uses[0].idx != 0:
            break
        value = uses[0].node.outputs[0]
    return value
