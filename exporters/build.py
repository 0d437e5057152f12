"""One artifact: the float graph as one target wants it in one precision. The stage that ends in what ships.

    onnx       fix the batch -> [fp16: half | int8: lower to the dialect, half where the dialect's rest is float16, validate its grammar |
               int8-dynamic | int8-weights] -> lineage inside -> checked and written                   TensorRT: parsed and built by tensorrt-rtx
    ort        the same, then optimised by ONNX Runtime and written in its own format, beside the list of operators that it needs
    openvino   as onnx, then read by OpenVINO and written as IR (fp16: weights stored as float16)
    pt2        the torch student as an exported program, float32

Which way a target goes is its row in `targets.py`; which kernels a dialect serves is its table. Nothing here knows a target by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from kdedge.artifact import (
    Artifact,
    AskedNode,
    CalibratedRanges,
    ChannelSizes,
    Dimension,
    FloatGraph,
    GraphFile,
    ImportPath,
    Lineage,
    ModelFiles,
    RecoveryStep,
    TensorSpec,
    TextEncoder,
)
from kdedge.errors import ExportError
from kdedge.exporters.needs import need
from kdedge.recipe import ExportSection
from kdedge.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from kdedge.exporters.dialects.dialect import Dialect

TOOLS = ("onnx", "onnxscript", "onnx-ir", "onnxruntime")

#: What a shape that was fixed may differ by from the dynamic graph, relative to the output's scale.
SAME = 1e-5


@dataclass(frozen=True)
class Request:
    """All that a maker of artifacts needs to know. `sizes`: dimensions that the target fixes; `keep_float`: nodes that int8-dynamic and
    int8-weights leave."""

    target: Target
    precision: str
    dialect: Dialect | None
    model: FloatGraph
    student: ModelFiles
    ranges: CalibratedRanges | None
    sizes: dict[str, int]
    properties: dict[str, str]
    options: dict[str, Any]
    folder: Path
    keep_float: tuple[str, ...] = ()
    channels: ChannelSizes | None = None


@dataclass(frozen=True)
class Made:
    """The files of one graph, the main one first, with its specs; what was proven without the device; what a person should know; the nodes that
    multiply, as the file asks for them."""

    files: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    checks: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: tuple[AskedNode, ...] = ()


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
    notes, asked = _write_graph(request, request.precision, path)
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
        notes, asked = _write_graph(request, request.precision, path)
        files = write_ort(path, request.folder / "model.ort")
    return Made(files, *_specs(request), {}, notes, asked)


def _openvino(request: Request) -> Made:
    """An IR, made from the ONNX file that ONNX Runtime would get in this precision; OpenVINO itself stores float16 weights."""
    from kdedge.exporters.openvino import write_ir

    half = request.precision == "fp16"
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=request.folder) as temporary:
        path = Path(temporary) / "model.onnx"
        notes, asked = _write_graph(request, "fp32" if half else request.precision, path)
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


# ---- graphs ----------------------------------------------------------------------------------------------------------------


def _write_graph(request: Request, precision: str, path: Path) -> tuple[tuple[str, ...], tuple[AskedNode, ...]]:
    """The float graph with fixed sizes, in `precision`, with its lineage inside, checked against the dialect's limits, at `path`. Returns notes, and
    the nodes that multiply."""
    need("making an ONNX artifact", "onnx", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
    from kdedge.exporters.asked import asked_nodes, reasons_in, usual_sizes
    from kdedge.exporters.metadata import write_properties
    from kdedge.exporters.model_file import save_model
    from kdedge.exporters.naming import strip

    shaped = _shaped(request)
    notes: tuple[str, ...] = ()
    if precision in ("int8", "mixed"):
        model, notes = _int8(request, shaped, path)
    elif precision == "int8-dynamic":
        model, notes = _dynamic(request, shaped)
    elif precision == "int8-weights":
        model, notes = _integer_weights(request, shaped)
    elif precision == "fp16":
        model, notes = _half(request, shaped)
    elif precision == "fp32":
        model = shaped
    else:
        raise ExportError(
            f"target `{request.target.name}`: nothing makes `{precision}` as {request.target.format} yet; "
            "choose fp32, fp16, int8, int8-dynamic, int8-weights or mixed"
        )
    strip(model)
    write_properties(model, request.properties)
    save_model(model, path)
    _check_limits(request, model)
    # OpenVINO takes float16 as an option and not from the file.
    floats = "fp16" if request.precision == "fp16" else ""
    return notes, asked_nodes(model, usual_sizes(request.model.inputs), floats=floats, kept=reasons_in(notes))


def _shaped(request: Request) -> ir.Model:
    """The float graph with the target's fixed sizes, the same function there as the dynamic one."""
    from kdedge.exporters.equivalence import difference, run
    from kdedge.exporters.model_file import load_model
    from kdedge.exporters.shapes import fix_shapes

    dynamic = load_model(request.model.path)
    if not request.sizes:
        return dynamic
    fixed = fix_shapes(dynamic, request.sizes)
    feeds = _feeds(request)
    gaps = [difference(got, want)[1] for got, want in zip(run(fixed, feeds), run(dynamic, feeds), strict=True)]
    if max(gaps) > SAME:
        sizes = ", ".join(f"{name} {size}" for name, size in request.sizes.items())
        raise ExportError(
            f"target `{request.target.name}`: fixing {sizes} changed the outputs by {max(gaps):.2g} of their scale; use `batch: dynamic`"
        )
    return fixed


def _int8(request: Request, shaped: ir.Model, path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Q/DQ in the dialect's places, the rest in its type, its grammar proven on the file that results."""
    from kdedge.exporters.dialects.validate import validate
    from kdedge.exporters.model_file import load_model, save_model
    from kdedge.exporters.quantize.lower import lower
    from kdedge.exporters.quantize.roles import WEIGHTED

    dialect, ranges = request.dialect, request.ranges
    if dialect is None or ranges is None:
        raise ExportError(f"target `{request.target.name}`: int8 needs a dialect and a table of ranges (stage calibrate), and one of them is missing")
    if ranges.model_sha256 != request.model.sha256:
        raise ExportError(f"target `{request.target.name}`: the ranges were calibrated on another graph than the student's; calibrate again")
    if ranges.dialect not in ("", dialect.name):
        raise ExportError(f"target `{request.target.name}`: the ranges were made for the dialect {ranges.dialect}, this target reads {dialect.name}")
    with tempfile.TemporaryDirectory(prefix=".lower-", dir=request.folder) as temporary:
        source = Path(temporary) / "model.onnx"
        save_model(shaped, source)
        report = lower(source, ranges.table, dialect, path, ranges.weights)
    notes = (*map(_told, ranges.steps), *report.notes)
    kept = {str(node.name) for node in shaped.graph if node.op_type in WEIGHTED} - set(report.weighted) | set(report.kept)
    if dialect.rest == "float16":
        model, more = _half(request, load_model(path))
        notes += more
        save_model(model, path)
    validate(path, dialect, kept)
    return load_model(path), notes


def _dynamic(request: Request, shaped: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Integers in linear layers, the ranges of what they multiply measured at each inference."""
    from kdedge.exporters.dynamic import quantize_dynamically
    from kdedge.exporters.opset import raise_opset
    from kdedge.exporters.smoothing import read_sizes
    from kdedge.exporters.weight_only import AXIS_OPSET

    channels = request.channels
    if channels is not None and channels.model_sha256 != request.model.sha256:
        raise ExportError(f"target `{request.target.name}`: the sizes of channels were measured on another graph than the student's; measure again")
    raised = raise_opset(shaped, AXIS_OPSET, _feeds(request), request.student.name)
    quantized = quantize_dynamically(raised, request.keep_float, read_sizes(channels.path) if channels is not None else None)
    return quantized.model, quantized.notes


def _integer_weights(request: Request, shaped: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Integers for the weights alone; what is float has the type of the dialect's rest."""
    from kdedge.exporters.opset import raise_opset
    from kdedge.exporters.weight_only import AXIS_OPSET, quantize_weights

    raised = raise_opset(shaped, AXIS_OPSET, _feeds(request), request.student.name)
    # TensorRT takes integer constants in front of a DequantizeLinear and nowhere else.
    quantized = quantize_weights(raised, request.keep_float, packed_tables=request.target.runtime != "tensorrt")
    if request.dialect is None or request.dialect.rest != "float16":
        return quantized.model, quantized.notes
    model, more = _half(request, quantized.model)
    return model, quantized.notes + more


def _told(step: RecoveryStep) -> str:
    """What became of one attempt to bring the integers closer to the float graph."""
    figure = "KL to the float graph" if step.measure == "kl" else "squared error against the float graph's outputs"
    outcome = "kept" if step.kept else "not kept"
    return f"{step.name}: {figure} {step.before:.4g} -> {step.after:.4g}, {outcome}" + (f" ({step.note})" if step.note else "")


def _half(request: Request, model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph in float16, at an opset that allows it."""
    from kdedge.exporters.half import SCALES_OPSET, to_half
    from kdedge.exporters.opset import raise_opset

    if any(node.op_type == "DequantizeLinear" for node in model.graph):
        model = raise_opset(model, SCALES_OPSET, _feeds(request), request.student.name)
    halved = to_half(model, feeds=_feeds(request))
    return halved.model, halved.notes


def _check_limits(request: Request, model: ir.Model) -> None:
    from kdedge.exporters.model_file import needed_ir_version, opset_of

    """A graph without the dialect's Q/DQ is refused only where nothing newer is read at all: the runtime itself reads more."""
    dialect = request.dialect
    if dialect is None or (request.precision not in ("int8", "mixed") and not dialect.reads_nothing_else):
        return
    opset, version = opset_of(model), needed_ir_version(model)
    lowest, highest = dialect.minimum_opset, dialect.maximum_opset
    if not lowest <= opset <= highest or version > dialect.maximum_ir:
        raise ExportError(
            f"target `{request.target.name}` reads opset {lowest} to {highest} and IR version up to {dialect.maximum_ir}, "
            f"the student's graph has opset {opset} and IR version {version}; export it with an opset in this range"
        )


def _feeds(request: Request) -> list[dict[str, npt.NDArray[Any]]]:
    """Random inputs at the sizes that stay free, and the fixed ones."""
    from kdedge.exporters.examples import random_feed, sizes_to_check

    return [random_feed(request.model.inputs, {**sizes, **request.sizes}) for sizes in sizes_to_check(request.model.inputs)]


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
