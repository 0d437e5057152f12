"""What a run found out, as one value and as the JSON that machines read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge.artifact import Artifact, ModelFiles, TeacherFiles
from kdedge.bundle.manifest import MANIFEST
from kdedge.bundle.pack import Bundle
from kdedge.estimate import Estimate
from kdedge.gate import GateVerdict, decide, parse_policy
from kdedge.latency import telling
from kdedge.measured import Cell, DeviceIdentity, References
from kdedge.report.executed_json import audit_json, trials_json
from kdedge.report.figures import why
from kdedge.report.kept import kept_json
from kdedge.trained import ArmScores, Comparison, TrainedLesson, TrainingCost


@dataclass(frozen=True)
class RunResult:
    """A run's outcome. What was not asked for (`until`) is empty or None.

    `verdict` is None before the gate decided; `report` is the HTML page, `record` the JSON beside it. `catalog`: device -> its
    entry there, where it has one.
    """

    recipe: str
    task_metric: str
    student: ModelFiles
    teacher: TeacherFiles | None
    references: References
    training: tuple[TrainedLesson, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    cells: tuple[Cell, ...] = ()
    devices: tuple[DeviceIdentity, ...] = ()
    verdict: GateVerdict | None = None
    bundles: tuple[Bundle, ...] = ()
    report: Path | None = None
    record: Path | None = None
    catalog: dict[str, str] = dataclasses.field(default_factory=dict)
    comparison: Comparison | None = None
    costs: tuple[TrainingCost, ...] = ()

    def having(self, **changes: Any) -> RunResult:
        """A copy with more of it known."""
        return dataclasses.replace(self, **changes)

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 inconclusive, 4 where nothing failed and something could not be measured. Where no gate was asked for, by none of its
        rules: a target whose artifacts all broke down has failed."""
        return (self.verdict or decide(parse_policy({}), self.cells)).exit_code

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints last on standard output."""
        scores = self.references.scores
        student = {"metric": figure(scores.get("student")), "agreement_teacher": figure(scores.get("agreement_teacher"))}
        return {
            "recipe": self.recipe,
            "verdict": self.verdict.verdict if self.verdict else None,
            "exit_code": self.exit_code,
            "teacher": {"metric": figure(scores.get("teacher")), **_members_json(self)} if self.teacher else None,
            "student": student,
            **({"teacher_cache": kept} if (kept := kept_json(self.training)) else {}),
            **({"comparison": comparison_json(self.comparison, self.costs)} if self.comparison else {}),
            "artifacts": [cell_json(cell) for cell in self.cells] or [artifact_json(artifact) for artifact in self.artifacts],
            "report": str(self.report) if self.report else None,
            "bundles": [str(bundle.path) for bundle in self.bundles],
        }


def _members_json(result: RunResult) -> dict[str, Any]:
    """What is known of several teachers apart, and whether they beat the best of them (`better`: null where that is open); nothing for one."""
    ensemble, teacher = result.references.ensemble, result.teacher
    if ensemble is None or teacher is None:
        return {}
    members = [
        {"name": member.name, "weight": weight, "temperature": temperature, "metric": figure(estimate)}
        for member, weight, (temperature, _), estimate in zip(teacher.members, teacher.weights, teacher.readings, ensemble.members, strict=True)
    ]
    tested = {"gained": ensemble.gained, "lost": ensemble.lost, "p_value": ensemble.p_value, "better": ensemble.better}
    return {"members": members, "best_member": ensemble.best, "difference_to_best": {**ensemble.difference.as_json(), **tested}}


def publish(result: RunResult, folder: Path) -> RunResult:
    """Put bundles, report and JSON result into `folder`, each whole or not at all; returns the result with their paths there.

    A bundle that an earlier run put there and this one does not ship is taken away: what lies there may be shipped. So is a report of an
    earlier run where this one has none: it speaks of other bundles.
    The caller sees to it that nobody else does so at the same time. What a killed attempt left is written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, record = folder / "report.html", folder / "result.json"
    result = result.having(bundles=tuple(_lay(bundle, folder / "bundles") for bundle in result.bundles))
    _keep_only({bundle.name for bundle in result.bundles}, folder / "bundles")
    if result.report is not None:
        _replace(page, result.report.read_text(encoding="utf-8"))
        result = result.having(report=page)
    else:
        page.unlink(missing_ok=True)
    result = result.having(record=record)
    _replace(record, json.dumps(result.as_json(), indent=1) + "\n")
    return result


def _lay(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of a bundle in `folder`: the cache keeps its own, which nobody edits."""
    target, coming, going = folder / bundle.name, folder / f".{bundle.name}.new", folder / f".{bundle.name}.old"
    for leftover in (coming, going):
        shutil.rmtree(leftover, ignore_errors=True)
    if target != bundle.path and not _same(bundle.path, target):
        try:
            shutil.copytree(bundle.path, coming)
            if target.exists():
                target.rename(going)
            coming.rename(target)
        finally:
            shutil.rmtree(coming, ignore_errors=True)
        shutil.rmtree(going, ignore_errors=True)
    return dataclasses.replace(bundle, path=target)


def _same(cached: Path, copy: Path) -> bool:
    """Whether the copy is what it was when it was made: the same files, of the same size and time of change."""
    return _stamps(cached) == _stamps(copy)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found}


def _keep_only(names: set[str], folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        # A hidden folder is one on its way; what has no manifest was not put here by a run.
        if path.name not in names and not path.name.startswith(".") and (path / MANIFEST).is_file():
            shutil.rmtree(path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def figure(estimate: Estimate | None) -> dict[str, str | float | int | None] | None:
    """One figure with its interval: name, value, low, high, n, unit; null where it was not measured."""
    return estimate.as_json() if estimate else None


def comparison_json(comparison: Comparison, costs: Sequence[TrainingCost]) -> dict[str, Any]:
    """Students with and without a teacher. `last` counts; `best` was chosen on the test data. `seconds` is null where training was interrupted."""
    spent = {cost.name: cost for cost in costs}
    return {
        "metric": comparison.metric,
        "examples": comparison.examples,
        "arms": [_arm_json(arm, spent.get(arm.name)) for arm in comparison.arms],
        "gain": figure(comparison.gain),
        "differences": list(comparison.differences),
        "decided": comparison.decided,
        "reason": comparison.reason,
    }


def _arm_json(arm: ArmScores, cost: TrainingCost | None) -> dict[str, Any]:
    return {
        "name": arm.name,
        "last": figure(arm.last),
        "best": figure(arm.best),
        "sd": arm.deviation,
        "range": list(arm.range),
        "seeds": [
            {"seed": each.seed, "last": each.last, "best": each.best, "best_epoch": each.best_epoch, "epochs": list(each.epochs)}
            for each in arm.seeds
        ],
        "seconds": list(cost.seconds) if cost else [None] * len(arm.seeds),
        "teacher_seconds": cost.teacher_seconds if cost else None,
    }


def cell_json(cell: Cell) -> dict[str, Any]:
    """One artifact on one device. A proxy's latency and memory say nothing about the target, so they are null and the reason says why."""
    fidelity, latency = cell.fidelity, cell.latency
    timed = {} if cell.proxy else latency.figures
    return {
        **artifact_json(cell.artifact),
        "device": cell.device,
        "status": cell.status,
        "reason": why(cell),
        **{name: figure(fidelity.figures.get(name)) for name in _FIDELITY},
        "largest_error": fidelity.largest_error,
        **{name: figure(timed.get(name)) for name in _LATENCY},
        "peak_memory_mb": None if cell.proxy else latency.peak_memory_mb,
        **({} if cell.proxy else telling.as_json(latency)),
        "executed": dict(fidelity.executed),
        "integer_share": fidelity.audit.integer_share if fidelity.audit else None,
        "audit": audit_json(cell.audit),
    }


_FIDELITY = ("metric", "agreement_teacher", "agreement_student", "kl_student", "kl_teacher", "sqnr_db")
_LATENCY = ("latency_median", "latency_p90")


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """One artifact before any device ran it: the same keys, with nothing measured."""
    return {
        "target": artifact.target,
        "precision": artifact.precision,
        "path": str(artifact.main.files[0]),
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "device": None,
        "status": "not-run",
        "reason": "; ".join(("the run stopped before devices were asked", *(f"{name}: {text}" for name, text in artifact.checks.items()))),
        **dict.fromkeys(_FIDELITY),
        "largest_error": None,
        **dict.fromkeys(_LATENCY),
        "peak_memory_mb": None,
        "executed": {},
        "integer_share": None,
        "audit": None,
        "trials": trials_json(artifact.trials),
    }
