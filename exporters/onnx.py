"""The student as one float32 ONNX graph, proven to be the same function: the stage between training and everything that ships.

    torch module -> torch's exporter (quiet, dynamic batch and length) -> names of modules, no stack traces -> graph passes -> checked, written,
    compared with the module at sizes that it was not exported with

A student that was given as an ONNX file takes the way of `import_onnx.py` to the same `FloatGraph`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from kdedge.artifact import Encoder, FloatGraph, ModelFiles, PreparedData, TensorSpec
from kdedge.exporters.equivalence import verify_against_module
from kdedge.exporters.examples import example_feeds, sizes_to_check
from kdedge.exporters.import_onnx import import_onnx
from kdedge.exporters.float_graph import count_parameters, simplify, write_float_graph
from kdedge.exporters.naming import name_after_modules, strip
from kdedge.exporters.tracing import trace

TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def export(student: ModelFiles, data: PreparedData | None, *, folder: Path) -> FloatGraph:
    """Write `folder/model.onnx`: float32, dynamic, verified. `data` gives the inputs that it is verified on (None: random ones).

    Raises:
        ExportError: the student cannot be exported, or the graph differs from it.
        ModelError: the student's files cannot be loaded.
    """
    path = folder / "model.onnx"
    if student.onnx is not None:
        return import_onnx(student, data, path)
    from kdedge.models.load import load

    return export_module(load(student), student.inputs, student.outputs, path, name=student.name, encoder=student.encoder, classes=student.classes, data=data)


def export_module(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    path: Path,
    *,
    name: str,
    encoder: Encoder,
    classes: tuple[str, ...] = (),
    data: PreparedData | None = None,
) -> FloatGraph:
    """`export` for a module that is already there: `forward(*tensors)` in the order of `inputs`, a dict of tensors by output name out.

    Raises:
        ExportError: as `export`.
    """
    module.eval()
    feeds = example_feeds(inputs, sizes_to_check(inputs), encoder, data)
    model = trace(module, inputs, outputs, feeds[0], name)
    name_after_modules(model)
    strip(model)
    model, kept = simplify(model, feeds)
    difference = verify_against_module(model, module, inputs, feeds, name)
    return write_float_graph(
        model, path, inputs=inputs, encoder=encoder, classes=classes, parameters=count_parameters(model), largest_difference=difference, passes=kept
    )
