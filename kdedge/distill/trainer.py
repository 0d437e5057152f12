"""The stage that makes the student."""

from __future__ import annotations

from pathlib import Path

from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.ensemble import Teacher
from kdedge.distill.loop import train
from kdedge.distill.spec import TrainingSpec
from kdedge.models.spec import ModelSpec

RESUMABLE = True
TOOLS = ("torch", "accelerate")


def distill(
    student: ModelSpec,
    training: TrainingSpec,
    teacher: TeacherFiles | None,
    data: PreparedData,
    seed: int,
    *,
    folder: Path,
) -> ModelFiles:
    """Stage: train `student` on the training split, by the terms of `training`, some of which may compare it with `teacher`.

    Writes `model.safetensors` and `metrics.jsonl`. What a killed attempt left in `folder` is taken up, and the student then has the
    same bytes as from an unbroken run.

    Raises:
        TrainingError: class counts differ, a loss is no number (the last good checkpoint stays in `folder`), or the student cannot be trained.
        ModelError: a model cannot be built, or has no usable output.
    """
    guide = Teacher(teacher, data.task.load().logits) if teacher is not None else None
    with accelerated(training.section.precision) as accelerator:
        return train(accelerator, student, training, data, seed, folder=folder, what="distill", teacher=guide)
