"""One array as a serialised `onnx.TensorProto`, without onnx, which the machine that measures need not have.

Field numbers and types: onnx/onnx, `onnx/onnx.proto`, message TensorProto (dims = 1, data_type = 2, name = 8, raw_data = 9); wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.runtimes.errors import RuntimeFailure

# TensorProto.DataType
_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}


def tensor_proto(name: str, array: npt.NDArray[Any]) -> bytes:
    """The bytes of a `.pb` file with one named tensor.

    Raises:
        RuntimeFailure: ONNX has no such type of numbers, or this writer does not know it.
    """
    if array.dtype.name not in _TYPES:
        raise RuntimeFailure(f"input `{name}` holds {array.dtype}, which cannot be written as a protobuf (allowed: {', '.join(_TYPES)})")
    dims = b"".join(b"\x08" + _varint(size) for size in array.shape)
    raw = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
    label = name.encode()
    return dims + b"\x10" + _varint(_TYPES[array.dtype.name]) + b"\x42" + _varint(len(label)) + label + b"\x4a" + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
