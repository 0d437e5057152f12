"""Asking for optional packages before they are imported, so that a missing one is a sentence, and told before hours are spent."""

from __future__ import annotations

import importlib.util

from kdedge.errors import MissingExtra

ONNX = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
"""What reading, rewriting and checking an ONNX graph takes."""


def need(purpose: str, extra: str, *modules: str) -> None:
    """Check that `modules` can be found (none is imported).

    Raises:
        MissingExtra: names the first that is missing and the extra that brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(module, extra, purpose)
