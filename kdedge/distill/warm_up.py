"""A warm-up that takes a whole training: allowed, because a run that is cut short to try it out has one, and said. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdedge.distill.lessons import Lesson
from kdedge.distill.spec import TeacherSpec
from kdedge.recipe import TrainSection


def long_warm_ups(teachers: Sequence[TeacherSpec], course: Sequence[Lesson]) -> tuple[str, ...]:
    """A sentence for each training whose learning rate rises to its end; equal ones of one course (generations) once."""
    said: dict[tuple[bool, float, int], str] = {}
    for whose, section in _trainings(teachers, course):
        warmup, epochs = section.warmup_epochs, section.epochs
        if warmup >= epochs:
            sentence = (
                f"in the training of the {whose} `warmup_epochs` is {warmup:g} and `epochs` {epochs}: the learning rate rises in every step, reaches "
                f"optimizer.lr ({section.optimizer.lr:g}) in the last one and never falls"
            )
            said.setdefault((whose.startswith("teacher"), warmup, epochs), sentence)
    return tuple(said.values())


def _trainings(teachers: Sequence[TeacherSpec], course: Sequence[Lesson]) -> Iterator[tuple[str, TrainSection]]:
    for teacher in teachers:
        if teacher.training is not None:
            yield f"teacher `{teacher.model.name}`", teacher.training.section
    for lesson in course:
        yield f"student ({lesson.label})" if lesson.label else "student", lesson.training.section
