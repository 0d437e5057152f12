"""The stage that makes the student."""

from __future__ import annotations

from pathlib import Path

from kdedge import progress
from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.cache import Remembered
from kdedge.distill.ensemble import Teacher
from kdedge.distill.guide import Guide
from kdedge.distill.loop import train
from kdedge.distill.spec import TrainingSpec, wanted_of_all
from kdedge.models.spec import ModelSpec
from kdedge.ranks import everywhere
from kdedge.trained import CachedView

RESUMABLE = True
TOOLS = ("torch", "accelerate")


@everywhere
def distill(
    student: ModelSpec,
    training: TrainingSpec,
    teacher: TeacherFiles | None,
    data: PreparedData,
    seed: int,
    *,
    cache: tuple[CachedView, ...] = (),
    folder: Path,
) -> ModelFiles:
    """Stage: train `student` on the training split, by the terms of `training`, some of which may compare it with `teacher`.

    `cache`: what the teacher said about the views of the examples; it is then not asked again. Writes `model.safetensors` and
    `metrics.jsonl`. What a killed attempt left in `folder` is taken up, and the student then has the same bytes as from an unbroken run.

    Raises:
        TrainingError: class counts differ, a loss is no number (the last good checkpoint stays in `folder`), or the student cannot be trained.
        ModelError: a model cannot be built, or has no usable output.
    """
    wanted = wanted_of_all(training.terms)
    guide: Guide | None = None
    if teacher is not None and wanted:
        guide = Remembered(cache, teacher, wanted, data, training.shown(seed)) if cache else Teacher(teacher, data.task.load().logits, wanted)
    with accelerated(training.section.precision) as accelerator:
        return train(accelerator, student, training, data, seed, folder=folder, what=f"distill {progress.label()}".rstrip(), guide=guide)
