"""The table that a person reads at the end of a run."""

from __future__ import annotations

from kdedge.artifact import Cell
from kdedge.report.figures import executed, interval, proven_without_device, size
from kdedge.report.result import RunResult


def print_result(result: RunResult) -> None:
    """Print teacher and student, one row a cell, the verdict with its reasons, and where report and bundles are."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
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
        for heading, justify in (
            ("artifact", "left"),
            ("device", "left"),
            (result.task_metric, "left"),
            ("= student", "left"),
            ("= teacher", "left"),
            ("median", "left"),
            ("size", "right"),
            ("ran as", "left"),
            ("status", "left"),
        ):
            table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for cell in result.cells:
            table.add_row(*_row(cell))
        console.print(table)
    elif result.artifacts:
        for artifact in result.artifacts:
            console.print(f"{artifact.target} {artifact.precision}: {size(artifact.size_bytes)}  {artifact.main.files[0]}", markup=False)
    if result.verdict:
        console.print(f"gate: {result.verdict.verdict}", markup=False, style="bold")
        for line in result.verdict.reasons:
            console.print(f"  {line}", markup=False)
    for bundle in result.bundles:
        console.print(f"bundle: {bundle.path}", markup=False, soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", markup=False, soft_wrap=True)


def _row(cell: Cell) -> tuple[str, ...]:
    figures = cell.fidelity.figures
    checks = proven_without_device(cell.artifact)
    status = cell.status if not cell.reason else f"{cell.status}: {cell.reason}"
    return (
        f"{cell.artifact.target} {cell.artifact.precision}",
        cell.device + (" (proxy)" if cell.proxy and cell.status == "ok" else ""),
        interval(figures.get("metric")),
        interval(figures.get("agreement_student")),
        interval(figures.get("agreement_teacher")),
        interval(cell.latency.figures.get("latency_median")) if not cell.proxy else "-",
        size(cell.artifact.size_bytes),
        executed(cell.fidelity.executed),
        f"{status} ({checks})" if checks and cell.status != "ok" else status,
    )
