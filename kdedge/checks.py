"""What can be known of a recipe before a stage runs, and before hours are spent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from kdedge.artifact import ImportPath, PreparedData
from kdedge.data import open_examples, sources_of
from kdedge.data.mix import check_mixable
from kdedge.devices import scheme_of
from kdedge.distill.contestants import check_compare
from kdedge.distill.lessons import check_inside, check_lessons, check_views, splits_mixed
from kdedge.distill.terms import training_spec
from kdedge.errors import DeviceError, ModelError, RecipeError, TrainingError
from kdedge.exporters.quantize.budget import read_budget
from kdedge.fleet import named_devices
from kdedge.gate import parse_policy
from kdedge.installed import ONNX, need
from kdedge.models.catalog import check, resolve
from kdedge.recipe import ExportSection, ModelSection, Recipe, TeacherSection
from kdedge.recipe_file.sentences import nearest
from kdedge.runtimes import adapter
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.options import read_options
from kdedge.targets import TARGETS
from kdedge.tasks import TASKS
from kdedge.tasks.contract import Task

Row = TypeVar("Row")


def check_recipe(recipe: Recipe, *, devices_too: bool = True) -> None:
    """Everything about a recipe that can be known before a stage runs: task, data files, models, losses, gate figures, devices.

    `devices_too`: not where other devices replace the recipe's, which need not be within reach then.

    Raises:
        KdedgeError: the first thing that is wrong.
    """
    task: Task = ImportPath(_named(TASKS, recipe.task, "task", "task")).load()
    for place, name in enumerate(recipe.devices if devices_too else ()):
        _check_device(name, f"devices[{place}]")
    parse_policy(recipe.gate, task.metric)
    task.check(recipe.data)
    sources_of(recipe.data)
    teachers = keyed_teachers(recipe)
    for key, section in (*teachers, *keyed_learners(recipe)):
        with naming_key(key, section):
            check(section)
    for key, teacher in teachers:
        if teacher.train is not None:
            training_spec(teacher.train, augment=recipe.data.augment, losses=f"{key}.train.losses")
    if recipe.distill is not None:
        check_lessons(recipe.distill, has_teacher=bool(teachers), has_unlabelled=recipe.data.unlabelled is not None)
        check_inside(recipe.distill, teachers_of(recipe))
        check_views(recipe.distill, recipe.data.augment)
    check_compare(recipe)
    _check_mixed(recipe)
    for place, export in enumerate(recipe.export):
        _check_options(export, f"export[{place}]")


def check_installed(recipe: Recipe, *, export: bool, report: bool) -> None:
    """See that what a run imports is there, up to the steps that are wanted: said before a teacher is trained for hours.

    Raises:
        MissingExtra: a package is not installed.
    """
    models: list[ModelSection] = [recipe.student, *teachers_of(recipe)]
    if recipe.distill is not None or any(model.kind != "onnx" for model in models):
        need("a model of PyTorch", "train", "torch", "accelerate", "safetensors")
    if export:
        need("the student's graph", "onnx", *ONNX)
        if any(TARGETS[each.target].format == "openvino" for each in recipe.export):
            need("the openvino target", "openvino", "openvino")
    if report:
        need("the report", "report", "jinja2", "matplotlib")


def check_fit(recipe: Recipe, data: PreparedData) -> None:
    """What a student, or a model on the way to it, has against the data: said before a teacher is trained for hours.

    Raises:
        ModelError: a model does not fit the data.
        DataError: examples are to be mixed that are no images of one size.
    """
    for key, section in keyed_learners(recipe):
        with naming_key(key, section):
            resolve(section, data, as_is=recipe.distill is None)
    if recipe.distill is not None:
        for split in splits_mixed(recipe.distill):
            check_mixable(open_examples(data.splits[split]), f"data.{split}")


def teachers_of(recipe: Recipe) -> tuple[TeacherSection, ...]:
    """The recipe's teachers: none, one, or an ensemble."""
    if recipe.teacher is None:
        return ()
    return recipe.teacher if isinstance(recipe.teacher, tuple) else (recipe.teacher,)


def keyed_teachers(recipe: Recipe) -> list[tuple[str, TeacherSection]]:
    """The recipe's teachers, each with its key: `teacher`, or `teacher[0]` and so on."""
    many = isinstance(recipe.teacher, tuple)
    return [(f"teacher[{place}]" if many else "teacher", section) for place, section in enumerate(teachers_of(recipe))]


def keyed_learners(recipe: Recipe) -> list[tuple[str, ModelSection]]:
    """The student, and the models on the way to it, each with its key."""
    found: list[tuple[str, ModelSection]] = [("student", recipe.student)]
    if recipe.distill is not None:
        for name, sections in (("assistants", recipe.distill.assistants), ("peers", recipe.distill.peers)):
            found += [(f"distill.{name}[{place}]", section) for place, section in enumerate(sections)]
    return found


@contextmanager
def naming_key(key: str, section: ModelSection) -> Iterator[None]:
    """Inside the block, what is found wrong with a model is told under the key of the recipe that is about it, by which its line is found.

    Raises:
        ModelError, TrainingError: the one that was raised inside, with its key before it.
    """
    try:
        yield
    except (ModelError, TrainingError) as error:
        label = f"model `{section.model}`: "
        what = str(error).removeprefix(label)
        inside = re.match(r"(arguments\.\w+|weights|normalize)(: )?", what)
        if inside is None:
            raise type(error)(f"{key}.model: {error}") from error
        rest = what[inside.end() :] if inside[2] else what.removeprefix("arguments.")
        raise type(error)(f"{key}.{inside[1]}: {label}{rest}") from error


def _check_device(name: str, key: str) -> None:
    """A device need not be within reach to be known."""
    try:
        for each in named_devices([name]):
            scheme_of(each)
    except DeviceError as error:
        raise RecipeError(f"{key}: {error}") from error


def _check_mixed(recipe: Recipe) -> None:
    """What `mixed` must keep is a question that the recipe has to answer."""
    asking = [place for place, export in enumerate(recipe.export) if "mixed" in export.precision]
    if recipe.quantize.mixed is not None:
        read_budget(recipe.quantize.mixed)
    elif asking:
        raise RecipeError(f"export[{asking[0]}].precision: `mixed` keeps layers float under a budget: say quantize.mixed: {{kl_student: '<= 0.002'}}")


def _check_options(export: ExportSection, key: str) -> None:
    """Session options are the adapter's to know; its table needs no runtime."""
    runtime = _named(TARGETS, export.target, f"{key}.target", "target").runtime
    table = adapter(runtime).OPTIONS if export.options else {}
    for name, value in export.options.items():
        try:
            read_options(runtime, {name: value}, table)
        except RuntimeFailure as error:
            raise RecipeError(f"{key}.options.{name}: {error}") from error


def _named(table: Mapping[str, Row], name: str, key: str, what: str) -> Row:
    if name not in table:
        raise RecipeError(f"{key}: there is no {what} `{name}`{nearest(name, table)} (allowed: {', '.join(sorted(table))})")
    return table[name]
