"""Runs the float graph on calibration examples and fills the range table, in bounded memory and a single pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import CalibratedRanges, FloatGraph, PreparedData
from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.quantize.keep_float import kept_float
from kdedge.exporters.quantize.observers import Extremes, Histogram, best_affine, best_symmetric, weight_amplitudes
from kdedge.exporters.quantize.ranges import Activation, ActivationRange, RangeTable, Structure, WeightRange, write_table
from kdedge.exporters.quantize.roles import analyse
from kdedge.exporters.quantize.wiring import constant, load
from kdedge.progress import advance
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.onnxruntime import import_runtime, said_by

ort = import_runtime()  # a plain `import onnxruntime` reports to its maker

TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")

BATCH = 32
BYTES_AT_ONCE = 256 << 20  # of intermediate tensors that are held together

Array = npt.NDArray[Any]


def calibrate(model: FloatGraph, data: PreparedData, settings: QuantizeSection, *, folder: Path) -> CalibratedRanges:
    """Stage: observe the float graph on the calibration examples (unaugmented examples of the training split).

    Raises:
        ExportError: the graph cannot be read or run, a tensor is not finite, or a pattern of `keep_float` names nothing.
        DataError: an example cannot be read.
    """
    table = observe(model.path, _batches(model, data), settings, total=len(data.calibration))
    path = folder / "ranges.json"
    write_table(table, path)
    return CalibratedRanges(path, table.observer, table.samples, table.model_sha256)


def _batches(model: FloatGraph, data: PreparedData) -> Iterator[dict[str, Array]]:
    from kdedge.data import open_examples
    from kdedge.data.encode import encode

    examples = open_examples(data.splits["train"])
    indices = np.asarray(data.calibration, np.int64)
    for start in range(0, len(indices), BATCH):
        yield encode(model.encoder, examples.raw(indices[start : start + BATCH]))


def observe(path: Path, batches: Iterable[Mapping[str, Array]], settings: QuantizeSection, total: int = 0) -> RangeTable:
    """Fill a range table for the float graph at `path` from `batches` of its inputs (axis 0 counts examples; the last may be smaller).

    `total`: examples that are expected, for progress only.

    Raises:
        ExportError: as `calibrate`; also where there is no batch at all.
    """
    model = load(path)
    structure = analyse(model)
    keep_float = kept_float(model, settings.keep_float)
    search = settings.observer == "mse"
    weights = _weight_ranges(model.graph, structure, search)
    observers = {row.name: _Observer(row, search) for row in structure.activations}
    samples = 0
    with_outputs = _Probe(model, list(observers), path.name)
    for batch in batches:
        for part in with_outputs.run(batch):
            for name, array in part.items():
                observers[name].update(array)
        samples += len(next(iter(batch.values())))
        advance("calibrate", samples, max(total, samples))
    if samples == 0:
        raise ExportError(f"`{path.name}` cannot be calibrated: there are no calibration examples")
    return RangeTable(
        model_sha256=model_file.content_hash([path]),
        observer=settings.observer,
        samples=samples,
        structure=structure,
        activations=tuple(observer.finish() for observer in observers.values()),
        weights=weights,
        keep_float=keep_float,
    )


def _weight_ranges(graph: Any, structure: Structure, search: bool) -> tuple[WeightRange, ...]:
    values = {value.name: value for node in graph for value in node.inputs if value is not None}
    rows: dict[tuple[str, int], WeightRange] = {}
    for row in structure.weights:
        held = constant(values[row.name])
        if held is None or (row.name, row.axis) in rows:
            continue
        if not np.isfinite(held).all():
            raise ExportError(f"weight `{row.name}` of `{row.node}` is not finite: it cannot be quantized")
        low, high, symmetric = weight_amplitudes(held, row.axis, search)
        rows[row.name, row.axis] = WeightRange(row.name, row.axis, tuple(low.tolist()), tuple(high.tolist()), tuple(symmetric.tolist()))
    return tuple(rows.values())


class _Observer:
    """One activation tensor: extremes always, a histogram where the best range is searched."""

    def __init__(self, row: Activation, search: bool) -> None:
        self.row = row
        self.extremes = Extremes()
        self.histogram = Histogram() if search else None

    def update(self, batch: Array) -> None:
        self.extremes.update(batch)
        if not (np.isfinite(self.extremes.low) and np.isfinite(self.extremes.high)) and batch.size:
            raise ExportError(
                f"tensor `{self.row.name}` is not finite on a calibration example: the float graph overflows there and cannot be quantized"
            )
        if self.histogram is not None:
            self.histogram.update(batch)

    def finish(self) -> ActivationRange:
        low, high = self.extremes.low, self.extremes.high
        if low > high:  # never had an element
            low = high = 0.0
        if self.row.fixed is not None:
            start, end = self.row.fixed
            return ActivationRange(self.row.name, low, high, max(-start, end), (start, end))
        floor = 0.0 if self.row.non_negative else min(low, 0.0)
        if self.histogram is None:
            return ActivationRange(self.row.name, low, high, max(-low, high, 0.0), (floor, max(high, 0.0)))
        affine = best_affine(self.histogram, floor, high)
        return ActivationRange(self.row.name, low, high, best_symmetric(self.histogram, low, high), affine)


class _Probe:
    """The float graph with the observed tensors as outputs. A batch is cut so that they fit into memory together; where not even one example's do,
    they are fetched in several goes."""

    def __init__(self, model: Any, names: list[str], title: str) -> None:
        self.title = title
        inputs = {value.name for value in model.graph.inputs}
        self.inputs = [name for name in names if name in inputs]
        self.names = [name for name in names if name not in inputs]
        values = {value.name: value for node in model.graph for value in node.outputs}
        outputs = {value.name for value in model.graph.outputs}
        probed = model.clone()
        made = {value.name: value for node in probed.graph for value in node.outputs}
        probed.graph.outputs.extend(made[name] for name in self.names if name not in outputs and name in values)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the same bytes on every machine of a kind
        options.log_severity_level = 4
        try:
            self.session = ort.InferenceSession(model_file.to_bytes(probed), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's classes all come straight from Exception
            raise ExportError(f"`{title}` cannot be opened for calibration: {said_by(error)}") from error
        self.fixed_rows = _fixed_batch(self.session)
        self.goes: list[list[str]] = []
        self.rows = 1

    def run(self, batch: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """The observed tensors, part by part."""
        self._check_names(batch)
        size = len(next(iter(batch.values())))
        if not self.goes and size:
            self._measure(batch)
        for start in range(0, size, self.rows):
            part = {name: array[start : start + self.rows] for name, array in batch.items()}
            yield {name: part[name] for name in self.inputs}
            rows = len(next(iter(part.values())))
            for names in self.goes:
                found = self._call(names, _filled(part, self.fixed_rows))
                yield {name: self._cut(array, rows) for name, array in zip(names, found, strict=True)}

    def _cut(self, array: Array, rows: int) -> Array:
        """Without what the filled up examples gave, so that a histogram counts each example once."""
        filled = rows < self.fixed_rows and array.shape[:1] == (self.fixed_rows,)
        return array[:rows] if filled else array

    def _check_names(self, batch: Mapping[str, Array]) -> None:
        wanted = {value.name for value in self.session.get_inputs()}
        if set(batch) != wanted:
            raise ExportError(f"`{self.title}` takes {sorted(wanted)}; the calibration data has {sorted(batch)}")

    def _measure(self, batch: Mapping[str, Array]) -> None:
        """How many examples fit at once, from what one (or a fixed batch) takes."""
        rows = self.fixed_rows or 1
        first = _filled({name: array[:rows] for name, array in batch.items()}, self.fixed_rows)
        sizes = {name: array.nbytes for name, array in zip(self.names, self._call(self.names, first), strict=True)}
        self.goes = _packed(sizes, BYTES_AT_ONCE)
        self.rows = self.fixed_rows or max(1, min(BATCH, BYTES_AT_ONCE // max(1, sum(sizes.values()))))

    def _call(self, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
        if not names:
            return []
        try:
            return list(self.session.run(names, dict(feed)))
        except Exception as error:  # as above
            raise ExportError(f"`{self.title}` fails on a calibration example: {said_by(error)}") from error


def _fixed_batch(session: Any) -> int:
    first = session.get_inputs()[0].shape
    return int(first[0]) if first and isinstance(first[0], int) else 0


def _filled(feed: dict[str, Array], rows: int) -> dict[str, Array]:
    """A graph of a fixed batch gets its last example again until the batch is full."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)]) if len(array) < rows else array
        for name, array in feed.items()
    }


def _packed(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    goes: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if goes[-1] and held + size > limit:
            goes.append([])
            held = 0
        goes[-1].append(name)
        held += size
    return goes
