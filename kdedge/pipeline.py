"""From a recipe to a verdict: the stages in order, and what each hands to the next. Read alone, this file shows the whole flow.

    data, teacher, student       training.py: what comes before there is anything to ship
    float graph                  exported once, checked against the student
    ranges                       quantizing.py: observed once, brought closer in each dialect that writes integers
    artifacts                    one a target and precision
    cells                        an artifact on a device: fidelity to student and teacher, then latency
    verdict, bundles, report     what passes the gate ships, with its proof

Every `stage("module:function", ...)` is a plain function of its arguments. Its result is read from the workspace when nothing that it
depends on has changed, and its module is imported only when it has to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from kdedge import progress
from kdedge.artifact import (
    Artifact,
    ChannelSizes,
    EncodedInputs,
    FloatGraph,
    ImportPath,
    Lineage,
    ModelFiles,
    PreparedData,
    TeacherFiles,
)
from kdedge.bundle.code import code_files
from kdedge.bundle.pack import Bundle
from kdedge.checks import check_installed, check_recipe
from kdedge.costs import cost_of
from kdedge.devices import profile_of
from kdedge.exporters.dialects import DIALECTS
from kdedge.fleet import abreast, open_devices
from kdedge.gate import decide, parse_policy
from kdedge.latency.roofline import bound_of, check_against, conditions_of, has_figures, ran_as
from kdedge.measured import Cell, DeviceIdentity, Fidelity, Latency, References
from kdedge.quantizing import CALIBRATED, code_that_runs, fingerprint, obtain_mixed, obtain_ranges
from kdedge.recipe import ProfileSection, Recipe
from kdedge.report.kept import cost_file
from kdedge.report.result import RunResult, publish
from kdedge.source import version_of
from kdedge.targets import TARGETS
from kdedge.tasks import TASKS
from kdedge.trained import Comparison
from kdedge.training import obtain_contestants, obtain_student, obtain_teacher, prepare_data, rehearse
from kdedge.workspace import Workspace, explained

Until = Literal["distill", "export", "validate", "profile", "bundle", "report"]
_ORDER: tuple[Until, ...] = ("distill", "export", "validate", "profile", "bundle", "report")


def run(
    recipe: Recipe,
    workspace: Workspace,
    devices: Sequence[str] | None = None,
    *,
    until: Until = "report",
    remeasure: bool = False,
) -> RunResult:
    """Take a recipe from teacher to verdict. Every line is a stage: cached, resumable, replaceable.

    `devices` replaces the recipe's, by name; nothing before measurement depends on them. `until` names the last step wanted. `remeasure` repeats
    what is measured on devices and nothing else.

    Raises:
        KdedgeError: a stage could not do its work; what was finished before it is kept, and the next run goes on from there.
    """
    stage = workspace.stage
    wanted = _ORDER.index(until)
    check_recipe(recipe, devices_too=devices is None)
    check_installed(recipe, export=wanted >= _ORDER.index("export"), report=wanted >= _ORDER.index("report"))
    task = ImportPath(TASKS[recipe.task])
    policy = parse_policy(recipe.gate, task.load().metric)
    identities = open_devices(recipe.devices if devices is None else devices)

    data = prepare_data(recipe, workspace)
    # Each stage gets the part of the data that it may see: what learns never holds the test split, and other test data trains nothing again.
    training, calibrating, test = data.part("train"), data.part("train", calibration=True), data.part("test")
    rehearse(recipe, data, workspace)
    teacher = obtain_teacher(recipe, training, workspace)
    student, lessons_taken = obtain_student(recipe, data, teacher, workspace)
    # All training is done before anything sees the test split.
    compared = obtain_contestants(recipe, data, teacher, lessons_taken, workspace)
    references: References = stage("kdedge.fidelity.references:reference_outputs", teacher, student, test)
    result = RunResult(recipe=recipe.name, task_metric=policy.metric, student=student, teacher=teacher, references=references, training=lessons_taken)
    if compared:
        comparison: Comparison = stage("kdedge.fidelity.comparison:evaluate", tuple(each.arm for each in compared), test)
        result = result.having(comparison=comparison, costs=tuple(cost_of(workspace, each.name, each.courses) for each in compared))
    if wanted >= _ORDER.index("export"):
        model: FloatGraph = stage("kdedge.exporters.onnx:export", student, calibrating)
        result = result.having(artifacts=build_artifacts(recipe, calibrating, teacher, student, model, identities, workspace))
    if wanted >= _ORDER.index("validate"):
        inputs: EncodedInputs = stage("kdedge.tasks.prepare:encode_split", test, student.encoder, "test")
        how = Measuring(inputs, references, task, recipe.profile, workspace, wanted >= _ORDER.index("profile"), remeasure)
        cells = measure(result.artifacts, identities, how)
        result = result.having(cells=cells, devices=tuple(identities), catalog=_catalog_entries(identities))
    if wanted >= _ORDER.index("bundle"):
        verdict = decide(policy, result.cells)
        shipped = (*verdict.shipped, *verdict.unproven)
        bundles = [pack(cell, inputs, references, recipe.name, workspace) for cell in shipped]
        result = lay_out(result.having(verdict=verdict, bundles=tuple(bundles)), workspace)
    if wanted >= _ORDER.index("report"):
        result = conclude(result, task, workspace)
    workspace.save()
    return result


def build_artifacts(
    recipe: Recipe,
    data: PreparedData,
    teacher: TeacherFiles | None,
    student: ModelFiles,
    model: FloatGraph,
    devices: Sequence[DeviceIdentity],
    workspace: Workspace,
) -> tuple[Artifact, ...]:
    """One artifact a target and precision. Ranges are observed once, from the float graph, and lowered into each target's dialect."""
    ranges = obtain_ranges(recipe, model, student, teacher, data, workspace)
    channels: ChannelSizes | None = None
    if any("int8-dynamic" in export.precision for export in recipe.export):
        channels = workspace.stage("kdedge.exporters.smoothing:observe_channels", model, data)
    lineage = Lineage(
        recipe=recipe.name,
        teacher=_descent(teacher, workspace) if teacher else "",
        student=f"{student.name}@{_digest(student, workspace)}",
        float_graph_sha256=model.sha256,
        data_fingerprint=data.splits["train"].fingerprint,
        tools={tool: version_of(tool) for tool in ("torch", "onnx", "onnxruntime", "openvino") if version_of(tool) != "absent"},
    )
    artifacts = []
    for export in recipe.export:
        target = TARGETS[export.target]
        dialect = ImportPath(DIALECTS[target.dialect]) if target.dialect in DIALECTS else None
        for precision in export.precision:
            used = ranges[target.dialect] if precision in CALIBRATED else None
            if used and precision == "mixed":
                used = obtain_mixed(recipe, export, model, student, used, data, devices, workspace)
            descent = replace(lineage, ranges_sha256=fingerprint(used, workspace)) if used else lineage
            built = ("kdedge.exporters.build:build", target, precision, dialect, model, student, used, export, descent)
            # int8 finds them in the ranges, and other precisions have no use for them.
            kept = recipe.quantize.keep_float if precision in ("int8-dynamic", "int8-weights") else ()
            alike = channels if precision == "int8-dynamic" else None
            artifacts.append(workspace.stage(*built, label=f"{export.target} {precision}", keep_float=kept, channels=alike))
    return tuple(artifacts)


@dataclass(frozen=True)
class Measuring:
    """What is the same for all cells of a run. `latency_too`: not fidelity alone; `again`: also what was measured before."""

    inputs: EncodedInputs
    references: References
    task: ImportPath
    profile: ProfileSection
    workspace: Workspace
    latency_too: bool
    again: bool


def measure(artifacts: Sequence[Artifact], devices: Sequence[DeviceIdentity], how: Measuring) -> tuple[Cell, ...]:
    """One cell for each artifact on each device, devices side by side. A cell that fails ends no run."""

    def cells_on(device: DeviceIdentity) -> list[Cell]:
        cells = []
        for artifact in artifacts:
            cells.append(measure_one(artifact, device, how))
            progress.cell_done(lost=cells[-1].fidelity.lost or cells[-1].latency.lost)
        return cells

    return tuple(cell for cells in abreast(devices, cells_on, len(artifacts)) for cell in cells)


def measure_one(artifact: Artifact, device: DeviceIdentity, how: Measuring) -> Cell:
    """The fidelity of an artifact on a device, then (if it works there) its latency, which must be possible there."""
    if device.away:  # by no stage: nothing is kept, and the next run asks the device again
        lost = Fidelity("failed", device.reason, lost=True), Latency("failed", device.reason, lost=True)
        return Cell(artifact, device.name, "failed", device.reason, *lost)
    label = f"{artifact.target} {artifact.precision} on {device.name}"
    worker = [ImportPath(name) for name in code_that_runs(artifact.runtime, device)]
    stage = partial(how.workspace.stage, reads=worker, again=how.again, label=label)
    fidelity: Fidelity = stage("kdedge.fidelity.validate:validate", artifact, how.inputs, how.references, how.task, device)
    proxy = not set(TARGETS[artifact.target].machines) & set(device.machines)
    latency = Latency(fidelity.status if fidelity.status != "ok" else "not-run", fidelity.reason or "latency was not asked for")
    if fidelity.status == "ok" and how.latency_too and device.kind == "emulated":
        latency = Latency("not-run", f"{device.name} is emulated: how fast it runs says nothing about any device")
    elif fidelity.status == "ok" and how.latency_too:
        latency = stage("kdedge.latency.launches:profile", artifact, how.inputs, device, how.profile)
    profile = None if proxy or latency.status != "ok" else profile_of(device)
    under = conditions_of(artifact.target, artifact.runtime, artifact.options, profile, device.fingerprint) if profile else None
    if profile is not None and under is not None and has_figures(profile, under):
        work = how.workspace.stage("kdedge.exporters.work:work_of", artifact, label=label)
        impossible = check_against(latency, bound_of(work, profile, under, ran_as(fidelity.audit)))
        latency = replace(latency, status="failed", reason=impossible) if impossible else latency
    failed = next((part for part in (fidelity, latency) if part.status == "failed"), fidelity)
    return Cell(artifact, device.name, failed.status, failed.reason, fidelity, latency, proxy)


def pack(cell: Cell, inputs: EncodedInputs, references: References, name: str, workspace: Workspace) -> Bundle:
    """The bundle of a cell, with the code that runs and checks it: what changes in that makes another bundle."""
    label = f"{cell.artifact.target} {cell.artifact.precision}"
    made: Bundle = workspace.stage("kdedge.bundle.pack:pack", cell, inputs, references, name, reads=tuple(code_files().values()), label=label)
    return made


def _catalog_entries(devices: Sequence[DeviceIdentity]) -> dict[str, str]:
    found = {device.name: profile_of(device) for device in devices}
    return {name: profile.id for name, profile in found.items() if profile is not None}


def conclude(result: RunResult, task: ImportPath, workspace: Workspace) -> RunResult:
    """Write the report, and lay it beside the bundles and the machine-readable result, where a person finds them."""
    template = Path(__file__).parent / "report" / "page.jinja"
    costs = dict.fromkeys(cost_file(view) for lesson in result.training for view in lesson.cache)
    # The record holds the paths of this machine, on which the page does not depend.
    page: Path = workspace.stage("kdedge.report.page:write_report", result.having(record=None), task, reads=(template, *costs))
    return lay_out(result.having(report=page), workspace)


def lay_out(result: RunResult, workspace: Workspace) -> RunResult:
    """Put what people look for where they find it, `runs/RECIPE/`, one run after the other."""
    with workspace.alone(f"runs-{result.recipe}"), explained(workspace.root, "lay out the report and the bundles"):
        return publish(result, workspace.root / "runs" / result.recipe)


def _descent(teacher: TeacherFiles, workspace: Workspace) -> str:
    """The teacher's members by name and content, and how each is read where that is not plain."""
    found = []
    for member, weight, (temperature, places) in zip(teacher.members, teacher.weights, teacher.readings, strict=True):
        said = [f"weight {weight:.6g}"] if len(teacher.members) > 1 else []
        said += [f"temperature {temperature:.6g}"] if temperature != 1.0 else []
        if places:
            said.append(f"{len(places)} of its {len(member.classes)} classes: {hashlib.sha256(repr(places).encode()).hexdigest()[:8]}")
        how = f" ({', '.join(said)})" if said else ""
        found.append(f"{member.name}@{_digest(member, workspace)}{how}")
    return " + ".join(found)


def _digest(model: ModelFiles, workspace: Workspace) -> str:
    file = model.weights or model.onnx
    return workspace.file_digest(file)[:16] if file else "unweighted"
