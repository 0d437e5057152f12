"""How int8 comes about: ranges are observed once, then brought closer to the float graph in the dialect of each target that asks for integers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from kdedge.artifact import CalibratedRanges, FloatGraph, ImportPath, ModelFiles, PreparedData, TeacherFiles
from kdedge.devices import DEVICES, scheme_of
from kdedge.exporters.dialects import DIALECTS
from kdedge.measured import DeviceIdentity
from kdedge.recipe import ExportSection, Recipe
from kdedge.runtimes import ADAPTERS
from kdedge.targets import TARGETS
from kdedge.workspace import Workspace

#: Precisions whose integers come from observed ranges.
CALIBRATED = frozenset({"int8", "mixed"})


def obtain_ranges(
    recipe: Recipe, model: FloatGraph, student: ModelFiles, teacher: TeacherFiles | None, data: PreparedData, workspace: Workspace
) -> dict[str, CalibratedRanges]:
    """The ranges, and where the recipe asks for it other weights, of every dialect that its targets need; none where none is asked for."""
    wanted, settings, stage = dialects_of(recipe.export), recipe.quantize, workspace.stage
    if not wanted:
        return {}
    observed: CalibratedRanges = stage("kdedge.exporters.quantize.calibrate:calibrate", model, data, settings.observing())
    # Each stage is given what it reads and no more: another budget for `mixed` trains nothing again.
    recovering, learning = settings.model_copy(update={"aware": None, "mixed": None}), settings.model_copy(update={"recover": (), "mixed": None})
    found = {}
    for dialect in wanted:
        ranges, module = observed, ImportPath(DIALECTS[dialect])
        if settings.recover or settings.observer == "best":
            ranges = stage("kdedge.exporters.quantize.recover:recover", model, ranges, data, recovering, module, label=dialect)
        if settings.aware is not None:
            guide = teacher if settings.aware.learn_from == "teacher" else None
            given = (model, ranges, student, guide, data, learning, module, recipe.seed)
            ranges = stage("kdedge.exporters.quantize.aware:aware", *given, augment=recipe.data.augment, label=dialect)
        found[dialect] = ranges
    return found


def obtain_mixed(
    recipe: Recipe,
    export: ExportSection,
    model: FloatGraph,
    student: ModelFiles,
    ranges: CalibratedRanges,
    data: PreparedData,
    devices: Sequence[DeviceIdentity],
    workspace: Workspace,
) -> CalibratedRanges:
    """The ranges with the layers that stay float in a `mixed` artifact, searched on the first device that the target is meant for, if any."""
    target = TARGETS[export.target]
    device = next((each for each in devices if set(target.machines) & set(each.machines)), None)
    worker = [] if device is None else [ImportPath(name) for name in code_that_runs(target.runtime, device)]
    given = (target, ImportPath(DIALECTS[target.dialect]), model, student, ranges, data, export, recipe.quantize, device, recipe.profile)
    found: CalibratedRanges = workspace.stage("kdedge.exporters.quantize.mixed:find_mixed", *given, reads=worker, label=export.target)
    return found


def code_that_runs(runtime: str, device: DeviceIdentity) -> tuple[str, ...]:
    """What is chosen by name when an artifact is measured: the worker, the adapter of its runtime, the transport of the device."""
    return "kdedge.runtimes.worker:main", f"kdedge.runtimes.{ADAPTERS[runtime]}:open_session", f"{DEVICES[scheme_of(device.name)]}:open_device"


def dialects_of(exports: Iterable[ExportSection]) -> tuple[str, ...]:
    """The dialects in which integers are written, each once, in the order of the recipe."""
    asking = [TARGETS[export.target].dialect for export in exports if CALIBRATED & set(export.precision)]
    return tuple(dict.fromkeys(dialect for dialect in asking if dialect in DIALECTS))


def fingerprint(ranges: CalibratedRanges, workspace: Workspace) -> str:
    """What integers were made from: the table of ranges, and the weights that took the place of the student's own."""
    table = workspace.file_digest(ranges.table)
    if ranges.weights is None:
        return table
    return hashlib.sha256(f"{table} {workspace.file_digest(ranges.weights)}".encode()).hexdigest()
