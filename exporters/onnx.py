"""The student as one float32 ONNX graph, proven to be the same function: the stage between training and everything that ships.

    torch module -> torch's exporter (quiet, dynamic batch and length) -> names of modules, no stack traces -> graph passes -> checked, written,
    compared with the module at sizes that it was not exported with                                                      (`torch_module.py`)

A student that was given as an ONNX file takes the way of `import_onnx.py` to the same `FloatGraph`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdedge.artifact import FloatGraph, ModelFiles, PreparedData
from kdedge.installed import ONNX, need

TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def export(student: ModelFiles, data: PreparedData | None, *, folder: Path) -> FloatGraph:
    """Write `folder/model.onnx`: float32, dynamic, verified. `data` gives the inputs that it is verified on (None: random ones).

    Raises:
        ExportError: the student cannot be exported, or the graph differs from it.
        ModelError: the student's files cannot be loaded.
        MissingExtra: torch or the ONNX tools are not installed.
    """
    need("exporting the student to ONNX", "onnx", *ONNX)
    path = folder / "model.onnx"
    if student.onnx is not None:
        from kdedge.exporters.import_onnx import import_onnx

        return import_onnx(student, data, path)
    need("exporting a torch student", "train", "torch")
    from kdedge.exporters.torch_module import export_module
    from kdedge.models.load import load

    graph = export_module(
        load(student), student.inputs, student.outputs, path, name=student.name, encoder=student.encoder, classes=student.classes, data=data
    )
    # Folding a batch normalisation changes the graph's count; people know the trained one.
    return replace(graph, parameters=student.parameters or graph.parameters)
