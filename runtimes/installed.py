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

    That of the first of `distributions` that is installed (the same module comes from several packages: `onnxruntime`, `onnxruntime-gpu`, a
    vendor's build); where none is, the module says it itself if it is imported. In this order, because some write a longer version into the
    module, and what is said of a machine must not depend on what was imported before.
    """
    loaded = sys.modules.get(module)
    if loaded is None and not is_installed(module):
        return ""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    said = getattr(loaded, "__version__", None)
    return said if isinstance(said, str) else "unknown"
