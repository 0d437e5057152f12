"""The search for losses, on a part of the training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdedge import progress
from kdedge.artifact import ImportPath, PreparedData, TeacherFiles, TextEncoder
from kdedge.checks import check_installed, check_recipe
from kdedge.data.held_out import hold_out
from kdedge.distill.candidates import space_around
from kdedge.distill.room import refused, why_not_kept
from kdedge.distill.spec import wanted_of_all
from kdedge.distill.tuning import HELD_OUT, VIEWS, Search, Tuning, about, for_trials
from kdedge.errors import RecipeError
from kdedge.recipe import CacheSection, Recipe
from kdedge.report.tuning import publish_tuning
from kdedge.training import ask_once, course_of, obtain_teacher, prepare_data, rehearse, teacher_specs
from kdedge.workspace import Workspace, explained


def tune(
    recipe: Recipe, workspace: Workspace, trials: int, *, storage: str | None = None, epochs: int | None = None, source: Path | None = None
) -> Tuning:
    """Search the losses of a recipe on a part of its training data; the test split is in nothing that the search is given.

    `trials` is how many there are in all, made here, before, or by others that share `storage` (a URL; the workspace's own without one).
    `epochs` of each: the recipe's, if not given. `source`: the recipe's file, in whose words the tuned recipe is written.

    Raises:
        KdedgeError: a recipe without a teacher or with several runs one after the other, or whatever a trial cannot be made for.
    """
    check_recipe(recipe, devices_too=False)
    section = recipe.distill
    if section is None or recipe.teacher is None:
        raise RecipeError(f"{recipe.name}: has no {'`distill` section' if section is None else 'teacher'}, so there is no teacher's weight to search")
    space = space_around(section)
    check_installed(recipe, export=False, report=True)
    search = ImportPath("kdedge.distill.tune:search").load()  # first, so that a missing package is told before a teacher is trained
    whole = prepare_data(recipe, workspace).part("train")
    rehearse(recipe, whole, workspace)
    teacher = obtain_teacher(recipe, whole, workspace)
    assert teacher is not None
    (lesson,) = course_of(recipe, section, whole, taught=True)
    rest, held_out = hold_out(whole.splits["train"], HELD_OUT, recipe.seed)
    data = replace(whole, splits={"train": rest})
    epochs = epochs or section.epochs
    wanted = tuple(dict.fromkeys(("logits", *wanted_of_all(lesson.training.terms))))
    remembered = _is_remembered(teacher, wanted, whole, section.cache, workspace)
    training = for_trials(lesson.training, epochs, views=lesson.training.views or min(epochs, VIEWS) if remembered else section.views)
    views = min(training.views or epochs, epochs) if remembered else 0
    # Asked about the whole, also what is held out: a run with the tuned recipe then finds all of it.
    kept = ask_once(teacher, wanted, whole, training.shown(recipe.seed), views, section.cache, workspace) if views else ()
    what = Search(
        recipe=recipe.name,
        student=lesson.model,
        training=training,
        teacher=teacher,
        whole=whole,
        data=data,
        held_out=held_out,
        space=space,
        own=section.losses,
        wanted=wanted,
        cache=kept,
        seed=recipe.seed,
        trials=trials,
    )
    what = replace(what, about=about(what, teacher_specs(recipe, whole), workspace.file_digest))
    workspace.save()
    tuning: Tuning = search(what, storage or f"sqlite:///{workspace.root / 'tune' / 'trials.db'}")
    with workspace.alone(f"runs-{recipe.name}"), explained(workspace.root, "lay out what was found"):
        return publish_tuning(tuning, recipe, source, workspace.root / "runs" / recipe.name)


def _is_remembered(teacher: TeacherFiles, wanted: tuple[str, ...], data: PreparedData, cache: CacheSection, workspace: Workspace) -> bool:
    """Whether what the teacher says is kept for all trials: unless the recipe forbids it, or it cannot be kept. No time is measured, so that all
    who share a search come to the same answer."""
    if cache.use == "never":
        return False
    encoders = [member.encoder for member in teacher.members]
    reason = why_not_kept(wanted, encoders)
    if not reason and any(isinstance(encoder, TextEncoder) for encoder in encoders):
        reason = workspace.stage("kdedge.distill.cache_choice:own_answers", teacher, wanted, data)
    if reason:
        progress.message(f"the teacher is asked in every step of every trial: {refused(reason, cache).reason}")
    return not reason
