"""ORT-format files: opened with ONNX Runtime's own reader, and written so that equal graphs give equal bytes.

An ORT-format file is a flatbuffer (schema `ort.fbs` of ONNX Runtime): a root table in front, after it the table that resolves kernel types, at the
end the model. ONNX Runtime writes that table in the order of a hash map keyed by pointers, so two conversions of one model differ there and nowhere
else. Offsets in a flatbuffer point forward and are relative: the front can be written again, in order, over an unchanged model.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IDENTIFIER = b"ORTM"
#: The largest alignment that ONNX Runtime's writer asks for (8), with room; the front is padded so that the model keeps its own.
_ALIGNMENT = 16


@contextmanager
def reader() -> Iterator[Any]:
    """ONNX Runtime's package that reads its format, as long as this is open: importing it sets up logging for the whole process and lengthens the
    search path of modules, which are put back afterwards."""
    root = logging.getLogger()
    handlers, path = list(root.handlers), list(sys.path)
    try:
        from onnxruntime.tools import ort_format_model

        sys.path.append(str(Path(ort_format_model.__file__).parent))
        yield ort_format_model
    finally:
        root.handlers[:] = handlers
        sys.path[:] = path


def in_order(content: bytes) -> bytes:
    """The same ORT-format file with its table of kernel types sorted by operator.

    Raises:
        ValueError: it is not an ORT-format file.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("this is not a file in ORT format")
    with reader():
        fbs = importlib.import_module("ort_flatbuffers_py.fbs")
        session = fbs.InferenceSession.InferenceSession.GetRootAs(content, 0)
        resolver = session.KernelTypeStrResolver()
        entries = sorted(_entry(resolver.OpKernelTypeStrArgs(place)) for place in range(resolver.OpKernelTypeStrArgsLength()))
        model = session.Model()._tab
        return _write(fbs, content, model.Pos, min(model.Pos, model.Pos - _offset_of_vtable(content, model.Pos)), session.OrtVersion(), entries)


Entry = tuple[bytes, tuple[tuple[bytes, tuple[tuple[int, int], ...]], ...]]


def _entry(entry: Any) -> Entry:
    """One operator: its id, and by name of a type which inputs and outputs (kind, number) have it."""
    kinds = []
    for place in range(entry.KernelTypeStrArgsLength()):
        kind = entry.KernelTypeStrArgs(place)
        places = (kind.Args(number) for number in range(kind.ArgsLength()))
        kinds.append((bytes(kind.KernelTypeStr()), tuple((each.ArgType(), each.Index()) for each in places)))
    return bytes(entry.OpId()), tuple(sorted(kinds))


def _write(fbs: Any, content: bytes, model: int, start: int, version: bytes, entries: list[Entry]) -> bytes:
    import flatbuffers  # type: ignore[import-untyped]

    tail = content[start:]
    builder = flatbuffers.Builder(len(tail) + 4096)
    # As if the model had just been written: builders fill their buffer from the end.
    builder.Bytes[len(builder.Bytes) - len(tail) :] = tail
    builder.head = len(builder.Bytes) - len(tail)
    builder.minalign = _ALIGNMENT
    resolver = fbs.KernelTypeStrResolver
    written = [_write_entry(fbs, builder, *each) for each in entries]
    table = _vector(builder, resolver.KernelTypeStrResolverStartOpKernelTypeStrArgsVector, written)
    resolver.KernelTypeStrResolverStart(builder)
    resolver.KernelTypeStrResolverAddOpKernelTypeStrArgs(builder, table)
    types = resolver.KernelTypeStrResolverEnd(builder)
    held = builder.CreateString(version)
    root = fbs.InferenceSession
    root.InferenceSessionStart(builder)
    root.InferenceSessionAddOrtVersion(builder, held)
    root.InferenceSessionAddModel(builder, len(content) - model)
    root.InferenceSessionAddKernelTypeStrResolver(builder, types)
    builder.Finish(root.InferenceSessionEnd(builder), IDENTIFIER)
    return bytes(builder.Output())


def _write_entry(fbs: Any, builder: Any, operator: bytes, kinds: tuple[tuple[bytes, tuple[tuple[int, int], ...]], ...]) -> int:
    name = builder.CreateString(operator)
    table, kind, place = fbs.OpIdKernelTypeStrArgsEntry, fbs.KernelTypeStrArgsEntry, fbs.ArgTypeAndIndex
    written = []
    for label, places in kinds:
        text = builder.CreateString(label)
        held = []
        for argument, index in places:
            place.ArgTypeAndIndexStart(builder)
            place.ArgTypeAndIndexAddArgType(builder, argument)
            place.ArgTypeAndIndexAddIndex(builder, index)
            held.append(place.ArgTypeAndIndexEnd(builder))
        vector = _vector(builder, kind.KernelTypeStrArgsEntryStartArgsVector, held)
        kind.KernelTypeStrArgsEntryStart(builder)
        kind.KernelTypeStrArgsEntryAddKernelTypeStr(builder, text)
        kind.KernelTypeStrArgsEntryAddArgs(builder, vector)
        written.append(kind.KernelTypeStrArgsEntryEnd(builder))
    vector = _vector(builder, table.OpIdKernelTypeStrArgsEntryStartKernelTypeStrArgsVector, written)
    table.OpIdKernelTypeStrArgsEntryStart(builder)
    table.OpIdKernelTypeStrArgsEntryAddOpId(builder, name)
    table.OpIdKernelTypeStrArgsEntryAddKernelTypeStrArgs(builder, vector)
    return int(table.OpIdKernelTypeStrArgsEntryEnd(builder))


def _vector(builder: Any, start: Any, offsets: list[int]) -> int:
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _offset_of_vtable(content: bytes, table: int) -> int:
    return int.from_bytes(content[table : table + 4], "little", signed=True)
