"""Brings the integers of one dialect closer to the float graph by calibration examples alone. Each step is measured, and kept only where it helps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import CalibratedRanges, FloatGraph, ImportPath, PreparedData, RecoveryStep
from kdedge.errors import ExportError
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.model_file import save_model
from kdedge.exporters.quantize.adaptive_rounding import adapt_rounding
from kdedge.exporters.quantize.bias_correction import correct_biases
from kdedge.exporters.quantize.calibrate import calibration_batches, observe
from kdedge.exporters.quantize.distance import Batch, Distance, Gaps, is_closer, split
from kdedge.exporters.quantize.equalization import equalize
from kdedge.exporters.quantize.layers import Lowered
from kdedge.exporters.quantize.lower import lower_table
from kdedge.exporters.quantize.probe import BATCH, fixed_batch
from kdedge.exporters.quantize.ranges import EXACT, OBSERVERS, RangeTable, read_table, with_observer, write_table
from kdedge.exporters.quantize.rewriting import bias_for_added_channel, load_for, with_normalization_folded
from kdedge.exporters.quantize.tensors import replace_tensors, write_tensors
from kdedge.exporters.quantize.wiring import load
from kdedge.intervals import FEWEST_FOR_BOOTSTRAP
from kdedge.progress import advance, message
from kdedge.recipe import QuantizeSection

TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")

SEED = 0
WEIGHT_OBSERVERS = ("minmax", "mse")

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recovered:
    """The ranges that were chosen, float tensors that take the place of the graph's own (None: none does), and what was tried."""

    table: RangeTable
    weights: dict[str, Float32] | None
    steps: tuple[RecoveryStep, ...]

    def written(self, before: CalibratedRanges, dialect: Dialect, folder: Path) -> CalibratedRanges:
        """What the stage before handed over (`before`), with all this written to `folder`."""
        table, weights = folder / "ranges.json", None
        write_table(self.table, table)
        if self.weights is not None:
            weights = folder / "weights.safetensors"
            write_tensors(self.weights, weights)
        return replace(before, table=table, observer=self.table.observer, weights=weights, dialect=dialect.name, steps=self.steps)


def recover(
    model: FloatGraph, ranges: CalibratedRanges, data: PreparedData, settings: QuantizeSection, dialect: ImportPath, *, folder: Path
) -> CalibratedRanges:
    """Stage: choose the observer (where it is `best`) and do what `settings.recover` names, for one dialect.

    Raises:
        ExportError: the graph cannot be lowered into the dialect or run, or there are too few calibration examples.
        DataError: an example cannot be read.
    """
    written: Dialect = dialect.load()
    found = recover_graph(model.path, read_table(ranges.table), calibration_batches(model, data), settings, written, folder)
    return found.written(ranges, written, folder)


def recover_graph(
    path: Path, table: RangeTable, batches: Iterable[Mapping[str, Array]], settings: QuantizeSection, dialect: Dialect, folder: Path
) -> Recovered:
    """The same for a float ONNX file, its range table and `batches` of its inputs (axis 0 counts examples), which are all held in memory.

    The order is fixed, whatever that of `settings.recover`: the normalisation of images, which goes into the weights; the observer; equalization,
    which changes the float weights and needs new ranges; adaptive rounding, which needs the ranges; bias correction, which takes what is left. One
    half of the examples is learned from, the other judges: each step is kept only where that finds the outputs closer by more than the noise, so
    fewer than 20 judges keep nothing.
    `folder`: where temporary files go.

    Raises:
        ExportError: as `recover`.
    """
    with tempfile.TemporaryDirectory(prefix=".recover-", dir=folder) as temporary:
        return _Recovery(path, table, batches, settings, dialect, Path(temporary)).run()


@dataclass(frozen=True)
class _Candidate:
    """Ranges, tensors that leave the float function as it is (`equal`), and those beside them that make up for what the integers do."""

    table: RangeTable
    equal: dict[str, Float32] = field(default_factory=dict)
    tensors: dict[str, Float32] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Float32]:
        return {**self.equal, **self.tensors}


class _Recovery:
    def __init__(
        self, path: Path, table: RangeTable, batches: Iterable[Mapping[str, Array]], settings: QuantizeSection, dialect: Dialect, folder: Path
    ) -> None:
        self.path, self.settings, self.dialect, self.folder = path, settings, dialect, folder
        model = load(path)
        self.learning, judging = split(batches, fixed_batch(model), SEED)
        if not self.learning:
            raise ExportError(f"`{path.name}` cannot be recovered: there are no calibration examples of the batch size that it takes")
        self.judge = Distance(model, judging)
        self.all = [*self.learning, *judging]
        self.best = _Candidate(table)
        self.gaps = self.judge.of(self._lowered(self.best))
        self.steps: list[RecoveryStep] = []

    def run(self) -> Recovered:
        wanted = self.settings.recover
        todo: list[tuple[str, Callable[[], tuple[_Candidate, str]]]] = []
        if "normalization" in wanted:
            todo.append(("normalization", self._folded))
        if self.settings.observer == "best":
            todo.append(("observer", self._closest))
        if "equalization" in wanted:
            todo.append(("equalization", self._equalized))
        if "adaptive_rounding" in wanted:
            todo.append(("adaptive_rounding", self._rounded))
        if "bias_correction" in wanted:
            todo.append(("bias_correction", self._corrected))
        for name, make in todo:
            self._try(name, *make())
        return Recovered(self.best.table, self.best.weights or None, tuple(self.steps))

    # ---- judging -----------------------------------------------------------------------------------------------------------

    def _try(self, name: str, candidate: _Candidate, note: str) -> None:
        if candidate is self.best:
            self._note(name, False, self.gaps, self.gaps, note)
            return
        found = self.judge.of(self._lowered(candidate))
        kept = is_closer(found, self.gaps)
        self._note(name, kept, self.gaps, found, note)
        if kept:
            self.best, self.gaps = candidate, found

    def _note(self, name: str, kept: bool, before: Gaps, after: Gaps, note: str) -> None:
        divergence = f"KL {before.text()} -> {after.text()} nats" if before.kl is not None else ""
        few = "" if len(before.error) >= FEWEST_FOR_BOOTSTRAP else f"{len(before.error)} examples are too few to tell"
        text = "; ".join(part for part in (divergence, few, note) if part)
        step = RecoveryStep(name, kept, "relative-error", float(before.error.mean()), float(after.error.mean()), text)
        self.steps.append(step)
        message(f"{self.dialect.name}: {name} {'kept' if kept else 'dropped'}: squared error {step.before:.3g} -> {step.after:.3g}; {text}")

    def _lowered(self, candidate: _Candidate) -> Path:
        out = self.folder / "lowered.onnx"
        lower_table(self.path, candidate.table, self.dialect, out, candidate.weights)
        return out

    def _reference(self) -> Any:
        """The float graph whose layers are the aim: the same function, with what equalization made of its weights."""
        model = load_for(self.path, self.best.table)
        replace_tensors(model.graph, self.best.equal)
        return model

    # ---- steps -------------------------------------------------------------------------------------------------------------

    def _folded(self) -> tuple[_Candidate, str]:
        found = with_normalization_folded(self.path, self.best.table, self.learning[:1])
        if isinstance(found, str):
            return self.best, found
        folded = _Candidate(found)
        lowered = Lowered(load(self._lowered(folded)), found)
        return replace(folded, tensors=bias_for_added_channel(load_for(self.path, found), lowered)), "the image itself is quantized"

    def _closest(self) -> tuple[_Candidate, str]:
        """The observer of activations, then that of weights, whose integers come closest on the examples to learn from."""
        aim, table = Distance(load(self.path), self.learning), self.best.table
        total, done = len(OBSERVERS) + len(WEIGHT_OBSERVERS), 0

        def closest(tables: Mapping[str, RangeTable], first: str) -> RangeTable:
            nonlocal done
            errors: dict[str, float] = {}
            for name in sorted(tables, key=lambda name: name != first):  # of equal ones the one that is chosen already
                errors[name] = float(aim.of(self._lowered(_Candidate(tables[name]))).error.mean())
                done += 1
                advance("observer", done, total, name)
            return tables[min(errors, key=errors.__getitem__)]

        chosen = closest({name: with_observer(table, name) for name in OBSERVERS}, table.observer)
        weights = {name: replace(chosen, weights=with_observer(table, name).weights) for name in WEIGHT_OBSERVERS}
        chosen = closest(weights, _weight_observer(chosen))
        note = f"activations by {chosen.observer}, weights by {_weight_observer(chosen)}, the closest on the examples to learn from"
        return (self.best if chosen == table else _Candidate(chosen)), note

    def _equalized(self) -> tuple[_Candidate, str]:
        before = self.best.table
        found = equalize(load_for(self.path, before), self.learning, self.dialect.weight.per_channel)
        if not found.tensors:
            return self.best, found.note
        changed = load_for(self.path, before)
        replace_tensors(changed.graph, found.tensors)
        path = self.folder / "equalized.onnx"
        save_model(changed, path)
        # What is not finite stays float, as it does where the graph was calibrated so.
        table = observe(path, self.all, self.settings, total=before.samples, tolerant=True)
        weights = with_observer(table, _weight_observer(before)).weights
        table = replace(
            with_observer(table, before.observer),
            model_sha256=before.model_sha256,
            structure=before.structure,  # equalization changes numbers alone
            weights=weights,
            keep_float=before.keeping_float(table.keep_float).keep_float,
            rewrites=before.rewrites,
        )
        exact = {row.name for row in before.structure.activations if EXACT in row.roles}
        known = before.activation_ranges()
        table = replace(table, activations=tuple(known[row.name] if row.name in exact else row for row in table.activations))
        return _Candidate(table, found.tensors), found.note

    def _rounded(self) -> tuple[_Candidate, str]:
        lowered = Lowered(load(self._lowered(self.best)), self.best.table)
        found = adapt_rounding(self._reference(), lowered, self.learning, self.dialect, SEED)
        return self._with(found.tensors, found.note)

    def _corrected(self) -> tuple[_Candidate, str]:
        lowered = Lowered(load(self._lowered(self.best)), self.best.table)
        found = correct_biases(self._reference(), lowered, self.learning)
        return self._with(found.tensors, found.note)

    def _with(self, tensors: Mapping[str, Float32], note: str) -> tuple[_Candidate, str]:
        if not tensors:
            return self.best, note or "no layer of this graph runs on integers here"
        return replace(self.best, tensors={**self.best.tensors, **tensors}), note


def _weight_observer(table: RangeTable) -> str:
    """Which observer's amplitudes a table has chosen for the weights."""
    return next(name for name in WEIGHT_OBSERVERS if with_observer(table, name).weights == table.weights)


def batches_of(arrays: Mapping[str, Array], rows: int = BATCH) -> Sequence[Batch]:
    """Whole arrays cut into batches."""
    count = len(next(iter(arrays.values())))
    return [{name: array[start : start + rows] for name, array in arrays.items()} for start in range(0, count, rows)]
