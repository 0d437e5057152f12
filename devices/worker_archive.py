"""The worker as one file that any Python 3.8 or newer runs: `kdedge.runtimes` as a zip archive with a `__main__.py`."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import kdedge.runtimes

# A package of its own inside the archive: at the top, `onnxruntime.py` (the adapter) would hide the runtime of that name.
PACKAGE = "kdedge_worker"
_MAIN = f"from {PACKAGE}.worker import run\n\nrun()\n"
# The oldest time that a zip archive can hold: equal sources must give equal bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


@cache
def worker_archive() -> Path:
    """The archive, built once per process; its name is the SHA-256 of its bytes."""
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="kdedge-worker-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_archive(folder)


def write_archive(folder: Path, extra: Mapping[str, bytes] | None = None) -> Path:
    """Build the archive into `folder`. `extra`: more files of its package by name; they replace those of the same name."""
    content = archive_bytes(extra)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.pyz"
    path.write_bytes(content)
    return path


def archive_bytes(extra: Mapping[str, bytes] | None = None) -> bytes:
    """The archive's bytes: files in order, with one time, uncompressed (zlib differs from machine to machine, and zip imports faster)."""
    folder = Path(kdedge.runtimes.__file__).parent
    files = {f"{PACKAGE}/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    files |= {f"{PACKAGE}/{name}": content for name, content in (extra or {}).items()}
    files["__main__.py"] = _MAIN.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix: the same on every host
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()
