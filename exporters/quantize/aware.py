"""Quantization-aware distillation: the student, with the rounding of the dialect that it is exported in, learns from the float student or a teacher.

It comes after calibration and recovery, and hands over what they do: float weights and a range table, which lowering turns into exactly the
graph that was trained (`FakeQuantized` has the reason).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kdedge.artifact import CalibratedRanges, Encoder, FloatGraph, ImportPath, ModelFiles, PreparedData, RecoveryStep, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.held_out import PartOfExamples
from kdedge.distill.batches import Batches, Plan
from kdedge.distill.checkpoint import remove_checkpoints
from kdedge.distill.ensemble import Teacher
from kdedge.distill.spec import Shown
from kdedge.errors import ExportError
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.examples import encoded
from kdedge.exporters.quantize.aware_judge import Judge
from kdedge.exporters.quantize.aware_training import Answers, Course, Feeds, train
from kdedge.exporters.quantize.distance import ROWS, Gaps
from kdedge.exporters.quantize.fake_quantize import FakeQuantized, write_lowered
from kdedge.exporters.quantize.ranges import RangeTable, read_table, write_table
from kdedge.exporters.quantize.rewriting import load_for
from kdedge.exporters.quantize.tensors import read_tensors, write_tensors
from kdedge.exporters.quantize.torch_graph import TorchGraph, unsupported_operators
from kdedge.models.spec import inputs_of
from kdedge.progress import message
from kdedge.recipe import AwareSection, QuantizeSection

RESUMABLE = True
TOOLS = ("torch", "onnx", "onnx-ir", "onnxruntime", "numpy", "safetensors")

Float32 = npt.NDArray[np.float32]

HELD, FEWEST_HELD = 1024, 128
"""How many examples of the training split are measured on and not learned from; with fewer than the second, calibration examples do it."""


@dataclass(frozen=True)
class Learned:
    """What training gives: float tensors and ranges to lower, and how far the outputs were from the float graph's before and after."""

    tensors: dict[str, Float32]
    table: RangeTable
    step: RecoveryStep


def aware(
    model: FloatGraph,
    ranges: CalibratedRanges,
    student: ModelFiles,
    teacher: TeacherFiles | None,
    data: PreparedData,
    settings: QuantizeSection,
    dialect: ImportPath,
    seed: int,
    *,
    augment: tuple[str, ...] = (),
    folder: Path,
) -> CalibratedRanges:
    """Stage: train on the training split (augmented as `augment` says), measure on some of it that neither this nor recovery learns from.

    It is kept where it brings the outputs closer to the float graph's by more than noise (`Judge`), else the ranges come back as they were. A graph
    with operators that cannot be trained here, with nothing to train or without an error stays as it is too, untrained; the step's note says so. What
    a killed attempt left in `folder` is taken up.

    Raises:
        ExportError: the recipe has no `quantize.aware`, or wants to learn from a teacher and there is none; or there is a single example.
        Diverged: a loss or a weight is no number (the last good checkpoint stays in `folder`).
    """
    section = settings.aware
    if section is None:
        raise ExportError("quantization-aware distillation needs `quantize.aware` in the recipe")
    target, examples, task = _dialect(dialect), open_examples(data.splits["train"]), data.task.load()
    held, rest = held_and_rest(len(examples), data.calibration)
    if not len(rest):
        raise ExportError("quantization-aware distillation measures on some training examples and learns from the others: give more than one")
    guide = _guide(section, teacher, task.logits)
    others = tuple(encoder for encoder in (guide.encoders if guide is not None else ()) if encoder != model.encoder)
    own = section.seed if section.seed is not None else seed
    plan = Plan(section.batch_size, own, Shown(augment, own))
    batches = Batches(PartOfExamples(examples, rest), task, (model.encoder, *others), plan)
    steps = section.steps if section.steps is not None else max(1, round(section.epochs * batches.steps_per_epoch))

    def feeds(first: int) -> Iterator[Feeds]:
        for batch in batches.from_step(first, steps):
            parts = zip(batches.encoders, batch.inputs, strict=True)
            yield {_key(encoder, name, model): array for encoder, arrays in parts for name, array in arrays.items()}

    found = learn(
        model.path,
        read_table(ranges.table),
        target,
        feeds,
        list(encoded(model.encoder, examples, held, ROWS)),
        section.model_copy(update={"steps": steps, "seed": own}),
        weights=None if ranges.weights is None else read_tensors(ranges.weights),
        answers=None if guide is None else _answers(guide, model),
        distributions=(task.logits,),
        folder=folder,
        what=f"{student.name} learns the rounding of {target.name}",
    )
    result = replace(ranges, steps=(*ranges.steps, found.step))
    if not found.step.kept:
        return result
    table, weights = folder / "ranges.json", folder / "weights.safetensors"
    write_table(found.table, table)
    write_tensors(found.tensors, weights)
    return replace(result, table=table, weights=weights, dialect=target.name)


def learn(
    model: Path,
    table: RangeTable,
    dialect: Dialect,
    batches: Callable[[int], Iterator[Feeds]],
    held: Sequence[Feeds],
    section: AwareSection,
    *,
    weights: Mapping[str, Float32] | None = None,
    answers: Answers | None = None,
    distributions: tuple[str, ...] = ("logits",),
    folder: Path,
    what: str = "",
) -> Learned:
    """The same on plain paths and arrays. `batches` gives inputs by name for all steps from one on (a pure function of the step; for as many as
    `section.steps`, which must be given); `held`: inputs that are not among them, in random order; on what is made of them (`Judge`) the distance to
    the float graph is measured.

    `folder`: where checkpoints go. `weights`: float tensors that recovery put in place of the graph's. `answers`: what to learn,
    from inputs by name (default: what the float graph answers). `distributions`: outputs [N, classes] that are compared by KL.

    Raises:
        ExportError: no steps or fewer batches are given, or the graph cannot be lowered, or not be run on them.
        Diverged: as `train`.
    """
    if section.steps is None:
        raise ExportError("give the number of steps: without the data split that they are counted on, epochs mean nothing")
    source, tensors = load_for(model, table), dict(weights or {})
    known = tuple(str(value.name) for value in source.graph.outputs if value.name in distributions)
    judge = Judge(source, held, known)
    before = _gaps(judge, model, table, dialect, tensors)

    def as_it_was(note: str) -> Learned:
        message(f"{dialect.name}: no quantization-aware distillation: {note}")
        same = judge.verdict(before, before)
        return Learned(tensors, table, RecoveryStep("aware", False, same.measure, same.before, same.after, note))

    if not before.error.any():
        return as_it_was("it gives what the float graph gives")
    if unsupported := unsupported_operators(source):
        return as_it_was(f"operators that cannot be trained here: {', '.join(unsupported)}")
    student = FakeQuantized(model, table, dialect, tensors, learned=section.ranges == "learned")
    if not student.learnable():
        return as_it_was("nothing of this graph can be trained")
    course = Course(section.steps, section.lr, section.temperature, known, section.seed or 0)
    train(student, batches, answers or TorchGraph(source), course, folder, what)
    trained, ranges = student.hand_over()
    tensors.update(trained)
    found = judge.verdict(before, _gaps(judge, model, ranges, dialect, tensors))
    remove_checkpoints(folder)
    note = f"{found.note}; {section.steps} steps of {section.batch_size} examples, ranges {section.ranges}"
    message(f"{dialect.name}: aware {'kept' if found.kept else 'dropped'}: {found.measure} {found.before:.3g} -> {found.after:.3g}; {note}")
    return Learned(tensors, ranges, RecoveryStep("aware", found.kept, found.measure, found.before, found.after, note))


def held_and_rest(size: int, calibration: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of the examples that are measured on, and of those that are learned from, in a training split of `size` examples.

    Up to 1,024 are held, drawn by a fixed seed from those that are no calibration examples: recovery has fitted its rounding to those, and whoever is
    judged on them against it is judged unfairly. Of a split that holds little else, the calibration examples are held (so many that half is left).
    In random order: neighbours make a pair, and a split may be sorted by class.
    """
    others = np.setdiff1d(np.arange(size, dtype=np.int64), np.asarray(calibration, np.int64))
    count = min(HELD, len(others) // 4)
    drawn = np.random.default_rng(0).permutation(others)[:count]
    held = drawn if count >= FEWEST_HELD else np.asarray(calibration[: max(1, size // 2)], np.int64)
    return held, np.setdiff1d(np.arange(size, dtype=np.int64), held)


def _dialect(path: ImportPath) -> Dialect:
    found = path.load()
    if not isinstance(found, Dialect):
        raise ExportError(f"`{path.value}` is no dialect")
    return found


def _guide(section: AwareSection, teacher: TeacherFiles | None, logits: str) -> Teacher | None:
    if section.learn_from == "student":
        return None
    if teacher is None:
        raise ExportError("quantize.aware.learn_from is `teacher`, but the recipe has no teacher: write `student`")
    return Teacher(teacher, logits)


def _key(encoder: Encoder, name: str, model: FloatGraph) -> str:
    """What an input is called in a step: as in the graph, or apart where a teacher has an encoder of its own."""
    return name if encoder == model.encoder else f"{encoder!r} {name}"


def _answers(guide: Teacher, model: FloatGraph) -> Answers:
    """What the teacher says about the inputs of a step."""

    def asked(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        names = {encoder: [spec.name for spec in inputs_of(encoder)] for encoder in guide.encoders}
        return guide.outputs({encoder: {name: inputs[_key(encoder, name, model)] for name in each} for encoder, each in names.items()})

    return asked


def _gaps(judge: Judge, model: Path, table: RangeTable, dialect: Dialect, tensors: Mapping[str, Float32]) -> Gaps:
    with tempfile.TemporaryDirectory(prefix="aware-") as temporary:
        return judge.gaps(write_lowered(model, table, dialect, tensors, Path(temporary)))
