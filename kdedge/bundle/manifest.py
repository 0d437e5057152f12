"""The manifest of a bundle: what it says, in which bytes, and which paths it may name.

`manifest.json` lists every other file with its SHA-256 and carries a digest of itself, and its bytes are the one canonical form of what it says.
So a flipped byte anywhere in a bundle is noticed. The digest names the bundle: who compares it with the digest that was published also
notices a bundle that somebody made to look whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kdedge.artifact import Encoder, ImageEncoder, TensorSpec
from kdedge.errors import BundleError

MANIFEST = "manifest.json"
SCHEMA = 1
KIND = "kdedge-bundle"
REQUIRED = ("artifact", "classes", "digest", "evidence", "files", "golden", "input", "kind", "lineage", "name", "schema", "worker")
# A manifest is text about a handful of files. What is larger is no manifest, and is not read into memory.
_LARGEST_MANIFEST = 64 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle: its path within it, SHA-256 of its bytes, and size in bytes."""

    path: str
    sha256: str
    size: int


def describe_file(root: Path, path: str) -> FileEntry:
    """Hash one file of a bundle.

    Raises:
        BundleError: it is not there, or is no regular file (a link, a device, a folder).
    """
    digest, size = hashlib.sha256(), 0
    try:
        descriptor = os.open(root / path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"{root.name}: `{path}` is no regular file")
            while block := handle.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except FileNotFoundError as error:
        raise BundleError(f"{root.name}: `{path}` is missing") from error
    except OSError as error:
        raise BundleError(f"{root.name}: `{path}` cannot be read: {error.strerror}") from error
    return FileEntry(path, digest.hexdigest(), size)


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a manifest without its digest, with the digest added. Same content, same bytes."""
    plain: dict[str, Any] = as_plain({key: value for key, value in content.items() if key != "digest"})
    return _canonical({**plain, "digest": hashlib.sha256(_canonical(plain)).hexdigest()})


def read_manifest(root: Path) -> dict[str, Any]:
    """Read a manifest and check that it is whole: known schema, canonical bytes, its own digest, entries that are well formed.

    Raises:
        BundleError: any of that is not so; the message says which.
    """
    path = root / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{root}: there is no {MANIFEST}: this is no bundle")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise BundleError(f"{root.name}: {MANIFEST} has {path.stat().st_size} bytes; at most {_LARGEST_MANIFEST} are read")
    raw = path.read_bytes()
    try:
        content: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{root.name}: {MANIFEST} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise BundleError(f"{root.name}: {MANIFEST} does not describe a kdedge bundle")
    if content.get("schema") != SCHEMA:
        raise BundleError(f"{root.name}: {MANIFEST} has schema {content.get('schema')!r}; this kdedge reads schema {SCHEMA}")
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise BundleError(f"{root.name}: {MANIFEST} says nothing of `{missing[0]}`")
    if _bytes_or_nothing(content) != raw:
        raise BundleError(f"{root.name}: {MANIFEST} was changed: its bytes do not fit its digest")
    return content


def entries_of(content: Mapping[str, Any], root: Path) -> tuple[FileEntry, ...]:
    """The listed files.

    Raises:
        BundleError: an entry is malformed, listed twice, or names a path that leaves the folder.
    """
    found: dict[str, FileEntry] = {}
    listed = content["files"]
    if not isinstance(listed, list):
        raise BundleError(f"{root.name}: {MANIFEST} holds no list of files")
    for item in listed:
        if not (
            isinstance(item, dict) and isinstance(item.get("path"), str) and isinstance(item.get("sha256"), str) and isinstance(item.get("size"), int)
        ):
            raise BundleError(f"{root.name}: {MANIFEST} lists a file without path, sha256 and size: {item!r}")
        path = safe_path(item["path"], root)
        if path in found or path == MANIFEST:
            raise BundleError(f"{root.name}: {MANIFEST} lists `{path}` {'twice' if path in found else 'itself'}")
        found[path] = FileEntry(path, item["sha256"], item["size"])
    return tuple(found[path] for path in sorted(found))


def safe_path(path: str, root: Path) -> str:
    """The path, when it stays inside the bundle.

    Raises:
        BundleError: it is empty, absolute, goes up, is written in an unusual form, or passes through a link.
    """
    pure = PurePosixPath(path)
    plain = path and not pure.is_absolute() and ".." not in pure.parts and str(pure) == path
    if not plain or "\\" in path or ":" in path or not path.isprintable():
        raise BundleError(f"{root.name}: {MANIFEST} names `{path!r}`, which is no plain path inside the bundle")
    walked = root
    for part in pure.parts:
        walked = walked / part
        if walked.is_symlink():
            raise BundleError(f"{root.name}: `{walked.relative_to(root).as_posix()}` is a link; a bundle holds real files only")
    return path


def encoder_as_data(encoder: Encoder, tokenizer: str | None) -> dict[str, Any]:
    """What turns a raw example into the inputs, as data that any language can follow. `tokenizer`: where it lies in the bundle."""
    if isinstance(encoder, ImageEncoder):
        steps = {"kind": "image", "raw": "uint8 RGB, height x width x channel", "result": "float32 NCHW in [0, 1]; mean and std are in the graph"}
        return {**steps, **asdict(encoder)}
    steps = {"kind": "text", "raw": "string", "result": "int64 [n, length], padded with pad_id and masked"}
    return {**steps, **asdict(encoder), "tokenizer": tokenizer}


def spec_as_data(spec: TensorSpec) -> dict[str, Any]:
    """A tensor's name, dtype and dimensions: a number, or name, minimum, typical and maximum."""
    return {"name": spec.name, "dtype": spec.dtype, "shape": [size if isinstance(size, int) else asdict(size) for size in spec.shape]}


def as_plain(value: Any) -> Any:
    """Only what JSON has. Numbers that it has not (an infinite SQNR) become text.

    Raises:
        BundleError: something that a manifest cannot say.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return as_plain(asdict(value))
    raise BundleError(f"a manifest cannot hold a {type(value).__name__}: {value!r}")


def _canonical(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _bytes_or_nothing(content: Mapping[str, Any]) -> bytes:
    """The canonical bytes, or nothing for what no manifest can hold (NaN, which Python's JSON reads)."""
    try:
        return manifest_bytes(content)
    except (BundleError, ValueError, RecursionError):
        return b""
