"""The table that a person reads at the end of a run."""

from __future__ import annotations

from kdedge.artifact import Cell, Estimate
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
            size = f", {model.parameters:,} parameters" if model and model.parameters else ""
            console.print(f"{name}: {result.task_metric} {interval(scores[name])}{size}", markup=False)
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
            ("median ms", "left"),
            ("KB", "right"),
            ("ran as", "left"),
            ("status", "left"),
        ):
            table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for cell in result.cells:
            table.add_row(*_row(cell))
        console.print(table)
    elif result.artifacts:
        for artifact in result.artifacts:
            console.print(f"{artifact.target} {artifact.precision}: {artifact.size_bytes / 1000:.0f} KB  {artifact.main.files[0]}", markup=False)
    if result.verdict:
        console.print(f"gate: {result.verdict.verdict}", markup=False, style="bold")
        for line in result.verdict.reasons:
            console.print(f"  {line}", markup=False)
    for bundle in result.bundles:
        console.print(f"bundle: {bundle.path}", markup=False, soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", markup=False, soft_wrap=True)


def interval(estimate: Estimate | None) -> str:
    """A figure with its interval: 97.2 % [94.9, 98.5], 0.412 [0.408, 0.420]."""
    if estimate is None:
        return "-"
    percent = estimate.unit == "fraction"
    scale, suffix = (100.0, " %") if percent else (1.0, "")
    digits = 1 if percent else 3
    text = f"{estimate.value * scale:.{digits}f}{suffix}"
    if estimate.low is None or estimate.high is None:
        return f"{text} (no interval)"
    return f"{text} [{estimate.low * scale:.{digits}f}, {estimate.high * scale:.{digits}f}]"


def _row(cell: Cell) -> tuple[str, ...]:
    figures = cell.fidelity.figures
    checks = "; ".join(f"{name}: {text}" for name, text in cell.artifact.checks.items())
    status = cell.status if not cell.reason else f"{cell.status}: {cell.reason}"
    executed = " ".join(f"{count} {dtype}" for dtype, count in sorted(cell.fidelity.executed.items(), key=lambda item: -item[1]))
    return (
        f"{cell.artifact.target} {cell.artifact.precision}",
        cell.device + (" (proxy)" if cell.proxy and cell.status == "ok" else ""),
        interval(figures.get("metric")),
        interval(figures.get("agreement_student")),
        interval(figures.get("agreement_teacher")),
        interval(cell.latency.figures.get("latency_median")) if not cell.proxy else "-",
        f"{cell.artifact.size_bytes / 1000:.0f}",
        executed or "-",
        f"{status} ({checks})" if checks and cell.status != "ok" else status,
    )
