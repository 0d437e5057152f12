"""The stage that decides which layers of a `mixed` artifact stay float: a search under a budget, every candidate built and measured.

    calibration examples, even places     what a layer is worth: the graph in the target's dialect with it float, against the float graph
    calibration examples, odd places      what a candidate keeps: KL and agreement of its own outputs, by the runtime that it is for where that
                                          can run here
    the runtime's own times of layers     what a layer costs; where there are none, its multiply-accumulates
    launches beside integer ones          what a candidate takes

`mixed` artifacts are int8 artifacts whose `keep_float` this search found. Killed, it goes on from `trials.jsonl`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import Artifact, CalibratedRanges, FloatGraph, ImportPath, Lineage, MixedTrial, ModelFiles, Precision, PreparedData, RecoveryStep
from kdedge.data import open_examples
from kdedge.errors import LOST, DeviceError, ExportError, MeasurementError
from kdedge.exporters.build import build
from kdedge.exporters.equivalence import run
from kdedge.exporters.examples import encoded
from kdedge.exporters.model_file import load_model
from kdedge.exporters.quantize.bench import Bench, Timed
from kdedge.exporters.quantize.budget import read_budget
from kdedge.exporters.quantize.distance import WORST
from kdedge.exporters.quantize.journal import Journal
from kdedge.exporters.quantize.lower import LoweredReport, lower_table
from kdedge.exporters.quantize.mixed_search import Layer, search
from kdedge.exporters.quantize.ranges import RangeTable, read_table, write_table
from kdedge.exporters.quantize.tensors import read_tensors
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.divergence import kl_divergence
from kdedge.measured import DeviceIdentity
from kdedge.recipe import ExportSection, ProfileSection, QuantizeSection
from kdedge.targets import Target

TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")
RESUMABLE = True

#: Examples that a layer's worth is measured on, and that a candidate is judged by: at most this many each.
MOST_EXAMPLES = 256
_BATCH = 32
_JOURNAL = "trials.jsonl"

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


def find_mixed(
    target: Target,
    dialect: ImportPath,
    model: FloatGraph,
    student: ModelFiles,
    ranges: CalibratedRanges,
    data: PreparedData,
    export: ExportSection,
    settings: QuantizeSection,
    device: DeviceIdentity | None,
    timing: ProfileSection,
    *,
    folder: Path,
) -> CalibratedRanges:
    """The ranges of `target`'s integers with the layers that stay float, chosen under `settings.mixed`.

    `device`: where candidates are measured, one of those that the target is for; None where there is none (then only fidelity is measured, by ONNX
    Runtime on the graph of the dialect). `timing`: how long a launch may last; a candidate gets a few short ones.

    Raises:
        RecipeError: `settings.mixed` asks for something that makes no sense.
        ExportError: there is no `settings.mixed`, no layer to choose from, fewer than 2 calibration examples, or the student has no logits.
        DeviceError: the device was lost; what was measured before is kept, and the next run goes on from there.
    """
    if settings.mixed is None:
        raise ExportError(f"target `{target.name}`: `mixed` needs to know what must be kept: give quantize.mixed, such as {{kl_student: '<= 0.002'}}")
    budget = read_budget(settings.mixed)
    journal = Journal(folder / _JOURNAL)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        lowering = _Lowering(model, ranges, dialect, work)
        logits = data.task.load().logits
        learn, judge = _examples(model, data, logits)
        factory = _Factory(target, dialect, model, student, ranges, export, lowering, work)
        bench = Bench(device, timing, work / "bench", judge.feeds)
        pair = _Pair(journal, factory, bench, target)

        done: list[tuple[str, ...]] = []
        limit = settings.mixed.trials

        def distance(kept: tuple[str, ...]) -> float:
            return float(journal.once(["distance", *kept], lambda: learn.error(lowering.outputs(kept, learn.feeds, logits))))

        def measure(kept: tuple[str, ...]) -> MixedTrial:
            progress.advance(f"mixed precision for {target.name}", min(len(done), limit - 1), limit)
            found = journal.once(["trial", *kept], lambda: _trial(kept, pair, lowering, judge, logits))
            done.append(kept)
            return MixedTrial(kept, found["kl"], found["agreement"], found["latency_ms"])

        layers = pair.layers(lowering.choices)
        outcome = search(layers, distance, measure, budget, limit, other=factory.other)
        progress.advance(f"mixed precision for {target.name}", limit, limit)
        table = folder / "ranges.json"
        write_table(lowering.table_with(outcome.chosen.kept), table)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note = "; ".join(part for part in (outcome.note, *pair.notes()) if part)
    step = RecoveryStep("mixed precision", bool(outcome.chosen.kept), "kl", outcome.trials[0].kl, outcome.chosen.kl, note)
    return replace(ranges, table=table, dialect=lowering.dialect.name, steps=(*ranges.steps, step), trials=outcome.trials)


# ---- examples --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """Inputs, and what the float graph makes of them: logits [n, C].

    Logits that are not finite (float16 overflows) are as far away as can be, instead of a number that compares with nothing."""

    feeds: tuple[Feed, ...]
    reference: Array

    def kl(self, logits: Array) -> float:
        return float(kl_divergence(self.reference, logits).mean()) if np.isfinite(logits).all() else WORST

    def agreement(self, logits: Array) -> float:
        return float(top1_agreement(self.reference, logits).mean())

    def error(self, logits: Array) -> float:
        """Squared error of the logits over their squared size, both without what is common to all classes, which no softmax sees.

        It is what layers are compared by: the KL of confident answers hangs on a few examples between two classes, and a layer that happens to
        move those says little of others; here every example counts."""
        if not np.isfinite(logits).all():
            return WORST
        wanted, found = (values.astype(np.float64) - values.mean(axis=1, keepdims=True, dtype=np.float64) for values in (self.reference, logits))
        return float(np.square(found - wanted).sum() / max(float(np.square(wanted).sum()), np.finfo(np.float64).tiny))


def _examples(model: FloatGraph, data: PreparedData, logits: str) -> tuple[_Judged, _Judged]:
    """Calibration examples to learn from and to judge by: every other one."""
    if logits not in {spec.name for spec in model.outputs}:
        raise ExportError(f"`mixed` is judged by the output `{logits}`, and the student gives {', '.join(spec.name for spec in model.outputs)}")
    if len(data.calibration) < 2:
        raise ExportError(f"`mixed` needs at least 2 calibration examples, and there are {len(data.calibration)}: raise data.calibration")
    examples, graph = open_examples(data.splits["train"]), load_model(model.path)
    fixed = first_size if isinstance(first_size := model.inputs[0].shape[0], int) else 0
    if fixed and len(data.calibration) < 2 * fixed:
        raise ExportError(
            f"`mixed` needs two batches of calibration examples, the graph takes {fixed} at once, and there are {len(data.calibration)}"
        )
    halves = []
    for first in (0, 1):
        chosen = np.asarray(data.calibration[first::2][: max(MOST_EXAMPLES, fixed)], np.int64)
        size = fixed or _BATCH
        whole = chosen[: len(chosen) // size * size] if fixed else chosen  # a graph of one size takes whole batches alone
        feeds = tuple(encoded(model.encoder, examples, whole, size))
        halves.append(_Judged(feeds, _logits_of(graph, feeds, logits)))
    return halves[0], halves[1]


def _logits_of(graph: Any, feeds: Sequence[Feed], name: str) -> Array:
    return np.concatenate([found[name] for found in run(graph, feeds, [name])])


# ---- graphs ----------------------------------------------------------------------------------------------------------------


class _Lowering:
    """The float graph in the target's dialect, with any layers left float."""

    def __init__(self, model: FloatGraph, ranges: CalibratedRanges, dialect: ImportPath, work: Path) -> None:
        self.model, self.ranges, self.dialect, self.work = model, ranges, dialect.load(), work
        self.table = read_table(ranges.table)
        self.tensors = {} if ranges.weights is None else read_tensors(ranges.weights)
        self.choices = self._lower(()).weighted
        if not self.choices:
            raise ExportError(f"`mixed` has nothing to choose from: {self.dialect.name} makes no layer of this graph integer")

    def table_with(self, kept: tuple[str, ...]) -> RangeTable:
        return self.table.keeping_float(kept)

    def outputs(self, kept: tuple[str, ...], feeds: Sequence[Feed], name: str) -> Array:
        """The logits by ONNX Runtime, which follows the Q/DQ of every dialect, in integers or not."""
        self._lower(kept)
        return _logits_of(load_model(self.work / "lowered.onnx"), feeds, name)

    def _lower(self, kept: tuple[str, ...]) -> LoweredReport:
        return lower_table(self.model.path, self.table_with(kept), self.dialect, self.work / "lowered.onnx", self.tensors)


@dataclass(frozen=True)
class _Factory:
    """Builds the artifacts that are measured."""

    target: Target
    dialect: ImportPath
    model: FloatGraph
    student: ModelFiles
    ranges: CalibratedRanges
    export: ExportSection
    lowering: _Lowering
    work: Path

    @property
    def other(self) -> str:
        """The type of what stays float."""
        return str(self.lowering.dialect.rest)

    def mixed(self, kept: tuple[str, ...], name: str) -> Artifact:
        folder = self._folder(name)
        table = folder / "ranges.json"
        write_table(self.lowering.table_with(kept), table)
        return self._build("mixed", replace(self.ranges, table=table), folder)

    def float_twin(self) -> Artifact:
        """What the target runs where all layers are float, also where it ships nothing of the kind."""
        precision: Precision = "fp16" if self.other == "float16" else "fp32"
        runs = replace(self, target=replace(self.target, precisions=(precision,)))
        return runs._build(precision, None, self._folder("float"))

    def _folder(self, name: str) -> Path:
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _build(self, precision: str, ranges: CalibratedRanges | None, folder: Path) -> Artifact:
        lineage = Lineage("", "", self.student.name, self.model.sha256, "")
        return build(self.target, precision, self.dialect, self.model, self.student, ranges, self.export, lineage, folder=folder)


# ---- measuring -------------------------------------------------------------------------------------------------------------


class _Pair:
    """The artifact that is all integer, beside which every candidate is timed."""

    def __init__(self, journal: Journal, factory: _Factory, bench: Bench, target: Target) -> None:
        self.journal, self.factory, self.bench, self.target = journal, factory, bench, target
        self.integer: Artifact | None = None

    def candidate(self, kept: tuple[str, ...]) -> Timed:
        if self.integer is None:
            self.integer = self.factory.mixed((), "integer")
        return self.bench.measure(self.factory.mixed(kept, "candidate") if kept else self.integer, self.integer, self._reference())

    def _reference(self) -> float | None:
        """The median of the integer artifact when it was timed first, which the ratios of all candidates are multiplied with."""
        known = self.journal.known(["trial"])
        return None if known is None else known["latency_ms"]

    def layers(self, names: Sequence[str]) -> list[Layer]:
        """The layers that may stay float, and what each costs."""
        found = self.journal.once(["costs"], lambda: self._costs(names))
        return [Layer(name, found["costs"][name]) for name in names]

    def _costs(self, names: Sequence[str]) -> dict[str, Any]:
        """By the runtime's times of layers in a float and in an integer artifact, else by multiply-accumulates."""
        if self.integer is None:
            self.integer = self.factory.mixed((), "integer")
        macs = {node.name: float(node.macs or 0) for node in self.integer.asked}
        timed, why = self._timed(self.integer, names)
        if not timed:
            note = f"layers were not timed one by one ({why}): what they cost was taken to follow their multiply-accumulates"
            return {"costs": {name: macs.get(name, 0.0) for name in names}, "note": note}
        # A layer whose name the runtime did not keep costs what its multiply-accumulates do elsewhere.
        rate = sum(max(cost, 0.0) for cost in timed.values()) / max(sum(macs.get(name, 0.0) for name in timed), 1.0)
        return {"costs": {name: timed.get(name, rate * macs.get(name, 0.0)) for name in names}, "note": ""}

    def _timed(self, integer: Artifact, names: Sequence[str]) -> tuple[dict[str, float], str]:
        """What each layer takes longer in float, in ms; where none was timed, why."""
        try:
            fast = self.bench.layer_times(integer)
            slow = self.bench.layer_times(self.factory.float_twin()) if fast else {}
        except LOST:
            raise
        except (DeviceError, MeasurementError) as error:
            return {}, str(error)
        return {name: slow[name] - fast[name] for name in names if name in slow and name in fast}, f"{self.target.runtime} gives no times of layers"

    def notes(self) -> tuple[str, ...]:
        answers = self.journal.asked("trial")
        unable = [answer["why_not"] for answer in answers if answer["latency_ms"] is None]
        which = "candidates" if len(unable) == len(answers) else f"{len(unable)} of {len(answers)} candidates"
        return (self.journal.known(["costs"])["note"], f"{which} were not timed: {'; '.join(dict.fromkeys(unable))}" if unable else "")


def _trial(kept: tuple[str, ...], pair: _Pair, lowering: _Lowering, judge: _Judged, logits: str) -> dict[str, Any]:
    timed = pair.candidate(kept)
    found = timed.outputs.get(logits) if timed.outputs is not None else lowering.outputs(kept, judge.feeds, logits)
    if found is None:
        raise ExportError(f"the candidate gives no output `{logits}`")
    return {"kl": judge.kl(found), "agreement": judge.agreement(found), "latency_ms": timed.latency_ms, "why_not": timed.why_not}
