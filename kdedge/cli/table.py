"""The table that a person reads at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from kdedge.artifact import Cell
from kdedge.estimate import Estimate
from kdedge.report.figures import executed, interval, proven_without_device, size, split
from kdedge.report.result import RunResult


def print_result(result: RunResult) -> None:
    """Print teacher and student, one row a cell, the verdict with its reasons, and where report and bundles are."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE  # a log has no edge
    scores = result.references.scores
    for name in ("teacher", "student"):
        if name in scores:
            model = result.student if name == "student" else None
            parameters = f", {model.parameters:,} parameters" if model and model.parameters else ""
            console.print(f"{name}: {result.task_metric} {interval(scores[name])}{parameters}", markup=False)
    if "agreement_teacher" in scores:
        console.print(f"the student agrees with the teacher on {interval(scores['agreement_teacher'])} of the test examples", markup=False)
    if result.cells:
        table = Table(box=None, pad_edge=False, header_style="bold")
        columns = _columns(result, console.width)
        for heading in columns:
            table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
        for cell in result.cells:
            row = _row(cell, result.task_metric)
            table.add_row(*(row[heading] for heading in columns))
        console.print(table)
        for line in _notes(result.cells):
            console.print(line, markup=False)
    elif result.artifacts:
        for artifact in result.artifacts:
            console.print(f"{artifact.target} {artifact.precision}: {size(artifact.size_bytes)}  {artifact.main.files[0]}", markup=False)
    if result.verdict:
        console.print(f"gate: {result.verdict.verdict}", markup=False, style="bold")
        for line in result.verdict.reasons:
            console.print(f"  {line}", markup=False)
    for bundle in result.bundles:
        unproven = {f"{cell.artifact.target} {cell.artifact.precision}" for cell in (result.verdict.unproven if result.verdict else ())}
        what = "bundle, unproven until checked on the device" if f"{bundle.target} {bundle.precision}" in unproven else "bundle"
        console.print(f"{what}: {bundle.path}", markup=False, soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", markup=False, soft_wrap=True)


# What is left out, in this order, where a terminal is too narrow; the report has it all.
_WIDE = 120
_DISPENSABLE = ("ran as", "as teacher", "size")


def _columns(result: RunResult, width: int) -> list[str]:
    columns = ["artifact", "device", result.task_metric, "as student", "as teacher", "median", "size", "ran as", "status"]
    if len({cell.device for cell in result.cells}) == 1:
        columns.remove("device")
    for heading, needed in zip(_DISPENSABLE, (108, 92, 80), strict=True):
        if width < needed:
            columns.remove(heading)
    return columns


def _row(cell: Cell, metric: str) -> dict[str, str]:
    figures = cell.fidelity.figures
    return {
        "artifact": f"{cell.artifact.target} {cell.artifact.precision}",
        "device": cell.device + (" (proxy)" if cell.proxy and cell.status == "ok" else ""),
        metric: _stacked(figures.get("metric")),
        "as student": _stacked(figures.get("agreement_student")),
        "as teacher": _stacked(figures.get("agreement_teacher")),
        "median": _stacked(None if cell.proxy else cell.latency.figures.get("latency_median")),
        "size": size(cell.artifact.size_bytes),
        "ran as": executed(cell.fidelity.executed).replace(", ", "\n"),
        "status": cell.status,
    }


def _stacked(estimate: Estimate | None) -> str:
    """The value over its interval: a terminal has more lines than columns."""
    return "\n".join(part for part in split(estimate) if part)


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What does not fit in a row: why a cell did not run, and what is known of it all the same. Equal notes are said once."""
    said: dict[str, list[str]] = {}
    for cell in cells:
        checks = proven_without_device(cell.artifact) if cell.status != "ok" else ""
        note = "; ".join(part for part in (f"{cell.status}: {cell.reason}" if cell.reason else "", checks) if part)
        if note:
            said.setdefault(note, []).append(f"{cell.artifact.target} {cell.artifact.precision} on {cell.device}")
    return [f"{', '.join(names)}: {note}" for note, names in said.items()]
