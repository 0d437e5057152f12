"""A minimal `.tflite` file, written with the flatbuffers package after `tensorflow/lite/schema/schema.fbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

Spec = tuple[str, tuple[int, ...], str]
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "string": 5, "int8": 9}


def write_tflite(path: Path, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> Path:
    """Tables Model, SubGraph and Tensor, with nothing between inputs and outputs."""
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(256)

    def vector(values: Sequence[int], put: Any, size: int = 4) -> int:
        builder.StartVector(size, len(values), size)
        for value in reversed(values):
            put(value)
        return int(builder.EndVector())

    def tensor(name: str, shape: tuple[int, ...], dtype: str) -> int:
        label, sizes = builder.CreateString(name), vector(shape, builder.PrependInt32)
        builder.StartObject(8)
        builder.PrependUOffsetTRelativeSlot(0, sizes, 0)
        builder.PrependInt8Slot(1, TYPES[dtype], 0)
        builder.PrependUOffsetTRelativeSlot(3, label, 0)
        return int(builder.EndObject())

    tensors = vector([tensor(*spec) for spec in (*inputs, *outputs)], builder.PrependUOffsetTRelative)
    ins = vector(range(len(inputs)), builder.PrependInt32)
    outs = vector(range(len(inputs), len(inputs) + len(outputs)), builder.PrependInt32)
    builder.StartObject(5)
    for slot, value in enumerate((tensors, ins, outs)):
        builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    graph = int(builder.EndObject())
    graphs = vector([graph], builder.PrependUOffsetTRelative)
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
