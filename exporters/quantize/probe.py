"""The float graph with probes in it: each run gives every observed tensor's extremes by example and an even subset of its values.

The reductions run inside the graph, so that no whole tensor leaves it: what a run takes is what the float graph itself takes. Only a tensor
that may turn out empty (its size depends on the values) is fetched whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, open_graph
from kdedge.exporters.quantize.observers.seen import extremes_of
from kdedge.exporters.quantize.probe_graph import ProbeBuilder, shapes_as_outputs, values_of
from kdedge.runtimes.onnxruntime import said_by

BATCH = 32  # examples a run, at most
BYTES_AT_ONCE = 128 << 20  # of the observed tensors of one run, as if they were all held together

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """Of one tensor and some examples: smallest and largest value [rows], and every `stride`-th of the values [rows, n]."""

    name: str
    lows: Array
    highs: Array
    values: Array
    stride: int


class Probe:
    """Opens the graph once and runs it on batches of any size.

    Axis 0 of a tensor counts its examples, as it does for the inputs; where it does not, its rows are taken for them. `whole`: each batch is one
    call, given as it stands, and counts as one example: for inputs without an axis of examples (a scalar, a state, sizes that go together).
    `tolerant`: a tensor that is not finite is left out, and named in `infinite`, instead of being refused.

    Raises:
        ExportError: the graph cannot be opened or fails on a batch, or the batch has not the graph's inputs.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], title: str, *, whole: bool = False, tolerant: bool = False) -> None:
        self.title = title
        self.whole = whole
        self.tolerant = tolerant
        self.infinite: set[str] = set()
        self.model = model
        self.names = tuple(names)
        self.fixed_rows = 0 if whole else fixed_batch(model)
        self.rows = 0
        self.session: Any = None
        self.inputs = {str(value.name) for value in model.graph.inputs if value.name not in model.graph.initializers}

    def run(self, batch: Mapping[str, Array]) -> Iterator[Reading]:
        """Readings of all observed tensors, part of the batch by part."""
        if set(batch) != self.inputs:
            raise ExportError(f"`{self.title}` takes {sorted(self.inputs)}; the calibration data has {sorted(batch)}")
        if self.whole:
            if self.session is None:
                self._open(batch)
            yield from self._readings(batch, 1)
            return
        size = len(next(iter(batch.values())))
        if self.session is None and size:
            self._open(batch)
        for start in range(0, size, self.rows or 1):
            part = {name: array[start : start + self.rows] for name, array in batch.items()}
            yield from self._readings(part, len(next(iter(part.values()))))

    def _readings(self, part: Mapping[str, Array], rows: int) -> Iterator[Reading]:
        found = dict(zip(self.fetched, self._call(self.session, self.fetched, self._filled(part)), strict=True))

        def cut(array: Array) -> Array:  # without what the filled up examples gave, so that each example counts once
            return array[:rows] if rows < self.fixed_rows and len(array) == self.fixed_rows else array

        for name, plan in self.plans.items():
            values = cut(found[plan.values])
            lows, highs = (cut(found[plan.low]), cut(found[plan.high])) if plan.low else extremes_of(values)
            values = values if plan.thinned else values[:, :: plan.stride]
            if not _finite(lows, highs, values):
                self._refuse(name)
            if name not in self.infinite:
                yield Reading(name, lows, highs, values, plan.stride)
        for name in self.unobserved:
            if not self.tolerant and np.isnan(cut(found[name])).any():
                raise _not_finite(name)

    def _refuse(self, name: str) -> None:
        if not self.tolerant:
            raise _not_finite(name)
        self.infinite.add(name)

    # ---- opening

    def _open(self, batch: Mapping[str, Array]) -> None:
        rows = self.fixed_rows or 1
        example = batch if self.whole else self._filled({name: array[:rows] for name, array in batch.items()})
        sizes = self._sizes(example, rows)
        largest = max(1, 4 * sum(sizes.values()))
        self.rows = self.fixed_rows or max(1, min(BATCH, BYTES_AT_ONCE // largest))
        probed = self.model.clone()
        builder = ProbeBuilder(probed, self.whole)
        self.plans = {name: builder.plan(name, sizes[name]) for name in self.names}
        self.unobserved = tuple(
            str(value.name) for value in self.model.graph.outputs if value.dtype == ir.DataType.FLOAT and value.name not in self.plans
        )
        self.fetched = (*builder.fetched, *self.unobserved)
        self.session = self._session(probed)

    def _sizes(self, example: Mapping[str, Array], rows: int) -> dict[str, int]:
        """Values of each tensor an example: from the shapes, or from a run on one example where they are not known."""
        values = values_of(self.model.graph)
        known = {name: 0 if self.whole else _static_size(values[name]) for name in self.names}
        unknown = [name for name, size in known.items() if size == 0]
        if unknown:
            measured = self.model.clone()
            shapes = shapes_as_outputs(measured, unknown)
            found = self._call(self._session(measured), shapes, example)
            known |= {name: -(-math.prod(shape.tolist()) // rows) for name, shape in zip(unknown, found, strict=True)}
        return known

    def _session(self, model: ir.Model) -> Any:
        try:
            return open_graph(model)
        except GraphRunError as error:
            raise ExportError(f"`{self.title}` cannot be opened for calibration: {error}") from error

    def _call(self, session: Any, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        try:
            return list(session.run(list(names), dict(feed))) if names else []
        except Exception as error:  # as above
            raise ExportError(f"`{self.title}` fails on a calibration example: {said_by(error)}") from error

    def _filled(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """A graph of a fixed batch gets its last example again until the batch is full."""
        rows = self.fixed_rows
        return {
            name: np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)]) if rows and len(array) < rows else array
            for name, array in feed.items()
        }


def _static_size(value: ir.Value) -> int:
    """Values an example; 0 where the shape does not say."""
    sizes = None if value.shape is None else [max(0, size) if isinstance(size, int) else 0 for size in list(value.shape)[1:]]
    return 0 if sizes is None else math.prod(sizes)


def fixed_batch(model: ir.Model) -> int:
    """The only batch size that a graph takes; 0 where it takes any."""
    given = next((value for value in model.graph.inputs if value.name not in model.graph.initializers), None)
    shape = None if given is None else given.shape
    first = shape[0] if shape is not None and len(shape) else None
    return max(0, first) if isinstance(first, int) else 0  # some exporters write -1 for a size that varies


def _finite(lows: Array, highs: Array, values: Array) -> bool:
    """An infinite value shows in the extremes. One that is not a number may not: the runtime's kernels pass over it, so the values are asked too."""
    every = values.reshape(-1)
    with np.errstate(over="ignore"):  # a sum may overflow although no value does
        if np.isfinite(lows.sum() + highs.sum()) and np.isfinite(np.dot(every, every)):
            return True
    return bool(np.isfinite(lows).all() and np.isfinite(highs).all() and np.isfinite(values).all())


def _not_finite(name: str) -> ExportError:
    return ExportError(f"tensor `{name}` is not finite on a calibration example: the float graph overflows there and cannot be quantized")
