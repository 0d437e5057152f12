"""What a torch function that stands for an ONNX operator is told about its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from kdedge.errors import ExportError

# What an operator gives: one tensor, or one for each output of its node.
Made = Tensor | Sequence[Tensor]
Operator = Callable[..., Made]

_BITS = {
    "INT4": (True, 4),
    "UINT4": (False, 4),
    "INT8": (True, 8),
    "UINT8": (False, 8),
    "INT16": (True, 16),
    "UINT16": (False, 16),
    "INT32": (True, 32),
}


@dataclass(frozen=True)
class Call:
    """A node as its function sees it: attributes as plain values, the opset that says what they mean, and the declared types of the outputs."""

    name: str
    operator: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: tuple[Any, ...]

    @classmethod
    def of(cls, node: Any, opset: int) -> Call:
        """What there is to know about a node of an `onnx_ir` graph."""
        attributes = {name: found.value for name, found in node.attributes.items()}
        return cls(str(node.name), node.op_type, attributes, opset, tuple(value.dtype for value in node.outputs))

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or ONNX's default for it."""
        return self.attributes.get(name, default)

    def integers(self, name: str, given: Tensor | None = None) -> list[int] | None:
        """What is an attribute in some opsets and an input in others, as numbers; None where it is neither."""
        if given is not None:
            return [int(value) for value in given.reshape(-1).tolist()]
        found = self.attributes.get(name)
        if found is None:
            return None
        return [int(value) for value in found] if isinstance(found, Sequence) else [int(found)]

    def error(self, reason: str) -> ExportError:
        """The sentence for what this node asks and torch is not told how to do."""
        return ExportError(f"`{self.name}` ({self.operator}) cannot be run in torch: {reason}")


def integer_limits(dtype: Any) -> tuple[int, int] | None:
    """Smallest and largest integer of an `onnx_ir` data type, None for a type of other numbers."""
    found = None if dtype is None else _BITS.get(dtype.name)
    if found is None:
        return None
    signed, bits = found
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def torch_type(dtype: Any) -> torch.dtype:
    """The torch type of an `onnx_ir` data type.

    Raises:
        ExportError: torch has no such type.
    """
    try:
        return _TYPES[ir.DataType(dtype)]
    except (KeyError, ValueError) as error:
        raise ExportError(f"torch has no numbers of the ONNX type {dtype}") from error


_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
}
