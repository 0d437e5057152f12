"""The checks before a run: what would waste hours, found in seconds."""

from __future__ import annotations

from kdedge.artifact import ImportPath, TeacherFiles
from kdedge.checks import check_recipe
from kdedge.distill.doctor import Diagnosis
from kdedge.distill.doctor.case import Case
from kdedge.errors import KdedgeError
from kdedge.models.catalog import resolve
from kdedge.recipe import Recipe
from kdedge.training import course_of, obtain_teacher, prepare_data, teacher_specs
from kdedge.workspace import Workspace


def examine(recipe: Recipe, workspace: Workspace, *, taps: bool = False) -> Diagnosis:
    """What would waste a run, found in seconds: the checks of `kdedge.distill.doctor`, none of which trains anything or sees the test split.

    A teacher that is given is loaded, one that the recipe trains is taken where the workspace holds it. `taps`: list the layers too.

    Raises:
        KdedgeError: the recipe or its data cannot be read, so that there is nothing to examine.
    """
    check_recipe(recipe, devices_too=False)
    data = prepare_data(recipe, workspace)
    training = data.part("train")
    specs, refused = teacher_specs(recipe, training), ""
    teacher: TeacherFiles | None = None
    try:
        if any(spec.training is not None for spec in specs):
            teacher = workspace.kept("kdedge.distill.teacher:obtain", specs, training, recipe.seed)
        else:
            teacher = obtain_teacher(recipe, training, workspace)
    except KdedgeError as error:
        refused = str(error)
    learning = data.without("test", calibration=True)
    section = recipe.distill
    course = course_of(recipe, section, learning, taught=bool(specs)) if section is not None else ()
    student = course[-1].model if course else resolve(recipe.student, training, as_is=True)
    case = Case(recipe.name, learning, specs, teacher, course, student, recipe.data.augment, recipe.seed, refused)
    found: Diagnosis = ImportPath("kdedge.distill.doctor.examine:examine").load()(case, workspace, taps=taps)
    workspace.save()
    return found
