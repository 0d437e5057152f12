"""The last steps of a float graph, wherever it came from: simplify, check, write, describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from kdedge.artifact import FloatGraph, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.examples import Feed
from kdedge.exporters.model_file import constant, content_hash, dimensions_of, opset_of, save_model, specs_of
from kdedge.exporters.naming import ensure_names, strip
from kdedge.exporters.passes.apply import apply_passes
from kdedge.progress import message

#: Passes of every float graph, in order; none of them touches the normalisation in front (a zero-padded convolution must see normalised zeros).
FLOAT_PASSES = (
    "remove_identity",
    "fold_constants",
    "gemm_from_matmul_add",
    "fold_gemm_factors",
    "fold_batch_normalization",
    "option_a_shortcut",
    "mean_to_global_average_pool",
)


def simplify(model: ir.Model, feeds: Sequence[Feed]) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph after `FLOAT_PASSES`, and the names of those that changed it; a reverted one is told to the listener."""
    applied = apply_passes(model, FLOAT_PASSES, feeds)
    for reverted, reason in applied.reverted.items():
        message(f"graph pass `{reverted}` was reverted: {reason}")
    ensure_names(applied.model)
    return applied.model, applied.kept


def write_float_graph(model: ir.Model, path: Path, *, inputs: tuple[TensorSpec, ...], **facts: Any) -> FloatGraph:
    """Check and write a finished graph, and say what was written. `facts` are the remaining fields of `FloatGraph`.

    Raises:
        ExportError: the graph breaks the ONNX specification, is larger than 1 GB, or an output has a dtype other than float32.
    """
    strip(model)
    save_model(model, path)
    outputs = specs_of(model.graph.outputs, dimensions_of(inputs))
    for spec in outputs:
        if spec.dtype != "float32":
            raise ExportError(f"output `{spec.name}` is {spec.dtype}; a student's outputs are float32")
    return FloatGraph(path=path, sha256=content_hash([path]), inputs=inputs, outputs=outputs, opset=opset_of(model), **facts)


def count_parameters(model: ir.Model) -> int:
    """Scalars in the graph's float weights, biases and constants."""
    arrays = [constant(value) for value in model.graph.initializers.values()]
    return int(sum(array.size for array in arrays if array is not None and array.dtype.kind == "f" and array.ndim > 0 and np.prod(array.shape) > 1))
