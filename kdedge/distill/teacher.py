"""The stage that obtains the teacher: given or trained, and checked against the data."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdedge.artifact import ModelFiles, PreparedData, TeacherFiles
from kdedge.distill.acceleration import accelerated
from kdedge.distill.ensemble import Teacher
from kdedge.distill.loop import train
from kdedge.distill.seeding import derived
from kdedge.distill.spec import TeacherSpec
from kdedge.errors import Diverged, TrainingError
from kdedge.models.class_names import class_map
from kdedge.models.given import take
from kdedge.ranks import everywhere

RESUMABLE = True
TOOLS = ("torch", "accelerate")


@everywhere
def obtain(teachers: tuple[TeacherSpec, ...], data: PreparedData, seed: int, *, folder: Path) -> TeacherFiles:
    """Stage: the teacher's members, each trained where the recipe says how, else loaded from its weights; all checked against the data.

    What is given is checked before anything is trained. Each member that is trained has a seed of its own, so that an ensemble of one model
    differs within itself. Writes a folder a member.

    Raises:
        ModelError: weights do not fit, a model has no usable output, or a member does not know all classes of the data (lists both).
        TrainingError: a member's class count is not that of its classes (names both), or training failed.
    """
    if not teachers:
        raise TrainingError("a teacher needs at least one member")
    places = range(len(teachers))
    maps = tuple(class_map(spec.model.classes, data.classes, f"teacher `{spec.model.name}`") for spec in teachers)
    members: dict[int, ModelFiles] = {}
    for place in sorted(places, key=lambda index: teachers[index].training is not None):
        own = folder / f"member{place}"
        own.mkdir(exist_ok=True)
        members[place] = _member(teachers[place], maps[place], data, derived(seed, "teacher", place), own)
    total = sum(spec.weight for spec in teachers)
    weights, temperatures = tuple(spec.weight / total for spec in teachers), tuple(spec.temperature for spec in teachers)
    return TeacherFiles(tuple(members[place] for place in places), weights, temperatures, maps)


def _member(spec: TeacherSpec, map_: tuple[int, ...], data: PreparedData, seed: int, folder: Path) -> ModelFiles:
    if spec.training is not None:
        with accelerated(spec.training.section.precision) as accelerator:
            try:
                return train(accelerator, spec.model, spec.training, data, seed, folder=folder, what="teacher")
            except Diverged as error:
                # The student has an optimizer of the same name: say whose it is that has to be changed.
                raise Diverged(f"in the training of the teacher `{spec.model.name}` (teacher.train): {error}") from error
    with accelerated("fp32") as accelerator, accelerator.main_process_first():
        if accelerator.is_main_process:
            # A killed attempt may have left half a file here.
            shutil.rmtree(folder)
            folder.mkdir()
        files = take(spec.model, data, folder=folder)
    Teacher(TeacherFiles((files,), (1.0,), maps=(map_,)), data.task.load().logits).check(data)
    return files
