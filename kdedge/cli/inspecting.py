"""What `kdedge inspect` prints."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from kdedge.errors import DialectError, ExportError, KdedgeError


def describe(path: Path) -> str:
    """Lines that describe an ONNX file or a bundle.

    Raises:
        KdedgeError: it is neither.
    """
    if path.is_dir():
        return _bundle(path)
    return _onnx(path)


def violations(path: Path, dialect: str) -> list[str]:
    """What in an ONNX file breaks the grammar of a dialect, one line a node.

    Raises:
        KdedgeError: there is no such dialect, or the file is not ONNX.
    """
    from kdedge.artifact import ImportPath
    from kdedge.exporters.dialects import DIALECTS
    from kdedge.exporters.dialects.validate import validate

    if dialect not in DIALECTS:
        raise KdedgeError(f"there is no dialect `{dialect}` (allowed: {', '.join(sorted(DIALECTS))})")
    try:
        validate(path, ImportPath(DIALECTS[dialect]).load())
    except DialectError as error:
        return str(error).splitlines()[1:] or [str(error)]
    return []


def _bundle(folder: Path) -> str:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise KdedgeError(f"{folder} is no bundle: it has no manifest.json")
    facts: dict[str, Any] = json.loads(manifest.read_text())
    return json.dumps({key: value for key, value in facts.items() if key != "files"}, indent=2)


def _onnx(path: Path) -> str:
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise many kinds; all mean the same here
        raise ExportError(f"{path} is not an ONNX file that can be read: {error}") from error
    counts = Counter(node.op_type for node in model.graph.node)
    initializers = {item.name for item in model.graph.initializer}
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    lines = [f"{path}: IR {model.ir_version}, opset {opsets}, {path.stat().st_size} bytes"]
    lines += [f"input  {_value(value)}" for value in model.graph.input if value.name not in initializers]
    lines += [f"output {_value(value)}" for value in model.graph.output]
    lines.append("operators " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    lines += [f"{item.key}: {item.value}" for item in model.metadata_props]
    return "\n".join(lines)


def _value(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    shape = [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim]
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}"
