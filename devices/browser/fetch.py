"""onnxruntime-web, which the page runs: fetched from npm on request and kept in the user's cache folder, or taken from a folder of the user's own.

It is never part of kdedge. npm does the download, so that the user's registry, proxy and credentials are used; the package is kept only if it has
the sha512 that npm's own metadata names, and only the files below are taken out of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kdedge.errors import DeviceError

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
# What the page loads, by the name in the package's folder `dist`: the entry, and the WebAssembly module with its glue, for either provider.
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_SECONDS = 600.0
_LARGEST = 256 << 20


@dataclass(frozen=True)
class WebRuntime:
    """A folder with the files of `FILES`, and the version of onnxruntime-web that they are ("" where the folder does not say)."""

    folder: Path
    version: str


def cache_folder() -> Path:
    """Where the pinned version is kept: `kdedge/onnxruntime-web-VERSION` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kdedge" / f"{PACKAGE}-{VERSION}"


def obtain(folder: Path | None = None, *, fetch: bool = False) -> WebRuntime:
    """The runtime that the page is given: a folder of the user's, else the cached one, which `fetch` fills where it is missing.

    Raises:
        DeviceError: it is not there, lacks a file, or cannot be fetched.
    """
    if folder is not None:
        return _checked(folder)
    if not _missing(cache_folder()):
        return WebRuntime(cache_folder(), VERSION)
    if not fetch:
        raise DeviceError(
            f"the browser needs {PACKAGE} {VERSION}, which is not in {cache_folder()}: fetch it from npm with `kdedge devices serve --fetch`, "
            "or give a folder that has it with --runtime FOLDER"
        )
    _fetch(cache_folder())
    return WebRuntime(cache_folder(), VERSION)


def _checked(folder: Path) -> WebRuntime:
    """A folder of the user's: the package itself, its `dist`, or a folder with the same files."""
    found = folder / "dist" if (folder / "dist").is_dir() else folder
    if missing := _missing(found):
        raise DeviceError(f"--runtime {folder}: it lacks {', '.join(missing)}, which lie in the folder `dist` of {PACKAGE}")
    for place in (found, found.parent):
        try:
            said = json.loads((place / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and said.get("name") == PACKAGE:
            return WebRuntime(found, str(said.get("version", "")))
    return WebRuntime(found, "")


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def _fetch(target: Path) -> None:
    if shutil.which("npm") is None:
        raise DeviceError(f"{PACKAGE} is fetched by npm, which is not installed: install Node.js, or give a folder with --runtime FOLDER")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as temporary:
        folder = Path(temporary)
        archive = folder / _packed(folder)
        check_integrity(archive, _integrity(folder))
        unpack(archive, folder / "files")
        shutil.rmtree(target, ignore_errors=True)
        (folder / "files").replace(target)


def _packed(folder: Path) -> str:
    """Download the package and return the name of its file."""
    for line in _npm(["pack", f"{PACKAGE}@{VERSION}", "--silent"], folder).splitlines():
        if line.endswith(".tgz") and "/" not in line and (folder / line).is_file():
            return line
    raise DeviceError(f"npm pack {PACKAGE}@{VERSION} wrote no package")


def _integrity(folder: Path) -> str:
    said = _npm(["view", f"{PACKAGE}@{VERSION}", "dist.integrity"], folder).strip()
    if not said.startswith("sha512-"):
        raise DeviceError(f"npm names no sha512 of {PACKAGE}@{VERSION} (it says {said[:80]!r}), so the download cannot be checked")
    return said


def _npm(arguments: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"npm {' '.join(arguments)} did not finish: {error}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DeviceError(f"npm {' '.join(arguments)} failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    return done.stdout


def check_integrity(archive: Path, integrity: str) -> None:
    """Compare a package with npm's `sha512-BASE64`.

    Raises:
        DeviceError: they differ.
    """
    with archive.open("rb") as handle:
        digest = base64.b64encode(hashlib.file_digest(handle, "sha512").digest()).decode()
    if f"sha512-{digest}" != integrity:
        raise DeviceError(
            f"{archive.name} is not the package that npm's metadata names: its sha512 is {digest}, not {integrity.removeprefix('sha512-')}"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Take the files of `FILES` out of a package, by their exact names and nothing else.

    Raises:
        DeviceError: it cannot be read, or lacks one.
    """
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:gz") as package:
            for name in FILES:
                member = package.getmember(f"package/dist/{name}")
                content = package.extractfile(member) if member.isfile() and member.size <= _LARGEST else None
                if content is None:
                    raise DeviceError(f"{archive.name}: package/dist/{name} is no plain file of at most {_LARGEST >> 20} MiB")
                with (folder / name).open("wb") as handle:
                    shutil.copyfileobj(content, handle)
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise DeviceError(f"{archive.name} is not a package of {PACKAGE} {VERSION}: {error}") from error
