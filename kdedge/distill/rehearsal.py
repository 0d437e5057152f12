"""The stage before all training: a step of each lesson, on models that know nothing yet, so that a loss which cannot be computed ends no long run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.distill.doctor.first_step import EXAMPLES, FirstStep, at_once
from kdedge.distill.ensemble import Teacher
from kdedge.distill.lessons import Rehearsal
from kdedge.distill.losses import LEARNED, LOSSES
from kdedge.distill.seeding import derived, reproducible, seed_everything
from kdedge.distill.spec import TermSpec, wanted_of_all
from kdedge.errors import ModelError, TrainingError
from kdedge.models.class_names import class_map
from kdedge.models.given import take
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec
from kdedge.ranks import everywhere

TOOLS = ("torch",)


@everywhere
def rehearse(rehearsals: tuple[Rehearsal, ...], data: PreparedData, seed: int, *, folder: Path) -> int:
    """Stage: take the first step of each lesson and throw it away; how many there were. Nothing stays in `folder`.

    Teachers have fresh weights: their layers are the same, and nothing has to be trained or loaded.

    Raises:
        TrainingError: a layer is missing, a loss cannot compare what it is given, fails, or leads no gradient to the student.
        ModelError: a model fails.
    """
    for rehearsal in rehearsals:
        # Each process of a launch has a folder of its own; on the workspace's disk, which has room for a teacher.
        with reproducible(), tempfile.TemporaryDirectory(prefix="rehearsal-", dir=folder) as name:
            try:
                _first_step(rehearsal, data.learning(rehearsal.lesson.learn_from), seed, Path(name))
            except (TrainingError, ModelError) as error:
                if not rehearsal.lesson.label:
                    raise
                raise type(error)(f"{rehearsal.lesson.label}: {error}") from error
    return len(rehearsals)


def _first_step(rehearsal: Rehearsal, data: PreparedData, seed: int, folder: Path) -> None:
    lesson, guide = rehearsal.lesson, None
    wanted = wanted_of_all(lesson.training.terms)
    if wanted and rehearsal.teachers:
        files = stand_in([replace(spec, weights=None) for spec in rehearsal.teachers], data, seed, folder)
        guide = Teacher(files, data.task.load().logits, wanted)
    model, whole = replace(lesson.model, weights=None), at_once(lesson.training.section)
    try:
        FirstStep(model, lesson.training, data, guide, seed).take()
    except TrainingError:
        # A loss of the user's may need more examples than are enough for kdedge's.
        if whole <= EXAMPLES or all(_is_own(term) for term in lesson.training.terms):
            raise
        FirstStep(model, lesson.training, data, guide, seed, examples=whole).take()


def _is_own(term: TermSpec) -> bool:
    return term.function.value in LOSSES.values() and (term.learned is None or term.learned.value in LEARNED.values())


def stand_in(specs: Sequence[ModelSpec], data: PreparedData, seed: int, folder: Path) -> TeacherFiles:
    """A teacher of these models before it is trained, written into `folder`; an ONNX file as it is."""
    members = []
    for number, spec in enumerate(specs):
        own = folder / f"member{number}"
        own.mkdir()
        seed_everything(derived(seed, "stand-in", number))
        members.append(take(spec, data, folder=own) if spec.onnx is not None else to_files(spec, build(spec), own))
    maps = tuple(class_map(spec.classes, data.classes, f"`{spec.name}`") for spec in specs)
    return TeacherFiles(tuple(members), (1 / len(members),) * len(members), maps=maps)
