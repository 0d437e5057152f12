"""Whether a runtime is installed here, found without importing it."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from typing import Sequence


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version_of(module: str, distributions: Sequence[str]) -> str:
    """The version of an installed runtime, "" where there is none.

    One that is imported says it itself; else the metadata of the first of `distributions` (the same module comes from several packages:
    `onnxruntime`, `onnxruntime-gpu`, a vendor's build).
    """
    loaded = sys.modules.get(module)
    said = getattr(loaded, "__version__", None)
    if isinstance(said, str):
        return said
    if not is_installed(module):
        return ""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
