"""One artifact: the float graph as one target wants it in one precision. The stage that ends in what ships.

    onnx       the graph in its precision (`target_graph`); for TensorRT, parsed and built by tensorrt-rtx
    ort        the same, then optimised by ONNX Runtime and written in its own format, beside the list of operators that it needs
    openvino   as onnx, then read by OpenVINO and written as IR (fp16: weights stored as float16)
    pt2        the torch student as an exported program, float32

Which way a target goes is its row in `targets.py`; which kernels a dialect serves is its table. Nothing here knows a target by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdedge.artifact import (
    Artifact,
    CalibratedRanges,
    ChannelSizes,
    Dimension,
    FloatGraph,
    GraphFile,
    ImportPath,
    Lineage,
    ModelFiles,
    TensorSpec,
    TextEncoder,
)
from kdedge.errors import ExportError
from kdedge.exporters.request import Made, Request
from kdedge.exporters.target_graph import write_graph
from kdedge.installed import need
from kdedge.recipe import ExportSection
from kdedge.targets import Target

TOOLS = ("onnx", "onnxscript", "onnx-ir", "onnxruntime")


def build(
    target: Target,
    precision: str,
    dialect: ImportPath | None,
    model: FloatGraph,
    student: ModelFiles,
    ranges: CalibratedRanges | None,
    export: ExportSection,
    lineage: Lineage,
    *,
    folder: Path,
    keep_float: tuple[str, ...] = (),
    channels: ChannelSizes | None = None,
) -> Artifact:
    """Make the artifact of `target` in `precision` in `folder`.

    `ranges` are needed for int8. `export.batch` fixes the batch ("dynamic": leaves it free; None: the target's own, which int8-dynamic only takes
    for its usual size); `export.options` go over the target's session options, unchecked: the runtime's adapter knows what it takes.
    `keep_float`: names or patterns of nodes that int8-dynamic and int8-weights leave float (int8 has them in `ranges`).
    `channels`: what stage `smoothing:observe_channels` found, which int8-dynamic is more faithful with.

    Raises:
        ExportError: the target has no such precision or format, the graph cannot be lowered, or the result breaks the target's limits.
        DialectError: the lowered graph breaks the dialect's grammar.
        MissingExtra: a package that the format needs is not installed.
    """
    from kdedge.exporters.metadata import lineage_properties
    from kdedge.exporters.model_file import content_hash

    if precision not in target.precisions:
        raise ExportError(f"target `{target.name}` has no precision `{precision}` (it has: {', '.join(target.precisions)})")
    if target.format not in MAKERS:
        raise ExportError(f"target `{target.name}`: there is no exporter for the format `{target.format}` (there is: {', '.join(MAKERS)})")
    batch = export.batch if export.batch is not None else target.batch
    if precision == "int8-dynamic" and export.batch is None:
        # No plan is made from its sizes, so nothing is gained by fixing one: it takes any batch, and is measured at the target's like the others.
        model, batch = _with_usual_batch(model, target.batch), None
    sizes = _fixed_sizes(model, batch)
    request = Request(
        target=target,
        precision=precision,
        dialect=None if dialect is None else dialect.load(),
        model=model,
        student=student,
        ranges=ranges,
        sizes=sizes,
        properties=lineage_properties(lineage, target.name, precision),
        options=_session_options(target, precision, model, sizes, export),
        folder=folder,
        keep_float=keep_float,
        channels=channels,
    )
    made = MAKERS[target.format](request)
    return Artifact(
        target=target.name,
        precision=request.precision,  # type: ignore[arg-type]  # checked against the target's own
        format=target.format,
        runtime=target.runtime,
        dialect=target.dialect,
        graphs=(GraphFile("model", made.files, made.inputs, made.outputs),),
        sha256=content_hash(made.files),
        size_bytes=sum(file.stat().st_size for file in made.files),
        options=request.options,
        encoder=model.encoder,
        classes=model.classes,
        lineage=lineage,
        assets=(model.encoder.tokenizer,) if isinstance(model.encoder, TextEncoder) else (),
        checks=made.checks,
        notes=made.notes,
        asked=made.asked,
        trials=ranges.trials if ranges is not None and precision == "mixed" else (),
    )


# ---- formats ---------------------------------------------------------------------------------------------------------------


def _onnx(request: Request) -> Made:
    """An ONNX file; for TensorRT, one that its own parser has read and built."""
    path = request.folder / "model.onnx"
    notes, asked = write_graph(request, request.precision, path)
    checks = {}
    if request.target.runtime == "tensorrt":
        from kdedge.exporters.tensorrt import check_with_rtx

        checks["rtx-checked"] = check_with_rtx(path, request.options)
    return Made((path,), *_specs(request), checks, notes, asked)


def _ort(request: Request) -> Made:
    """A file in ORT format and the operators that it needs. Its lineage is that of the ONNX file, which ONNX Runtime copies into it."""
    from kdedge.exporters.ort_mobile import write_ort

    if request.precision == "fp16":
        raise ExportError(
            f"target `{request.target.name}`: a file in ORT format that is converted here would bind float16 weights to float32 arithmetic on the "
            "phone and be as large as fp32; take fp32, int8 or int8-dynamic"
        )
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=request.folder) as temporary:
        path = Path(temporary) / "model.onnx"
        notes, asked = write_graph(request, request.precision, path)
        files = write_ort(path, request.folder / "model.ort")
    return Made(files, *_specs(request), {}, notes, asked)


def _openvino(request: Request) -> Made:
    """An IR, made from the ONNX file that ONNX Runtime would get in this precision; OpenVINO itself stores float16 weights."""
    from kdedge.exporters.openvino import write_ir

    half = request.precision == "fp16"
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=request.folder) as temporary:
        path = Path(temporary) / "model.onnx"
        notes, asked = write_graph(request, "fp32" if half else request.precision, path)
        files = write_ir(path, request.folder / "model.xml", half=half, properties=request.properties)
    return Made(files, *_specs(request), {}, notes, asked)


def _program(request: Request) -> Made:
    """An exported torch program."""
    if request.student.onnx is not None:
        name = request.student.name
        raise ExportError(f"target `{request.target.name}` runs torch programs, and the student `{name}` is an ONNX file: leave the target out")
    need("exporting a torch program", "train", "torch")
    from kdedge.exporters.asked_program import asked_of_program
    from kdedge.exporters.torch_program import write_program
    from kdedge.models.load import load

    path = request.folder / "model.pt2"
    inputs, outputs = _specs(request)
    names = tuple(spec.name for spec in outputs)
    write_program(load(request.student), inputs, names, path, name=request.student.name, properties=request.properties)
    return Made((path,), inputs, outputs, asked=asked_of_program(path, inputs))


MAKERS: dict[str, Callable[[Request], Made]] = {"onnx": _onnx, "ort": _ort, "openvino": _openvino, "pt2": _program}


# ---- shapes and options ----------------------------------------------------------------------------------------------------


def _fixed_sizes(model: FloatGraph, batch: int | str | None) -> dict[str, int]:
    first = model.inputs[0].shape[0]
    return {first.name: batch} if isinstance(batch, int) and isinstance(first, Dimension) else {}


def _with_usual_batch(model: FloatGraph, batch: int | None) -> FloatGraph:
    """The same graph, whose batch stays free and is usually `batch`."""

    def usual(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=(changed if spec.shape[:1] == (first,) else spec.shape[:1]) + spec.shape[1:]) for spec in specs)

    first = model.inputs[0].shape[0]
    if batch is None or not isinstance(first, Dimension) or not first.minimum <= batch <= first.maximum:
        return model
    changed = (replace(first, typical=batch),)
    return replace(model, inputs=usual(model.inputs), outputs=usual(model.outputs))


def _specs(request: Request) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from kdedge.exporters.shapes import fixed_specs

    return fixed_specs(request.model.inputs, request.sizes), fixed_specs(request.model.outputs, request.sizes)


def _session_options(target: Target, precision: str, model: FloatGraph, sizes: dict[str, int], export: ExportSection) -> dict[str, Any]:
    """The target's options, TensorRT's optimization profiles where shapes stay dynamic, and over them the recipe's own."""
    from kdedge.exporters.shapes import fixed_specs

    options = target.session_options(precision)
    if target.runtime == "tensorrt":
        from kdedge.exporters.tensorrt import optimization_profiles

        profiles = optimization_profiles(fixed_specs(model.inputs, sizes))
        options = {**options, **({"profiles": profiles} if profiles else {})}
    return {**options, **export.options}
