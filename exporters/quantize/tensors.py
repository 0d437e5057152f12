"""Float tensors that take the place of a graph's own constants: what recovery and quantization-aware training hand over beside the ranges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kdedge.errors import ExportError

Float32 = npt.NDArray[np.float32]


def write_tensors(tensors: Mapping[str, Float32], path: Path) -> None:
    """Write tensors by the names of the graph's constants, as safetensors: the same tensors give the same bytes."""
    save_file({name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}, path)


def read_tensors(path: Path) -> dict[str, Float32]:
    """Read what `write_tensors` wrote.

    Raises:
        ExportError: the file is missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path.name}: the weights cannot be read: {error}") from error


def replace_tensors(graph: Any, tensors: Mapping[str, Float32]) -> None:
    """Put tensors in the place of constants (initializers, or outputs of `Constant` nodes) of the same name, for all that read them.

    Raises:
        ExportError: the graph has no such constant, or one of another shape.
    """
    values = {str(value.name): value for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
    for name, array in tensors.items():
        value = values.get(name)
        held = None if value is None else ir.convenience.get_const_tensor(value)
        if value is None or held is None:
            raise ExportError(f"the weights were made for another graph: it has no constant `{name}`; calibrate this one")
        if tuple(held.shape) != array.shape:
            raise ExportError(f"the weights were made for another graph: `{name}` is {list(held.shape)} here and {list(array.shape)} there")
        _replace(graph, value, array)


def _replace(graph: Any, value: Any, array: Float32) -> None:
    tensor = ir.tensor(np.asarray(array, np.float32), name=value.name)
    if value.is_initializer():
        value.const_value = tensor
        return
    producer, name = value.producer(), value.name
    made = ir.Value(name=None, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.replace_all_uses_with(made)
    graph.remove(producer, safe=True)
    made.name = name
    graph.register_initializer(made)
