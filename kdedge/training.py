"""How teacher and student are obtained, stage by stage: loaded or trained, taught lesson by lesson, compared where the recipe asks."""

from __future__ import annotations

from dataclasses import replace

from kdedge import progress
from kdedge.artifact import ImportPath, ModelFiles, PreparedData, TeacherFiles
from kdedge.checks import check_fit, keyed_learners, keyed_teachers, naming_key
from kdedge.costs import keep_seconds
from kdedge.data import samples_of, sources_of
from kdedge.distill.contestants import Contestants, contestants, with_snapshots
from kdedge.distill.lessons import Lesson, lessons, rehearsals_of
from kdedge.distill.room import decided, within_limit
from kdedge.distill.spec import Shown, TeacherSpec, wanted_of_all
from kdedge.distill.terms import training_spec
from kdedge.distill.warm_up import long_warm_ups
from kdedge.models.catalog import resolve
from kdedge.models.spec import ModelSpec
from kdedge.recipe import CacheSection, DistillSection, Recipe
from kdedge.tasks import TASKS
from kdedge.trained import CachedView, TrainedLesson
from kdedge.workspace import Workspace

_OBTAIN = "kdedge.distill.teacher:obtain"


def prepare_data(recipe: Recipe, workspace: Workspace) -> PreparedData:
    """The data, read once and checked, also against the models that it is for.

    Raises:
        DataError: it cannot be read, or examples are to be mixed that are no images of one size.
        ModelError: a model does not fit it.
    """
    reads = (*sources_of(recipe.data), *samples_of(recipe.data))
    task = ImportPath(TASKS[recipe.task])
    data: PreparedData = workspace.stage("kdedge.tasks.prepare:prepare", task, recipe.data, recipe.seed, reads=reads)
    check_fit(recipe, data)
    return data


def rehearse(recipe: Recipe, data: PreparedData, workspace: Workspace) -> None:
    """Before a teacher is trained: run each model that will be taught, and take the first step of each lesson whose losses look inside the models or
    are the user's own. A training whose learning rate never falls is told.

    Of kdedge's own models, and of its losses on outputs alone, all is known already but whether they fit into the memory: whatever they are given,
    they can be computed.

    Raises:
        ModelError, TrainingError: a run would end with this when its student begins to learn.
    """
    learning, training = data.without("test"), data.part("train")
    teachers = teacher_specs(recipe, training)
    specs = tuple(teacher.model for teacher in teachers)
    course = course_of(recipe, recipe.distill, learning, taught=bool(specs)) if recipe.distill is not None else ()
    for said in long_warm_ups(teachers, course):
        progress.message(said)
    if recipe.distill is None:  # no student is trained, and the one that is given is looked at when it is taken
        return
    for key, section in keyed_learners(recipe):
        if not section.model.startswith("kdedge:"):
            with naming_key(key, section):
                workspace.stage("kdedge.models.trial:try_out", resolve(section, data), label=key)
    if any(teacher.training is not None for teacher in teachers) and workspace.kept(_OBTAIN, teachers, training, recipe.seed) is None:
        _check_sizes(recipe, data)
    rehearsals = rehearsals_of(course, specs)
    if rehearsals:
        workspace.stage("kdedge.distill.rehearsal:rehearse", rehearsals, learning, recipe.seed)


def _check_sizes(recipe: Recipe, data: PreparedData) -> None:
    """No stage, because it is about this machine. It takes torch, which is loaded anyway where a teacher is about to be trained."""
    check_size = ImportPath("kdedge.models.size:check_size").load()
    for key, section in keyed_learners(recipe):
        with naming_key(key, section):
            check_size(resolve(section, data), learns=True)


def obtain_teacher(recipe: Recipe, data: PreparedData, workspace: Workspace) -> TeacherFiles | None:
    """The teacher: loaded and checked, or trained when the recipe says how; None when the student learns from labels alone."""
    specs = teacher_specs(recipe, data)
    if not specs:
        return None
    teacher: TeacherFiles = workspace.stage(_OBTAIN, specs, data, recipe.seed)
    return teacher


def teacher_specs(recipe: Recipe, data: PreparedData) -> tuple[TeacherSpec, ...]:
    """The members of the teacher, ready to be loaded or trained."""
    specs = []
    for key, section in keyed_teachers(recipe):
        with naming_key(key, section):
            model = resolve(section, data, as_is=section.train is None)
        training = training_spec(section.train, augment=recipe.data.augment) if section.train is not None else None
        specs.append(TeacherSpec(model, training, weight=section.weight, temperature=section.temperature))
    return tuple(specs)


def obtain_student(
    recipe: Recipe, data: PreparedData, teacher: TeacherFiles | None, workspace: Workspace
) -> tuple[ModelFiles, tuple[TrainedLesson, ...]]:
    """The student, with the lessons that led to it: trained one after the other, or taken as it is when the recipe has no `distill`."""
    if recipe.distill is None:
        spec = resolve(recipe.student, data, as_is=True)
        return workspace.stage("kdedge.models.given:take", spec, data.learning("train")), ()
    trained = train_student(recipe, recipe.distill, data, teacher, workspace)
    return trained[-1].model, trained


def obtain_contestants(
    recipe: Recipe, data: PreparedData, teacher: TeacherFiles | None, own: tuple[TrainedLesson, ...], workspace: Workspace
) -> tuple[Contestants, ...]:
    """All students that the recipe compares, trained, `own` first; none where it compares nothing."""
    if recipe.compare is None or recipe.distill is None:
        return ()

    def train(section: DistillSection, taught: bool, label: str) -> tuple[TrainedLesson, ...]:
        return train_student(recipe, section, data, teacher if taught else None, workspace, label)

    return contestants(recipe, recipe.compare, recipe.distill, own, train)


def train_student(
    recipe: Recipe, section: DistillSection, data: PreparedData, teacher: TeacherFiles | None, workspace: Workspace, label: str = ""
) -> tuple[TrainedLesson, ...]:
    """The lessons of one student, taken one after the other. `label` tells people which student this is, where there are several."""
    course = course_of(recipe, section, data, taught=teacher is not None)
    if recipe.compare is not None:
        course = with_snapshots(course, section)
    trained: list[TrainedLesson] = []
    for lesson in course:
        lesson = replace(lesson, label=", ".join(part for part in (label, lesson.label) if part))
        model = replace(lesson.model, weights=trained[-1].model.weights) if lesson.continues else lesson.model
        earlier = [trained[place].model for place in lesson.taught_by or ()]
        guide = TeacherFiles(tuple(earlier), (1 / len(earlier),) * len(earlier)) if earlier else teacher
        trained.append(teach(lesson, model, guide, data.learning(lesson.learn_from), recipe.seed, workspace))
    return tuple(trained)


def course_of(recipe: Recipe, section: DistillSection, data: PreparedData, *, taught: bool) -> tuple[Lesson, ...]:
    """The lessons of one student in their order. `taught`: whether the recipe's teacher takes part."""
    return lessons(
        section,
        resolve(recipe.student, data),
        assistants=[resolve(each, data) for each in section.assistants],
        peers=[resolve(each, data) for each in section.peers],
        has_teacher=taught,
        augment=recipe.data.augment,
        seed=recipe.seed,
    )


def ask_once(
    teacher: TeacherFiles, wanted: tuple[str, ...], data: PreparedData, shown: Shown, views: int, cache: CacheSection, workspace: Workspace
) -> tuple[CachedView, ...]:
    """What the teacher says about each view, asked now or kept from before."""
    calls = [("kdedge.distill.cache:fill", teacher, wanted, data, shown, view, cache.top_k) for view in range(views)]
    with workspace.limited("cache.fill", cache.limit_gb, calls):
        return tuple(workspace.stage(*call, label=f"view {view}/{views}") for view, call in enumerate(calls, start=1))


def teach(lesson: Lesson, model: ModelSpec, teacher: TeacherFiles | None, data: PreparedData, seed: int, workspace: Workspace) -> TrainedLesson:
    """One lesson: what the teacher says is asked once where that pays, then the model is trained on it."""
    training, stage = lesson.training, workspace.stage
    wanted = wanted_of_all(training.terms)
    cache: CacheSection = getattr(training.section, "cache", CacheSection())
    views, choice = training.views, None
    kept: tuple[CachedView, ...] = ()
    if teacher is not None and wanted:
        choice = decided(views, cache, training.section.epochs)
        count = min(views or 0, training.section.epochs)
        if choice is None:
            # Decided once for all who differ in their seed alone: what is compared must not be taught in two ways.
            alike = replace(training, section=training.section.model_copy(update={"seed": None}), snapshots=False)
            choice = stage("kdedge.distill.cache_choice:choose", teacher, alike, data, label=lesson.label)
            choice = within_limit(choice, count, cache)
        if choice.use:
            kept = ask_once(teacher, wanted, data, training.shown(seed), count, cache, workspace)
    files = stage("kdedge.distill.trainer:distill", model, training, teacher, data, seed, cache=kept, label=lesson.label)
    keep_seconds(workspace, workspace.events[-1])
    return TrainedLesson(lesson.label, files, training.section.epochs, views, choice, kept)
