"""The ground floor: one adapter a runtime, and the worker that drives them. All of it travels to boards.

Python 3.8, the standard library and numpy; a runtime is imported when its adapter opens. Nothing here imports the rest of kdedge.
"""
# This file and worker.py hold nothing that an older Python cannot parse, so that it gets a sentence and not a SyntaxError.

import importlib
from typing import Any, Dict

from .errors import RuntimeFailure

# Runtime -> module of this package. Each module is what session.py describes.
ADAPTERS: Dict[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "torch": "torch",
}


def adapter(name: str) -> Any:
    """The adapter module of a runtime; the runtime itself is not imported yet.

    Raises:
        RuntimeFailure: there is no adapter of that name.
    """
    if name not in ADAPTERS:
        raise RuntimeFailure("there is no runtime `%s`; allowed: %s" % (name, ", ".join(sorted(ADAPTERS))))
    # Relative: an absolute `import onnxruntime` inside the adapter of that name still finds the real package.
    return importlib.import_module("." + ADAPTERS[name], __name__)
