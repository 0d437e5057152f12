"""Weights as int8, and what graphs with them are handed over in: shared by int8-weights and int8-dynamic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

#: Symmetric weights use -127..127, so that a scale means the same above and below zero.
LARGEST_INTEGER = 127

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantized:
    """The rewritten graph, the nodes whose weights are integers now, and what a person should know."""

    model: ir.Model
    nodes: tuple[str, ...]
    notes: tuple[str, ...]


def quantize_symmetric(weight: Float32, axis: int) -> tuple[npt.NDArray[np.int8], Float32]:
    """Symmetric int8 with one scale for each slice along `axis`: max|w| / 127, and 1 for a slice of zeros. Returns integers and scales [channels]."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others)
    # A denormal slice would give a scale of zero and integers that overflow.
    scales = np.maximum(np.where(largest > 0, largest / LARGEST_INTEGER, 1), np.finfo(np.float32).tiny).astype(np.float32)
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    integers = np.clip(np.rint(weight / scales.reshape(shape)), -LARGEST_INTEGER, LARGEST_INTEGER)
    return integers.astype(np.int8), scales


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """A new initializer of `graph` that holds `array`."""
    held = np.ascontiguousarray(array).reshape(array.shape)  # it gives a number one axis
    value = ir.val(name, ir.DataType.from_numpy(held.dtype), held.shape, const_value=ir.tensor(held, name=name))
    graph.register_initializer(value)
    return value
