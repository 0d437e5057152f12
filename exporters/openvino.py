"""ONNX graph -> OpenVINO IR (`.xml` with its `.bin` beside it), the same bytes every time and nothing in them that says where they were made.

The graph is read by OpenVINO's own ONNX frontend. `openvino.convert_model` would call the same one, but reports to its maker on the way, and records
the path of its input in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdedge.errors import ExportError, MissingExtra
from kdedge.runtimes.errors import NotAvailable
from kdedge.runtimes.openvino import import_runtime

TOOLS = ("openvino",)


def write_ir(onnx_path: Path, xml_path: Path, *, half: bool, properties: Mapping[str, str]) -> tuple[Path, Path]:
    """Convert the ONNX file at `onnx_path`, and return the paths of the `.xml` and the `.bin`.

    `half`: store float32 weights as float16 (OpenVINO's default, here only where it was asked for). `properties` are written into the IR's
    runtime info under `kdedge`.

    Raises:
        ExportError: OpenVINO cannot read the graph, or cannot write the IR.
        MissingExtra: OpenVINO is not installed.
    """
    try:
        runtime = import_runtime()
    except NotAvailable as error:
        raise MissingExtra("openvino", "openvino", "writing an OpenVINO IR") from error
    try:
        model = runtime.Core().read_model(str(onnx_path))
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read `{onnx_path.name}`: {' '.join(str(error).split())}") from error
    _name_all(model)
    _simplify(model)
    _name_all(model)
    for key in sorted(properties):
        model.set_rt_info(properties[key], ["kdedge", key])
    try:
        runtime.save_model(model, str(xml_path), compress_to_fp16=half)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot write `{xml_path.name}`: {' '.join(str(error).split())}") from error
    return xml_path, xml_path.with_suffix(".bin")


def _simplify(model: Any) -> None:
    """OpenVINO's own transformations of a freshly read model, those of `convert_model`: the shape arithmetic that the frontend writes around every
    bias goes (two thirds of an int8 `.xml`), constants of integer weights stay what they are."""
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=False, smart_reshape=False)


def _name_all(model: Any) -> None:
    """Give nodes that OpenVINO numbered (the count goes on through the process) names that depend on the graph alone."""
    model.set_friendly_name("student")
    operators = model.get_ordered_ops()
    taken = {operator.get_friendly_name() for operator in operators if operator.get_friendly_name() != operator.get_name()}
    for operator in operators:
        if operator.get_friendly_name() != operator.get_name():
            continue
        number = 0
        while (name := f"{operator.get_type_name()}_{number}") in taken:
            number += 1
        taken.add(name)
        operator.set_friendly_name(name)
