"""The float graph as a target wants it: sizes fixed, in one precision, with its lineage inside, checked against the limits of its dialect.

fix the batch -> [fp16: half | int8, mixed: lower to the dialect, half where the dialect's rest is float16, validate its grammar |
int8-dynamic | int8-weights] -> lineage -> checked and written
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from kdedge.artifact import AskedNode, RecoveryStep
from kdedge.errors import ExportError
from kdedge.exporters.request import Request
from kdedge.installed import ONNX, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from kdedge.artifact import CalibratedRanges
    from kdedge.exporters.quantize.lower import LoweredReport

#: What a shape that was fixed may differ by from the dynamic graph, relative to the output's scale.
SAME = 1e-5


def write_graph(request: Request, precision: str, path: Path) -> tuple[tuple[str, ...], tuple[AskedNode, ...]]:
    """The float graph with fixed sizes, in `precision`, with its lineage inside, checked against the dialect's limits, at `path`. Returns notes, and
    the nodes that multiply."""
    need("making an ONNX artifact", "onnx", *ONNX)
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
    notes = (*map(_told, ranges.steps), *_reasons(report, ranges))
    kept = {str(node.name) for node in shaped.graph if node.op_type in WEIGHTED} - set(report.weighted) | set(report.kept)
    if dialect.rest == "float16":
        model, more = _half(request, load_model(path))
        notes += more
        save_model(model, path)
    validate(path, dialect, kept)
    return load_model(path), notes


def _reasons(report: LoweredReport, ranges: CalibratedRanges) -> Iterator[str]:
    """What lowering noted; of the layers that the search for `mixed` chose, that it was the search."""
    searched = {name for trial in ranges.trials if trial.chosen for name in trial.kept}
    reasons = dict(report.reasons)
    for note in report.notes:
        name = next((name for name in searched if note.startswith(f"`{name}` (") and name in reasons), None)
        yield note if name is None else note.replace(reasons[name], "chosen by the search for `mixed`")


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
    """A graph without the dialect's Q/DQ is refused only where nothing newer is read at all: the runtime itself reads more."""
    from kdedge.exporters.model_file import needed_ir_version, opset_of

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
