"""Range table + float ONNX -> quantized ONNX in the dialect of one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.quantize.emit import Writer
from kdedge.exporters.quantize.encoding import Encoding, covers, encode_activation
from kdedge.exporters.quantize.masks import cut_masks
from kdedge.exporters.quantize.plan import Plan, plan
from kdedge.exporters.quantize.ranges import ActivationRange, RangeTable, read_table
from kdedge.exporters.quantize.rewriting import load_for
from kdedge.exporters.quantize.roles import WEIGHTED
from kdedge.exporters.quantize.tensors import Float32, read_tensors, replace_tensors
from kdedge.exporters.quantize.wiring import constant


@dataclass(frozen=True)
class LoweredReport:
    """What lowering did. `activations`: tensors that got a Q/DQ pair; `weighted`: nodes whose weights are quantized;
    `moving`: nodes that move integers; all in graph order. `kept`: nodes that stay float because the recipe or the dialect says so (the
    validator does not ask for their places). `notes`: what a person should know. `reasons`: why nodes stay float, by node, as `notes` say it."""

    activations: tuple[str, ...]
    weighted: tuple[str, ...]
    moving: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...] = ()


def lower(model_path: Path, ranges_path: Path, dialect: Dialect, out: Path, weights: Path | None = None) -> LoweredReport:
    """Write the float graph at `model_path` as `dialect` to `out`. The graph is the one that was calibrated; its batch may have been fixed since.
    `weights`: tensors that take the place of the graph's own, as `tensors.write_tensors` wrote them.

    Raises:
        ExportError: a file cannot be read, the table or the weights were made from another graph, or the opset is outside the dialect's.
    """
    return lower_table(model_path, read_table(ranges_path), dialect, out, {} if weights is None else read_tensors(weights))


def lower_table(model_path: Path, table: RangeTable, dialect: Dialect, out: Path, tensors: Mapping[str, Float32]) -> LoweredReport:
    """The same from a table and tensors at hand, for those who lower one graph many times.

    Raises:
        ExportError: as `lower`.
    """
    model = load_for(model_path, table)
    replace_tensors(model.graph, tensors)
    _check_opset(model, dialect, model_path.name)
    _check_table(model.graph, table, model_path.name)
    decided = plan(model.graph, table, dialect)
    report = _report(model.graph, decided, table, dialect)
    Writer(model.graph, decided, _encodings(model.graph, decided, table, dialect), dialect, table).write()
    model.producer_name, model.producer_version = "kdedge", None
    model_file.save_model(model_file.tidy(model), out)
    return report


def _check_opset(model: Any, dialect: Dialect, name: str) -> None:
    found = model_file.opset_of(model)
    if not dialect.minimum_opset <= found <= dialect.maximum_opset:
        allowed = f"{dialect.minimum_opset} to {dialect.maximum_opset}"
        raise ExportError(f"`{name}` has opset {found}; {dialect.name} reads {allowed}: export it with an opset in this range")


def _check_table(graph: Any, table: RangeTable, name: str) -> None:
    values = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
    values |= {str(value.name) for node in graph for value in node.outputs}
    nodes = {node.name for node in graph}
    wanted = [row.name for row in table.activations] + [row.name for row in table.weights]
    missing = [what for what in wanted if what not in values]
    structure = table.structure
    named = [row.node for row in structure.weights] + [row.node for row in structure.residuals] + [row.node for row in structure.shared]
    missing += [what for what in named if what not in nodes]
    if missing:
        listed = ", ".join(f"`{what}`" for what in missing[:5])
        raise ExportError(
            f"the range table was made from another graph than `{name}`: {len(missing)} of its names are not there ({listed}); calibrate this one"
        )


def _encodings(graph: Any, decided: Plan, table: RangeTable, dialect: Dialect) -> dict[Any, Encoding]:
    rows: Mapping[str, ActivationRange] = table.activation_ranges()
    if dialect.leaves_no_float:
        rows = cut_masks(graph, frozenset(row.node for row in table.structure.shared), rows)
    groups = {value: group for group in decided.groups for value in group}
    made = [value for node in decided.moving for value in node.outputs]

    def encoded(value: Any) -> Encoding:
        if own := _fixed(value, dialect):
            return own
        sharing = groups.get(value, [value])
        ranges = [rows[member.name] for member in sharing]
        # What is moved keeps the scale that the hardware fixes, unless it meets something wider in a Concat.
        fixed = (held for member in sharing if (held := _fixed(member, dialect)) and covers(held, ranges, dialect))
        return next(fixed, None) or encode_activation(ranges, dialect)

    return {value: encoded(value) for value in (*decided.points, *made)}


def _fixed(value: Any, dialect: Dialect) -> Encoding | None:
    """The encoding that a dialect fixes for the operator that makes a value."""
    producer = value.producer()
    if producer is None or producer.op_type not in dialect.fixed:
        return None
    scale, zero_point = dialect.fixed[producer.op_type]
    return Encoding(np.float32(scale), zero_point)


def _unsuitable(node: Any) -> str:
    """Why analysis made no row of a weighted node."""
    operands = [constant(value) for value in node.inputs[:2]]
    if all(held is None for held in operands):
        return "it multiplies two activations"
    if operands[1] is None:
        return "its constant stands on the left, where integer kernels take none"
    return "its operands, bias or attributes have a form that integer kernels do not take"


def _report(graph: Any, decided: Plan, table: RangeTable, dialect: Dialect) -> LoweredReport:
    notes, reasons = [], []
    for node in graph:
        reason = decided.float_nodes.get(node.name, "")
        if node.op_type in WEIGHTED and node not in decided.weighted and not reason and not dialect.leaves_no_float:
            reason = _unsuitable(node)
        if reason:
            notes.append(f"`{node.name}` ({node.op_type}) stays float: {reason}")
            reasons.append((str(node.name), reason))
    return LoweredReport(
        activations=tuple(str(value.name) for value in decided.points),
        weighted=tuple(node.name for node in decided.weighted),
        moving=tuple(node.name for node in decided.moving),
        kept=tuple(dict.fromkeys((*table.keep_float, *decided.float_nodes))),
        notes=tuple(notes),
        reasons=tuple(reasons),
    )
