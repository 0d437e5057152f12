"""Names, shapes and types of the inputs and outputs of a `.tflite` file, read from its flatbuffer without TensorFlow.

Layout: tensorflow/tensorflow, `tensorflow/lite/schema/schema.fbs` (tables Model, SubGraph, Tensor; enum TensorType); flatbuffers' binary format,
https://flatbuffers.dev/internals/. Offsets are checked: the file may be damaged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from kdedge.runtimes.errors import RuntimeFailure

_IDENTIFIER = b"TFL3"
# TensorType, as numpy names it.
_TYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
}
_SUBGRAPHS, _TENSORS, _INPUTS, _OUTPUTS, _SHAPE, _TYPE, _NAME = 2, 0, 1, 2, 0, 1, 3


@dataclass(frozen=True)
class TensorInfo:
    """One input or output. `dtype`: numpy's name, "" where numpy has none."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def inputs_and_outputs(path: Path) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Inputs and outputs of the file's main graph, in the order in which a program gives and writes them.

    Raises:
        RuntimeFailure: it is no `.tflite` file, or a damaged one.
    """
    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise RuntimeFailure(f"{path.name} is no .tflite file: it does not say {_IDENTIFIER.decode()} at byte 4")
    try:
        graph = _items(data, _table(data, 0), _SUBGRAPHS)[0]
        tensors = [_tensor(data, table) for table in _items(data, graph, _TENSORS)]
        numbers = [[tensors[index] for index in _integers(data, graph, field)] for field in (_INPUTS, _OUTPUTS)]
    except (struct.error, IndexError) as error:
        raise RuntimeFailure(f"{path.name} is a damaged .tflite file: {error}") from error
    return numbers[0], numbers[1]


def _tensor(data: bytes, table: int) -> TensorInfo:
    kind = _field(data, table, _TYPE)
    name = _field(data, table, _NAME)
    start = _table(data, name) if name else 0
    text = data[start + 4 : start + 4 + _unsigned(data, start)].decode(errors="replace") if name else ""
    return TensorInfo(text, tuple(_integers(data, table, _SHAPE)), _TYPES.get(data[kind] if kind else 0, ""))


def _unsigned(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _table(data: bytes, at: int) -> int:
    """Where the offset at `at` leads."""
    return at + _unsigned(data, at)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies, 0 where it is absent."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    size, place = struct.unpack_from("<H", data, fields)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", data, fields + place)[0] if place + 2 <= size else 0
    return table + offset if offset else 0


def _items(data: bytes, table: int, number: int) -> list[int]:
    """The tables of a vector."""
    at = _field(data, table, number)
    start = _table(data, at) if at else 0
    return [_table(data, start + 4 + 4 * index) for index in range(_unsigned(data, start))] if at else []


def _integers(data: bytes, table: int, number: int) -> list[int]:
    at = _field(data, table, number)
    start = _table(data, at) if at else 0
    return list(struct.unpack_from(f"<{_unsigned(data, start)}i", data, start + 4)) if at else []
