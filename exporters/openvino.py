"""ONNX graph -> OpenVINO IR (`.xml` with its `.bin` beside it), the same bytes every time and nothing in them that says where they were made.

The graph is read by OpenVINO's own ONNX frontend. `openvino.convert_model` would call the same one, but reports to its maker on the way, and records
the path of its input in the file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Mapping
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
    _simplify(model)
    for key in sorted(properties):
        model.set_rt_info(properties[key], ["kdedge", key])
    try:
        runtime.save_model(model, str(xml_path), compress_to_fp16=half)
    except RuntimeError as error:
        # It does not say why: its streams know no more.
        room = f"{shutil.disk_usage(xml_path.parent).free // 1000} KB are free in {xml_path.parent}: is the disk full?"
        raise ExportError(f"OpenVINO cannot write `{xml_path.name}`: {' '.join(str(error).split())}; {room}") from error
    return xml_path, xml_path.with_suffix(".bin")


def _simplify(model: Any) -> None:
    """OpenVINO's own transformations of a freshly read model, those that `convert_model` applies: the shape arithmetic that the frontend writes
    around every bias goes (half of an int8 `.xml`), integer weights stay integers.

    OpenVINO numbers the nodes that it makes, and the count goes on through the process: each gets a name that depends on the graph alone.
    """
    from openvino._offline_transformations import apply_moc_transformations

    model.set_friendly_name("student")
    ours = {operator.get_friendly_name() for operator in model.get_ops() if operator.get_friendly_name() != operator.get_name()}
    _number(model, ours)
    apply_moc_transformations(model, cf=False, smart_reshape=False)
    _number(model, ours)


def _number(model: Any, kept: Collection[str]) -> None:
    """Name all nodes but those called `kept` after their type, counted in the order of the graph."""
    counts: Counter[str] = Counter()
    taken = set(kept)
    for operator in model.get_ordered_ops():
        if operator.get_friendly_name() in kept:
            continue
        kind = operator.get_type_name()
        while (name := f"{kind}_{counts[kind]}") in taken:
            counts[kind] += 1
        taken.add(name)
        operator.set_friendly_name(name)
