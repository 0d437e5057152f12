"""Runs the float graph on calibration examples and fills the range table with what every observer recommends: bounded memory, one pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import CalibratedRanges, FloatGraph, PreparedData
from kdedge.data import open_examples
from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.examples import encoded
from kdedge.exporters.quantize.keep_float import kept_float
from kdedge.exporters.quantize.observers.choices import choices
from kdedge.exporters.quantize.observers.seen import Seen
from kdedge.exporters.quantize.observers.weights import searched_amplitudes, weight_extremes
from kdedge.exporters.quantize.probe import BATCH, Probe
from kdedge.exporters.quantize.ranges import (
    OBSERVERS,
    Activation,
    ActivationRange,
    RangeTable,
    Structure,
    Weight,
    WeightRange,
    with_observer,
    write_table,
)
from kdedge.exporters.quantize.roles import analyse
from kdedge.exporters.quantize.wiring import constant, load
from kdedge.progress import advance
from kdedge.recipe import QuantizeSection

TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")

Array = npt.NDArray[Any]


def calibrate(model: FloatGraph, data: PreparedData, settings: QuantizeSection, *, folder: Path) -> CalibratedRanges:
    """Stage: observe the float graph on the calibration examples (unaugmented examples of the training split).

    Raises:
        ExportError: the graph cannot be read or run, a tensor is not finite, or a pattern of `keep_float` names nothing.
        DataError: an example cannot be read.
    """
    table = observe(model.path, calibration_batches(model, data), settings, total=len(data.calibration))
    path = folder / "ranges.json"
    write_table(table, path)
    return CalibratedRanges(path, table.observer, table.samples, table.model_sha256)


def calibration_batches(model: FloatGraph, data: PreparedData) -> Iterator[dict[str, Array]]:
    """The inputs of the calibration examples, `probe.BATCH` at a time.

    Raises:
        DataError: an example cannot be read.
    """
    return encoded(model.encoder, open_examples(data.splits["train"]), data.calibration, BATCH)


def observe(
    path: Path,
    batches: Iterable[Mapping[str, Array]],
    settings: QuantizeSection,
    total: int = 0,
    *,
    whole: bool = False,
    tolerant: bool = False,
) -> RangeTable:
    """Fill a range table for the float graph at `path` from `batches` of its inputs (axis 0 counts examples; the last may be smaller).

    The ranges of every observer are in it; those of `settings.observer` are chosen (mse where it is `best`, until a dialect has decided).
    `total`: examples that are expected, for progress only. `whole`: each batch is one call as it stands, and counts as one example (`Probe`).
    `tolerant`: nodes that touch a tensor or weight that is not finite (a mask of infinities) stay float, instead of being an error.

    Raises:
        ExportError: as `calibrate`; also where there is no batch at all.
    """
    model = load(path)
    structure = analyse(model)
    broken = _not_finite(model.graph, structure) if tolerant else ()
    keep_float = tuple(dict.fromkeys((*kept_float(model, settings.keep_float), *(row.node for row in broken))))
    weights = _weight_ranges(model.graph, structure, {row.name for row in broken})
    seen = {row.name: Seen() for row in structure.activations}
    samples = 0
    probe = Probe(model, list(seen), path.name, whole=whole, tolerant=tolerant)
    for batch in batches:
        for reading in probe.run(batch):
            seen[reading.name].update(reading.lows, reading.highs, reading.values, reading.stride)
        samples += 1 if whole else len(next(iter(batch.values())))
        advance("calibrate", samples, max(total, samples))
    if samples == 0:
        raise ExportError(f"`{path.name}` cannot be calibrated: there are no calibration examples")
    if probe.infinite:
        keep_float = tuple(dict.fromkeys((*keep_float, *_touching(model.graph, probe.infinite))))
        seen |= {name: Seen() for name in probe.infinite}
    table = RangeTable(
        model_sha256=model_file.content_hash([path]),
        observer="mse",
        samples=samples,
        structure=structure,
        activations=tuple(_activation_range(row, seen[row.name], settings.percentile) for row in structure.activations),
        weights=weights,
        keep_float=keep_float,
    )
    return with_observer(table, "mse" if settings.observer == "best" else settings.observer)


def _touching(graph: Any, names: Collection[str]) -> Iterator[str]:
    """The nodes that read or make one of some tensors."""
    for node in graph:
        if any(value is not None and value.name in names for value in (*node.inputs, *node.outputs)):
            yield str(node.name)


def weight_range(name: str, axis: int, weight: Array) -> WeightRange:
    """Extremes and amplitudes of a weight's channels along `axis`: by what is largest, and by the least squared error (which is chosen).

    Raises:
        ExportError: the weight is not finite.
    """
    if not np.isfinite(weight).all():
        raise ExportError(f"weight `{name}` is not finite: it cannot be quantized")
    low, high = weight_extremes(weight, axis)
    widest, searched = tuple(np.maximum(-low, high).tolist()), tuple(searched_amplitudes(weight, axis).tolist())
    return WeightRange(name, axis, tuple(low.tolist()), tuple(high.tolist()), searched, (("minmax", widest), ("mse", searched)))


def _not_finite(graph: Any, structure: Structure) -> tuple[Weight, ...]:
    """The weights that hold an infinity or a NaN, of which no scale exists."""
    values = _read_values(graph)
    return tuple(row for row in structure.weights if (held := constant(values[row.name])) is not None and not np.isfinite(held).all())


def _read_values(graph: Any) -> dict[str, Any]:
    return {value.name: value for node in graph for value in node.inputs if value is not None}


def _weight_ranges(graph: Any, structure: Structure, without: Collection[str]) -> tuple[WeightRange, ...]:
    values = _read_values(graph)
    rows: dict[tuple[str, int], WeightRange] = {}
    for row in structure.weights:
        held = constant(values[row.name])
        if held is None or row.name in without or (row.name, row.axis) in rows:
            continue
        rows[row.name, row.axis] = weight_range(row.name, row.axis, held)
    return tuple(rows.values())


def _activation_range(row: Activation, seen: Seen, percent: float) -> ActivationRange:
    if seen.low > seen.high:  # never had a value
        seen.low = seen.high = 0.0
    if row.fixed is not None:
        start, end = row.fixed
        found = tuple((name, max(-start, end), row.fixed) for name in OBSERVERS)
    else:
        found = choices(seen, percent)
    _, symmetric, affine = found[-1]
    return ActivationRange(row.name, seen.low, seen.high, symmetric, affine, found)
