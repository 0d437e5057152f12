"""From a recipe to a verdict: the stages in order, and what each hands to the next. Read alone, this file shows the whole flow.

Every `stage("module:function", ...)` is a plain function of its arguments. Its result is read from the workspace when nothing that it
depends on has changed, and its module is imported only when it has to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from kdedge.artifact import (
    Artifact,
    CalibratedRanges,
    Cell,
    DeviceIdentity,
    EncodedInputs,
    Fidelity,
    FloatGraph,
    ImportPath,
    Latency,
    Lineage,
    ModelFiles,
    PreparedData,
    References,
    TeacherFiles,
)
from kdedge.data import samples_of, sources_of
from kdedge.devices import DEVICES, open_device
from kdedge.distill.spec import TeacherSpec, training_spec
from kdedge.errors import RecipeError
from kdedge.exporters.dialects import DIALECTS
from kdedge.gate import decide, parse_policy
from kdedge.models.catalog import check, resolve
from kdedge.recipe import Recipe, TeacherSection
from kdedge.report.result import RunResult, publish
from kdedge.runtimes import ADAPTERS
from kdedge.source import version_of
from kdedge.targets import TARGETS
from kdedge.tasks import TASKS
from kdedge.workspace import Workspace, explained

Until = Literal["distill", "export", "validate", "profile", "bundle", "report"]
_ORDER: tuple[Until, ...] = ("distill", "export", "validate", "profile", "bundle", "report")


def run(
    recipe: Recipe,
    workspace: Workspace,
    devices: Sequence[DeviceIdentity] | None = None,
    *,
    until: Until = "report",
    remeasure: bool = False,
) -> RunResult:
    """Take a recipe from teacher to verdict. Every line is a stage: cached, resumable, replaceable.

    `devices` replaces the recipe's; nothing before measurement depends on them. `until` names the last step wanted. `remeasure` repeats
    what is measured on devices and nothing else.

    Raises:
        KdedgeError: a stage could not do its work; what was finished before it is kept, and the next run goes on from there.
    """
    stage = workspace.stage
    wanted = _ORDER.index(until)
    check_recipe(recipe)
    task = ImportPath(TASKS[recipe.task])
    policy = parse_policy(recipe.gate, task.load().metric)
    identities = list(devices) if devices is not None else [open_device(name).identity for name in recipe.devices]

    reads = (*sources_of(recipe.data), *samples_of(recipe.data))
    data: PreparedData = stage("kdedge.tasks.prepare:prepare", task, recipe.data, recipe.seed, reads=reads)
    # Each stage gets the part of the data that it may see: what learns never holds the test split, and other test data trains nothing again.
    training, calibrating, test = data.part("train"), data.part("train", calibration=True), data.part("test")
    teacher = obtain_teacher(recipe, training, workspace)
    student = obtain_student(recipe, training, teacher, workspace)
    references: References = stage("kdedge.fidelity.references:reference_outputs", teacher, student, test)
    result = RunResult(recipe=recipe.name, task_metric=policy.metric, student=student, teacher=teacher, references=references)
    if wanted >= _ORDER.index("export"):
        model: FloatGraph = stage("kdedge.exporters.onnx:export", student, calibrating)
        result = result.having(artifacts=build_artifacts(recipe, calibrating, teacher, student, model, workspace))
    if wanted >= _ORDER.index("validate"):
        inputs: EncodedInputs = stage("kdedge.tasks.prepare:encode_split", test, student.encoder, "test")
        latency_too = wanted >= _ORDER.index("profile")
        cells = measure(recipe, result.artifacts, identities, inputs, references, task, workspace, latency_too, remeasure)
        result = result.having(cells=cells, devices=tuple(identities))
    if wanted >= _ORDER.index("bundle"):
        verdict = decide(policy, result.cells)
        shipped = (*verdict.shipped, *verdict.unproven)
        bundles = [
            stage("kdedge.bundle.pack:pack", cell, inputs, references, recipe.name, label=f"{cell.artifact.target} {cell.artifact.precision}")
            for cell in shipped
        ]
        result = lay_out(result.having(verdict=verdict, bundles=tuple(bundles)), workspace)
    if wanted >= _ORDER.index("report"):
        result = conclude(result, task, workspace)
    workspace.save()
    return result


def obtain_teacher(recipe: Recipe, data: PreparedData, workspace: Workspace) -> TeacherFiles | None:
    """The teacher: loaded and checked, or trained when the recipe says how; None when the student learns from labels alone."""
    sections = teachers_of(recipe)
    if not sections:
        return None
    specs = tuple(
        TeacherSpec(
            model=resolve(section, data, as_is=section.train is None),
            training=training_spec(section.train, augment=recipe.data.augment) if section.train is not None else None,
            weight=section.weight,
        )
        for section in sections
    )
    teacher: TeacherFiles = workspace.stage("kdedge.distill.teacher:obtain", specs, data, recipe.seed)
    return teacher


def obtain_student(recipe: Recipe, data: PreparedData, teacher: TeacherFiles | None, workspace: Workspace) -> ModelFiles:
    """The student: distilled from the teacher, or taken as it is (with its weights, or as an ONNX file) when the recipe has no `distill`."""
    spec = resolve(recipe.student, data, as_is=recipe.distill is None)
    if recipe.distill is None:
        return workspace.stage("kdedge.models.given:take", spec, data)  # type: ignore[no-any-return]
    training = training_spec(recipe.distill, has_teacher=teacher is not None, augment=recipe.data.augment)
    return workspace.stage("kdedge.distill.trainer:distill", spec, training, teacher, data, recipe.seed)  # type: ignore[no-any-return]


def build_artifacts(
    recipe: Recipe,
    data: PreparedData,
    teacher: TeacherFiles | None,
    student: ModelFiles,
    model: FloatGraph,
    workspace: Workspace,
) -> tuple[Artifact, ...]:
    """One artifact a target and precision. Ranges are observed once, from the float graph, and lowered into each target's dialect."""
    ranges: CalibratedRanges | None = None
    if any("int8" in export.precision for export in recipe.export):
        ranges = workspace.stage("kdedge.exporters.quantize.calibrate:calibrate", model, data, recipe.quantize)
    lineage = Lineage(
        recipe=recipe.name,
        teacher=" + ".join(f"{member.name}@{_digest(member, workspace)}" for member in teacher.members) if teacher else "",
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
            used = ranges if precision == "int8" else None
            descent = replace(lineage, ranges_sha256=workspace.file_digest(used.table)) if used else lineage
            built = ("kdedge.exporters.build:build", target, precision, dialect, model, student, used, export, descent)
            artifacts.append(workspace.stage(*built, label=f"{export.target} {precision}"))
    return tuple(artifacts)


def measure(
    recipe: Recipe,
    artifacts: Sequence[Artifact],
    devices: Sequence[DeviceIdentity],
    inputs: EncodedInputs,
    references: References,
    task: ImportPath,
    workspace: Workspace,
    latency_too: bool,
    again: bool,
) -> tuple[Cell, ...]:
    """One cell for each artifact on each device: its fidelity, then (if it works there) its latency. A cell that fails ends no run."""
    cells = []
    for device in devices:
        for artifact in artifacts:
            label = f"{artifact.target} {artifact.precision} on {device.name}"
            worker = [ImportPath(name) for name in _code_that_runs(artifact, device)]
            fidelity: Fidelity = workspace.stage(
                "kdedge.fidelity.validate:validate", artifact, inputs, references, task, device, reads=worker, again=again, label=label
            )
            latency = Latency(fidelity.status if fidelity.status != "ok" else "not-run", fidelity.reason or "latency was not asked for")
            if fidelity.status == "ok" and latency_too:
                latency = workspace.stage(
                    "kdedge.latency.launches:profile", artifact, inputs, device, recipe.profile, reads=worker, again=again, label=label
                )
            failed = next((part for part in (fidelity, latency) if part.status == "failed"), fidelity)
            proxy = not set(TARGETS[artifact.target].machines) & set(device.machines)
            cells.append(Cell(artifact, device.name, failed.status, failed.reason, fidelity, latency, proxy))
    return tuple(cells)


def conclude(result: RunResult, task: ImportPath, workspace: Workspace) -> RunResult:
    """Write the report, and lay it beside the bundles and the machine-readable result, where a person finds them."""
    template = Path(__file__).parent / "report" / "page.jinja"
    # The record holds the paths of this machine, on which the page does not depend.
    page: Path = workspace.stage("kdedge.report.page:write_report", result.having(record=None), task, reads=(template,))
    return lay_out(result.having(report=page), workspace)


def lay_out(result: RunResult, workspace: Workspace) -> RunResult:
    """Put what people look for where they find it, `runs/RECIPE/`, one run after the other."""
    with workspace.alone(f"runs-{result.recipe}"), explained(workspace.root, "lay out the report and the bundles"):
        return publish(result, workspace.root / "runs" / result.recipe)


def _code_that_runs(artifact: Artifact, device: DeviceIdentity) -> tuple[str, ...]:
    """What is chosen by name when an artifact is measured: the worker, the adapter of its runtime, the transport of the device."""
    return "kdedge.runtimes.worker:main", f"kdedge.runtimes.{ADAPTERS[artifact.runtime]}:open_session", f"{DEVICES[device.name]}:open_device"


def check_recipe(recipe: Recipe) -> None:
    """Everything about a recipe that can be known before a stage runs: task, data files, models, losses, gate figures.

    Raises:
        KdedgeError: the first thing that is wrong.
    """
    task = ImportPath(_named(TASKS, recipe.task, "task", recipe)).load()
    parse_policy(recipe.gate, task.metric)
    sources_of(recipe.data)
    teachers = teachers_of(recipe)
    for section in (*teachers, recipe.student):
        check(section)
    for teacher in teachers:
        if teacher.train is not None:
            training_spec(teacher.train, augment=recipe.data.augment)
    if recipe.distill is not None:
        training_spec(recipe.distill, has_teacher=bool(teachers), augment=recipe.data.augment)


def teachers_of(recipe: Recipe) -> tuple[TeacherSection, ...]:
    """The recipe's teachers: none, one, or an ensemble."""
    if recipe.teacher is None:
        return ()
    return recipe.teacher if isinstance(recipe.teacher, tuple) else (recipe.teacher,)


def _digest(model: ModelFiles, workspace: Workspace) -> str:
    file = model.weights or model.onnx
    return workspace.file_digest(file)[:16] if file else "unweighted"


def _named(table: dict[str, str], name: str, what: str, recipe: Recipe) -> str:
    if name not in table:
        raise RecipeError(f"recipe `{recipe.name}`: {what}: there is no `{name}` (allowed: {', '.join(sorted(table))})")
    return table[name]
