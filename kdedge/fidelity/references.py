"""The outputs that every artifact is compared with: the teacher's and the float student's, on the test split, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.examples import Examples
from kdedge.data.npy import save_npy
from kdedge.errors import ModelError
from kdedge.estimate import Estimate
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.divergence import kl_divergence
from kdedge.fidelity.ensemble import ensemble_logits, read_logits
from kdedge.fidelity.forward import model_outputs
from kdedge.fidelity.scoring import checked_logits, task_scores
from kdedge.intervals import mean_estimate, paired_difference
from kdedge.measured import EnsembleScores, References
from kdedge.tasks.contract import Task

TOOLS = ("numpy", "torch", "onnxruntime")

Array = npt.NDArray[Any]

SPLIT = "test"
WORST = 10


def reference_outputs(teacher: TeacherFiles | None, student: ModelFiles, data: PreparedData, *, folder: Path) -> References:
    """Run teacher and float student over the test split in float32, each with its own encoder, and score them.

    Writes `labels.npy` and one `.npy` an output, in the order of the split. `worst` names the examples on which KL(teacher || student) is
    largest, worst first; there are none without a teacher. An ensemble is compared with each of its members.

    Raises:
        ModelError: a model cannot be run, has no logits or broken ones, or the class counts of teacher and student differ.
    """
    task: Task = data.task.load()
    examples = open_examples(data.splits[SPLIT])
    labels = np.asarray(examples.labels)
    save_npy(folder / "labels.npy", labels)
    student_outputs = _checked(
        model_outputs(student, examples, f"reference outputs of the student `{student.name}`"), task, f"student `{student.name}`", labels
    )
    scores = {"student": mean_estimate(task.metric, task_scores(task, student_outputs, labels))}
    worst: tuple[str, ...] = ()
    teacher_outputs: dict[str, Array] | None = None
    ensemble: EnsembleScores | None = None
    if teacher is not None:
        members = _member_outputs(teacher, examples, task, labels)
        teacher_outputs = members[0] if len(members) == 1 else {task.logits: ensemble_logits([one[task.logits] for one in members], teacher.weights)}
        ensemble = _compared(task, members, teacher_outputs, labels) if len(members) > 1 else None
        theirs, ours = teacher_outputs[task.logits], student_outputs[task.logits]
        if theirs.shape != ours.shape:
            raise ModelError(f"the teacher has {theirs.shape[1]} classes and the student `{student.name}` {ours.shape[1]}: they cannot be compared")
        scores.update(_teacher_scores(task, teacher_outputs, ours, labels))
        worst = tuple(examples.ids[int(place)] for place in np.argsort(-kl_divergence(theirs, ours), kind="stable")[:WORST])
    return References(
        labels=folder / "labels.npy",
        student=_written(student_outputs, folder, "student"),
        teacher=None if teacher_outputs is None else _written(teacher_outputs, folder, "teacher"),
        scores=scores,
        worst=worst,
        ensemble=ensemble,
    )


def _member_outputs(teacher: TeacherFiles, examples: Examples, task: Task, labels: Array) -> list[dict[str, Array]]:
    """What each member gives, its logits over the data's classes. Of several only the logits are kept: they have nothing else in common."""
    members = []
    for number, (member, (temperature, places)) in enumerate(zip(teacher.members, teacher.readings, strict=True), 1):
        which = f" ({number} of {len(teacher.members)})" if len(teacher.members) > 1 else ""
        who = f"teacher `{member.name}`"
        outputs = _checked(model_outputs(member, examples, f"reference outputs of the {who}{which}"), task, who, labels)
        logits = outputs[task.logits]
        if places and logits.shape[1] != len(member.classes):
            raise ModelError(f"{who} gives {logits.shape[1]} classes, and its `classes` name {len(member.classes)}")
        read = {task.logits: read_logits(logits, temperature, places)}
        members.append({**outputs, **read} if len(teacher.members) == 1 else read)
    return members


def _compared(task: Task, members: list[dict[str, Array]], ensemble: dict[str, Array], labels: Array) -> EnsembleScores:
    """The ensemble against its best member. Picking the best on the same examples flatters it a little: what beats it is not lucky."""
    scores = [task_scores(task, outputs, labels) for outputs in members]
    best = int(np.argmax([each.mean() for each in scores]))
    paired = paired_difference(f"{task.metric} difference", task_scores(task, ensemble, labels), scores[best])
    estimates = tuple(mean_estimate(task.metric, each) for each in scores)
    return EnsembleScores(estimates, best, paired.estimate, paired.gained, paired.lost, paired.p_value)


def _teacher_scores(task: Task, teacher: dict[str, Array], student: Array, labels: Array) -> dict[str, Estimate]:
    return {
        "teacher": mean_estimate(task.metric, task_scores(task, teacher, labels)),
        "agreement_teacher": mean_estimate("agreement_teacher", top1_agreement(teacher[task.logits], student)),
    }


def _checked(outputs: dict[str, Array], task: Task, who: str, labels: Array) -> dict[str, Array]:
    if task.logits not in outputs:
        raise ModelError(f"{who} has no output `{task.logits}`, which {task.name} needs (outputs: {', '.join(outputs) or 'none'})")
    checked_logits(outputs[task.logits], who, len(labels))
    return outputs


def _written(outputs: dict[str, Array], folder: Path, who: str) -> dict[str, Path]:
    paths = {}
    for number, (name, values) in enumerate(sorted(outputs.items())):
        paths[name] = folder / f"{who}-{number}.npy"  # a graph may call its output anything, also what no file may be called
        save_npy(paths[name], values)
    return paths
