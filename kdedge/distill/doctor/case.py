"""What the doctor is shown. Light: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.distill.lessons import Lesson
from kdedge.distill.spec import TeacherSpec
from kdedge.models.spec import ModelSpec


@dataclass(frozen=True)
class Case:
    """What is examined. `data` holds what learns (`train`, and `unlabelled` where there is such) and never the test split. `teacher` is None where
    there is none, where the recipe would have to train it first, or where it was `refused` (why). `student` is what ends the lessons, or what is
    given where there are none."""

    recipe: str
    data: PreparedData
    teachers: tuple[TeacherSpec, ...]
    teacher: TeacherFiles | None
    lessons: tuple[Lesson, ...]
    student: ModelSpec
    augment: tuple[str, ...]
    seed: int
    refused: str = ""
