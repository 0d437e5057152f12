"""Who takes part in a comparison: the recipe's student from several seeds, and as many without a teacher. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kdedge.distill.baseline import baseline
from kdedge.distill.lessons import Lesson, check_lessons
from kdedge.errors import RecipeError
from kdedge.recipe import CompareSection, DistillSection, Recipe
from kdedge.trained import ComparedArm, ComparedStudent, TrainedLesson

DISTILLED, ALONE = "distilled", "no teacher"

Course = tuple[TrainedLesson, ...]
Train = Callable[[DistillSection, bool, str], Course]
"""Train one student by a section; whether the recipe's teacher teaches it; what its lessons are called."""


@dataclass(frozen=True)
class Contestants:
    """The trained students of one arm, each with the lessons that led to it; `kept` of the last ones are about the student itself."""

    name: str
    seeds: tuple[int, ...]
    courses: tuple[Course, ...]
    kept: int

    @property
    def arm(self) -> ComparedArm:
        """The arm as the comparison takes it."""
        return ComparedArm(self.name, tuple(self._student(seed, course) for seed, course in zip(self.seeds, self.courses, strict=True)))

    def _student(self, seed: int, course: Course) -> ComparedStudent:
        return ComparedStudent(seed, course[-1].model, tuple(weights for lesson in course[-self.kept :] for weights in lesson.snapshots))


def check_compare(recipe: Recipe) -> None:
    """What is wrong with the `compare` section, before anything is trained.

    Raises:
        RecipeError: nothing is trained, nobody teaches the student that is to be compared with one that nobody teaches, or losses are wrong.
    """
    compare, section = recipe.compare, recipe.distill
    if compare is None:
        return
    if section is None:
        raise RecipeError("compare: the recipe trains no student: add a `distill` section, or remove `compare`")
    if compare.baseline:
        if recipe.teacher is None and section.generations is None and not section.peers:
            raise RecipeError(
                "compare.baseline: nobody but the labels teaches this student, so it is its own baseline: set compare.baseline: false, "
                "or give the recipe a teacher"
            )
        check_lessons(baseline(section), has_teacher=False)


def contestants(recipe: Recipe, compare: CompareSection, section: DistillSection, own: Course, train: Train) -> tuple[Contestants, ...]:
    """All students of a comparison, trained. `own` are the lessons of the run's student, which is the first of its arm."""
    seeds = training_seeds(section, recipe.seed, compare.seeds)
    kept = len(section.stages) or 1
    others = [train(_seeded(section, seed), True, f"seed {seed}") for seed in seeds[1:]]
    arms = [Contestants(DISTILLED, seeds, (own, *others), kept)]
    if compare.baseline:
        alone = baseline(section)
        arms.append(Contestants(ALONE, seeds, tuple(train(_seeded(alone, seed), False, f"{ALONE}, seed {seed}") for seed in seeds), kept))
    return tuple(arms)


def training_seeds(section: DistillSection, seed: int, count: int) -> tuple[int, ...]:
    """The seeds of `count` students that are compared: the recipe's and the ones after it. Generations take consecutive seeds of their own,
    so the students of a seed keep clear of the next one's."""
    base = section.seed if section.seed is not None else seed
    stride = section.generations.count if section.generations is not None else 1
    return tuple(base + place * stride for place in range(count))


def with_snapshots(course: tuple[Lesson, ...], section: DistillSection) -> tuple[Lesson, ...]:
    """The same lessons, of which those that are about the student itself keep its weights after each epoch."""
    kept = len(section.stages) or 1
    return (*course[:-kept], *(replace(lesson, training=replace(lesson.training, snapshots=True)) for lesson in course[-kept:]))


def _seeded(section: DistillSection, seed: int) -> DistillSection:
    return section.model_copy(update={"seed": seed})
