"""A foreign file as the float graph that calibration and lowering take: float32, an opset of the dialect, cleaned by graph passes. Each step is
run beside the file as it was given, and refused or undone where outputs change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kdedge.artifact import CalibratedRanges, ImportPath
from kdedge.errors import DataError, ExportError
from kdedge.exporters.equivalence import TOLERANCE, GraphRunError, difference, run
from kdedge.exporters.foreign.inputs import Calls, Examples, Feed, batches, held_back, inputs_of, join
from kdedge.exporters.foreign.opening import integer_operators, open_graph
from kdedge.exporters.foreign.widen import computes_in_half, widen
from kdedge.exporters.model_file import content_hash, infer_shapes, opset_of, save_model
from kdedge.exporters.naming import ensure_names
from kdedge.exporters.opset import within_opsets
from kdedge.exporters.passes.apply import apply_passes
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.ranges import read_table, write_table
from kdedge.exporters.quantize.recover import recover_graph
from kdedge.exporters.shapes import fix_shapes
from kdedge.recipe import QuantizeSection

TOOLS = ("onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy")

#: Rewrites that make a graph of any exporter easier to run on integers, in order.
PASSES = (
    "remove_identity",
    "fold_constants",
    "gemm_from_matmul_add",
    "fold_gemm_factors",
    "fold_affine",
    "fold_batch_normalization",
    "fold_affine",
    "mean_to_global_average_pool",
)
#: What a conversion to another opset, and one from float16, may change, relative to the output's scale.
SAME, SAME_AS_HALF = 1e-4, 2e-2
#: Examples that are given together to see whether a batch size is baked in, and while ranges are observed.
TOGETHER, BATCH = 3, 32


@dataclass(frozen=True)
class Prepared:
    """The float graph at `path`, or, where there is nothing to do, the `reason`. `opset`: of the file as it was given. `joined`: whether examples
    may be given together. `passes`: those that changed the graph; `notes`: what else was done to it, and what could not be."""

    path: Path | None
    reason: str
    opset: int
    joined: bool = False
    passes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(model: Path, data: Path, dialect: ImportPath, *, folder: Path) -> Prepared:
    """Stage: write to `folder` the same function as the file `model` on the examples of `data`.

    Raises:
        ExportError: the file cannot be read or run, or its opset cannot be brought into the dialect's range.
        DataError: the examples do not fit the graph.
    """
    graph = open_graph(model)
    opset = opset_of(graph)
    if found := integer_operators(graph):
        listed = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
        return Prepared(None, f"it is quantized already (it holds {listed}); quantize the float model that it was made from", opset)
    inputs = inputs_of(graph, model.name)
    with Examples(data, inputs) as calls:
        return _prepared(graph, model.name, calls, dialect, opset, folder)


def _prepared(graph: ir.Model, title: str, calls: Calls, dialect: ImportPath, opset: int, folder: Path) -> Prepared:
    notes: list[str] = []
    first = calls.feed(0)
    alone = _run_given(graph, [first], title)
    _learn_ranks(graph, first)
    feeds, joined = [first], False
    if calls.joined and len(calls) >= TOGETHER:
        separate = [first, *(calls.feed(place) for place in range(1, TOGETHER))]
        alone += _run_given(graph, separate[1:], title)
        joined = _may_be_joined(graph, separate, alone)
        if joined:
            feeds.append(join(separate))
        else:
            notes.append(
                "examples that are given together do not get the outputs of each alone (a batch size is baked in, say): they are given one by one"
            )
    _learn_types(graph, first)
    if computes_in_half(graph):
        graph = _widened(graph, title, feeds)
        notes.append("it computes in float16: widened to float32 and quantized from there; inputs and outputs keep their types")
    table = dialect.load()
    converted = within_opsets(graph, table.minimum_opset, table.maximum_opset, feeds, title, SAME)
    if opset_of(converted) != opset:
        notes.append(f"opset {opset} became {opset_of(converted)}, with the same outputs")
    applied = apply_passes(converted, PASSES, feeds, tolerance=SAME)
    for name, reason in applied.reverted.items():
        notes.append(f"graph pass `{name}` was reverted: {reason}")
    ensure_names(applied.model)
    ready = applied.model
    if any(table.demands(node) for node in ready.graph) and (sizes := _varying(ready, calls, first, table.name, title)):
        ready, joined = _fixed(ready, sizes, first, title), False
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        notes.append(f"{table.name} wants fixed shapes: {listed}, as one example has them")
    path = folder / f"{Path(title).stem}.onnx"  # errors name it
    save_model(ready, path)
    return Prepared(path, "", opset, joined, tuple(dict.fromkeys(applied.kept)), tuple(notes))


def _learn_ranks(graph: ir.Model, feed: Feed) -> None:
    """The number of axes of inputs whose file does not say it, which ONNX's check of a graph asks for."""
    for value in graph.graph.inputs:
        if value.shape is None:
            value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(feed[str(value.name)].ndim)])


def _learn_types(graph: ir.Model, feed: Feed) -> None:
    """Types and numbers of axes of what operators of one runtime make, from running them: no inference of ONNX gets past them."""
    unknown = [value for node in graph.graph if node.domain not in ("", "ai.onnx") for value in node.outputs if value.name and value.dtype is None]
    if not unknown:
        return
    probe = graph.clone()
    made = {str(value.name): value for node in probe.graph for value in node.outputs}
    names = [str(value.name) for value in unknown]
    probe.graph.outputs.extend(made[name] for name in names if not made[name].is_graph_output())
    try:
        (found,) = run(probe, [feed], names)
    except GraphRunError:
        return  # a sequence or a map among them: what follows stays float
    for value in unknown:
        array = found[str(value.name)]
        if isinstance(array, np.ndarray):
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)


def _run_given(graph: ir.Model, feeds: Sequence[Feed], title: str) -> list[Feed]:
    try:
        return run(graph, feeds)
    except GraphRunError as error:
        raise ExportError(f"`{title}` cannot be run by ONNX Runtime on the examples as it was given: {error}") from error


def _may_be_joined(graph: ir.Model, separate: Sequence[Feed], alone: Sequence[Feed]) -> bool:
    """Whether examples that are given together get the outputs that each gets alone."""
    try:
        (together,) = run(graph, [join(separate)])
        if not all(isinstance(output, np.ndarray) for output in together.values()):
            return False
        wanted = join(alone)
    except (GraphRunError, ValueError):  # it takes one at a time; or its outputs have no axis of examples, or sizes that depend on their values
        return False
    return difference(together, wanted)[1] <= TOLERANCE


def _widened(graph: ir.Model, title: str, feeds: Sequence[Feed]) -> ir.Model:
    copy = graph.clone()
    widen(copy)
    copy = infer_shapes(copy)
    gap = _gap(copy, graph, feeds, f"`{title}` cannot be widened from float16 to float32")
    if gap > SAME_AS_HALF:
        raise ExportError(f"`{title}`: widening it from float16 to float32 changed the outputs by {gap:.2g} of their scale; give the float32 model")
    return copy


def _gap(changed: ir.Model, original: ir.Model, feeds: Sequence[Feed], what: str) -> float:
    try:
        found = run(changed, feeds)
    except GraphRunError as error:
        raise ExportError(f"{what}: {error}") from error
    return max(difference(got, want)[1] for got, want in zip(found, run(original, feeds), strict=True))


def _varying(graph: ir.Model, calls: Calls, first: Feed, dialect: str, title: str) -> dict[str, int]:
    """The sizes that vary by name, as the examples have them."""
    for place in range(len(calls)):
        if any(array.shape != first[name].shape for name, array in calls.feed(place).items()):
            raise DataError(f"`{title}`: {dialect} wants fixed shapes, and example {place} has others than example 0; give examples of one shape")
    inputs = {str(value.name): value.shape for value in graph.graph.inputs if value.shape is not None}
    pairs = [(size, actual) for name, shape in inputs.items() for size, actual in zip(shape, first[name].shape, strict=True)]
    return {str(size.value): actual for size, actual in pairs if not isinstance(size, int)}


def _fixed(graph: ir.Model, sizes: dict[str, int], first: Feed, title: str) -> ir.Model:
    fixed = fix_shapes(graph, sizes)
    gap = _gap(fixed, graph, [first], f"`{title}` does not run with fixed shapes")
    if gap > SAME:
        raise ExportError(f"`{title}`: fixing its shapes changed the outputs by {gap:.2g} of their scale")
    return fixed


def observe_examples(prepared: Prepared, data: Path, settings: QuantizeSection, *, folder: Path) -> CalibratedRanges:
    """Stage: the ranges of a prepared graph on the examples of `data` that are not held back for the comparison.

    Raises:
        ExportError, DataError: as `calibrate.calibrate`, and as `Examples`.
    """
    assert prepared.path is not None
    inputs = inputs_of(open_graph(prepared.path), prepared.path.name)
    with Examples(data, inputs) as calls:
        places, _ = held_back(len(calls))
        joined = calls.joined and prepared.joined
        feeds = batches(calls, places, BATCH if joined else 1)
        table = observe(prepared.path, feeds, settings, total=len(places), whole=not joined, tolerant=True)
    path = folder / "ranges.json"
    write_table(table, path)
    return CalibratedRanges(path, table.observer, len(places), content_hash([prepared.path]))


def recover_examples(
    prepared: Prepared, ranges: CalibratedRanges, data: Path, settings: QuantizeSection, dialect: ImportPath, *, folder: Path
) -> CalibratedRanges:
    """Stage: what `settings.recover` names, and the observer where it is `best`, on the same examples as the ranges.

    Raises:
        ExportError: as `recover.recover_graph`; also where calls have no axis of examples.
    """
    assert prepared.path is not None
    inputs = inputs_of(open_graph(prepared.path), prepared.path.name)
    with Examples(data, inputs) as calls:
        if not calls.counted:
            raise ExportError(
                "recovery and the observer `best` need inputs whose axis 0 counts examples, and here each call is given as it stands; leave them out"
            )
        places, _ = held_back(len(calls))
        feeds = batches(calls, places, BATCH if prepared.joined else 1)
        found = recover_graph(prepared.path, read_table(ranges.table), feeds, settings, dialect.load(), folder)
    return found.written(ranges, dialect.load(), folder)
