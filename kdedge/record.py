"""How a stage's result is written as JSON and read back, and how values become a key.

Results are frozen dataclasses of plain values and Paths. A dataclass is written with its import path, a Path relative to the folder that it
lies in, so that a workspace can be moved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.errors import WorkspaceError

_TAG = "$"


def to_plain(value: Any, folder: Path, root: Path) -> Any:
    """JSON for a result whose files lie in `folder` (its own) or elsewhere under `root` (earlier stages').

    Raises:
        WorkspaceError: the value holds something that is neither plain, a Path nor a dataclass.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    if isinstance(value, Path):
        return _plain_path(value, folder, root)
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [to_plain(item, folder, root) for item in value]}
    if isinstance(value, list):
        return [to_plain(item, folder, root) for item in value]
    if isinstance(value, Mapping):
        return {_TAG: "dict", "items": [[to_plain(key, folder, root), to_plain(item, folder, root)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_plain(getattr(value, field.name), folder, root) for field in dataclasses.fields(value)}
        return {_TAG: "dataclass", "type": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    raise WorkspaceError(f"a stage returned a {type(value).__name__}, which cannot be kept: results are frozen dataclasses of plain values and Paths")


def from_plain(value: Any, folder: Path, root: Path) -> Any:
    """The value that `to_plain` wrote."""
    if isinstance(value, list):
        return [from_plain(item, folder, root) for item in value]
    if not isinstance(value, dict):
        return value
    match value[_TAG]:
        case "float":
            return float(value["value"])
        case "path":
            return {"folder": folder, "root": root, "absolute": Path("/")}[value["of"]] / value["value"]
        case "tuple":
            return tuple(from_plain(item, folder, root) for item in value["items"])
        case "dict":
            return {from_plain(key, folder, root): from_plain(item, folder, root) for key, item in value["items"]}
        case "dataclass":
            return _dataclass(value["type"])(**{name: from_plain(item, folder, root) for name, item in value["fields"].items()})
    raise WorkspaceError(f"a record holds the unknown tag {value[_TAG]!r}")


def sha256_of(path: Path) -> str:
    """Of a file's bytes, read piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(value: Any, file_digest: Callable[[Path], str], code_digest: Callable[[str], str]) -> str:
    """A key for any input of a stage: the content of its files, the source of its code, and its plain values. A section's fields that are
    declared with `exclude=True` do not count.

    Raises:
        WorkspaceError: a file is missing, or a value is of no kind that has a key.
    """
    digest = hashlib.sha256()

    def feed(tag: str, text: str) -> None:
        digest.update(f"{tag}:{len(text)}:{text}\n".encode())

    def walk(item: Any) -> None:
        if item is None or isinstance(item, bool | int | float | str):
            feed(type(item).__name__, repr(item))
        elif isinstance(item, Path):
            feed("file", file_digest(item))
        elif isinstance(item, ImportPath):
            feed("code", item.value)
            feed("source", code_digest(item.value.partition(":")[0]))
        elif isinstance(item, tuple | list):
            feed("sequence", str(len(item)))
            for part in item:
                walk(part)
        elif isinstance(item, Mapping):
            feed("mapping", str(len(item)))
            for key in sorted(item, key=repr):
                walk(key)
                walk(item[key])
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            feed("dataclass", type(item).__qualname__)
            for part in dataclasses.fields(item):
                feed("field", part.name)
                walk(getattr(item, part.name))
        elif hasattr(type(item), "model_fields"):
            feed("section", type(item).__qualname__)
            for name, field in type(item).model_fields.items():
                if not field.exclude:  # says how the work is done, not what comes out of it
                    feed("field", name)
                    walk(getattr(item, name))
        else:
            raise WorkspaceError(f"a stage was given a {type(item).__name__}, which has no key: pass plain values, Paths and frozen dataclasses")

    walk(value)
    return digest.hexdigest()


def _plain_path(path: Path, folder: Path, root: Path) -> dict[str, str]:
    for of, base in (("folder", folder), ("root", root)):
        if path.is_relative_to(base):
            return {_TAG: "path", "of": of, "value": path.relative_to(base).as_posix()}
    return {_TAG: "path", "of": "absolute", "value": path.absolute().as_posix()}


def _dataclass(name: str) -> Any:
    if not name.startswith("kdedge."):
        raise WorkspaceError(f"a record names the type `{name}`, which is not one of kdedge's")
    found = ImportPath(name).load()
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise WorkspaceError(f"a record names `{name}`, which is no dataclass")
    return found
