"""Where the loss comes from: teacher -> student -> float artifact -> quantized artifact -> this device, one step at a time, paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath
from kdedge.estimate import Estimate
from kdedge.fidelity.scoring import task_scores
from kdedge.intervals import mean_estimate, paired_difference
from kdedge.measured import Cell, References
from kdedge.tasks.contract import Task

FLOAT_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Step:
    """One step of the chain. `name`: teacher, student, artifact and device; `metric`: the task's metric at this step.

    `difference`: metric minus that of the step before, on the same examples (None at the first). `gained`, `lost`: examples that score
    higher and lower than before; `p_value`: McNemar's exact test of them, None where scores are not 0 or 1.
    """

    name: str
    metric: Estimate
    difference: Estimate | None = None
    gained: int = 0
    lost: int = 0
    p_value: float | None = None


def attribute(cell: Cell, cells: Sequence[Cell], references: References, task: ImportPath) -> tuple[Step, ...]:
    """The chain that ends at `cell`, from the outputs that were kept; `cells` are all of the run.

    Where another device ran the artifact first, that cell comes before this one: the step from it is what this device adds. The float artifact
    (fp32, else fp16) is that of the same target, on the device that ran the quantized one first. Steps that nobody measured are absent;
    a cell without outputs has the steps before it only.

    Raises:
        KdedgeError: outputs and labels do not belong together.
    """
    judge: Task = task.load()
    labels = np.load(references.labels, allow_pickle=False)
    steps: list[Step] = []
    before: npt.NDArray[np.float64] | None = None
    for name, outputs in _chain(cell, cells, references):
        scores = task_scores(judge, {key: np.load(path, mmap_mode="r", allow_pickle=False) for key, path in outputs.items()}, labels)
        steps.append(_step(name, judge.metric, scores, before))
        before = scores
    return tuple(steps)


def _step(name: str, metric: str, scores: npt.NDArray[Any], before: npt.NDArray[Any] | None) -> Step:
    estimate = mean_estimate(metric, scores)
    if before is None:
        return Step(name, estimate)
    paired = paired_difference(f"{metric} difference", scores, before)
    return Step(name, estimate, paired.estimate, paired.gained, paired.lost, paired.p_value)


def _chain(cell: Cell, cells: Sequence[Cell], references: References) -> Iterator[tuple[str, Mapping[str, Path]]]:
    if references.teacher is not None:
        yield "teacher", references.teacher
    yield "student", references.student
    measured = [one for one in cells if one.fidelity.status == "ok"]
    first = _elsewhere(cell, measured)
    path = [_float_cell(cell, first or cell, measured), first, cell if cell.fidelity.status == "ok" else None]
    for step in path:
        if step is not None:
            yield f"{step.artifact.target} {step.artifact.precision} on {step.device}", step.fidelity.outputs


def _float_cell(cell: Cell, on: Cell, measured: Sequence[Cell]) -> Cell | None:
    """The float artifact of the same target on the device of `on`; None where the cell's own artifact is float."""
    if cell.artifact.precision in FLOAT_PRECISIONS:
        return None
    here = {one.artifact.precision: one for one in reversed(measured) if one.artifact.target == cell.artifact.target and one.device == on.device}
    return next((here[precision] for precision in FLOAT_PRECISIONS if precision in here), None)


def _elsewhere(cell: Cell, measured: Sequence[Cell]) -> Cell | None:
    """The first cell of the same artifact, if it ran on another device before."""
    first = next((one for one in measured if one.artifact.sha256 == cell.artifact.sha256 and one.artifact.precision == cell.artifact.precision), None)
    return first if first is not None and first.device != cell.device else None
