"""The parts of the report that hold what was measured: the results, speed, what really ran, and where the loss comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdedge.artifact import ImportPath
from kdedge.estimate import Estimate
from kdedge.fidelity.attribution import Step, attribute
from kdedge.measured import Cell
from kdedge.report import drawings, figures
from kdedge.report.layout import Block, Bullets, Plot, Section, Table, TableCell
from kdedge.report.plots import pareto, timed
from kdedge.report.result import RunResult


def results(result: RunResult) -> Section | None:
    """One row a cell with the figures that decide."""
    if not result.cells:
        return None
    # The gate judges the cells in their order.
    outcomes = [one.verdict for one in result.verdict.cells] if result.verdict else [cell.status for cell in result.cells]
    columns: list[tuple[str, Callable[[Cell], TableCell]]] = [
        (result.task_metric, _fidelity("metric")),
        ("same answer as student", _fidelity("agreement_student")),
        *([("same answer as teacher", _fidelity("agreement_teacher"))] if result.teacher else []),
        ("median latency", _latency("latency_median")),
        ("p90 latency", _latency("latency_p90")),
        ("size", lambda cell: TableCell(figures.size(cell.artifact.size_bytes))),
        ("peak memory", lambda cell: TableCell(_megabytes(cell))),
    ]
    rows = [_row(cell, columns, TableCell("", badge=outcome)) for cell, outcome in zip(result.cells, outcomes, strict=True)]
    n = next((cell.fidelity.figures["metric"].n for cell in result.cells if "metric" in cell.fidelity.figures), None)
    examples = f"the same {n:,} test examples" if n else "the same test examples"
    lead = f"Every artifact answers {examples} in a process of its own. Small print: 95 % intervals."
    head = ("artifact", *(name for name, _ in columns), "verdict" if result.verdict else "status")
    return Section("results", "Results", lead, (Table(head, tuple(rows)),))


def _row(cell: Cell, columns: Sequence[tuple[str, Callable[[Cell], TableCell]]], last: TableCell) -> tuple[TableCell, ...]:
    name = TableCell(figures.name_of(cell.artifact), f"{cell.device}, a proxy" if cell.proxy and cell.status == "ok" else cell.device)
    if cell.status == "ok":
        return (name, *(read(cell) for _, read in columns), last)
    return (name, TableCell(figures.why(cell), kind="prose", span=len(columns)), last)


def trade(result: RunResult) -> Section | None:
    """Accuracy against latency."""
    scores, metric = result.references.scores, result.task_metric
    if not timed(result.cells):
        return None
    left_out = len(result.cells) - len(timed(result.cells))
    caption = "Up and to the left is better; a faint step joins what no other artifact beats in both. Bars are 95 % intervals. "
    caption += "Dashed and dotted lines: the float models."
    caption += f" {left_out} of {len(result.cells)} artifacts were not timed on a device of their target and are not drawn." if left_out else ""
    wide, narrow = (pareto(result.cells, scores, metric, narrow=narrow) for narrow in (False, True))
    title = f"{metric.capitalize()} against latency"
    return Section("trade-off", title, "", (Plot(f"{metric} against median latency, one point an artifact", wide, narrow, caption),))


def fidelity(result: RunResult) -> Section | None:
    """Conversion drift and distillation gap, kept apart."""
    measured = [cell for cell in result.cells if cell.fidelity.figures]
    if not measured:
        return None
    drift = (("same answer as student", "agreement_student"), ("KL to student", "kl_student"), ("SQNR", "sqnr_db"))
    gap = (("same answer as teacher", "agreement_teacher"), ("KL to teacher", "kl_teacher")) if result.teacher else ()
    head = ("artifact", *(name for name, _ in drift), "largest logit error", *(name for name, _ in gap))
    rows = [
        (
            TableCell(figures.name_of(cell.artifact), cell.device),
            *(_fidelity(key)(cell) for _, key in drift),
            TableCell("-" if cell.fidelity.largest_error is None else f"{cell.fidelity.largest_error:.3g}"),
            *(_fidelity(key)(cell) for _, key in gap),
        )
        for cell in measured
    ]
    groups: tuple[tuple[str, int], ...] = (("", 1), ("conversion drift: against the float student", len(drift) + 1))
    groups += (("distillation gap: against the teacher", len(gap)),) if gap else ()
    lead = "KL(reference || artifact) of the softmax outputs in nats, averaged over examples. SQNR: energy of the logits over that of their error."
    return Section("fidelity", "Fidelity", lead, (Table(head, tuple(rows), groups),))


def attribution(result: RunResult, task: ImportPath) -> Section | None:
    """What each step from the teacher to the device costs."""
    steps: dict[str, tuple[Step, str]] = {}
    for cell in result.cells:
        if cell.fidelity.status == "ok":
            chain = attribute(cell, result.cells, result.references, task)
            for before, step in zip((None, *chain), chain, strict=False):
                steps.setdefault(step.name, (step, before.name if before else ""))
    if not steps:
        return None
    reach = max((abs(end) for step, _ in steps.values() if step.difference for end in step.difference.interval or ()), default=0.0)
    rows = tuple(_step(step, before, reach) for step, before in steps.values())
    lead = (
        "Each step against the one before it, on the same examples: what distillation, conversion, quantization and the device cost. "
        "An interval that holds zero is no proven change. Gained and lost: examples whose answer turned right and wrong; p: McNemar's exact test."
    )
    head = ("step", result.task_metric, "against", "change", "its interval around zero", "gained / lost", "p")
    return Section("attribution", "Where the loss comes from", lead, (Table(head, rows),))


def _step(step: Step, before: str, reach: float) -> tuple[TableCell, ...]:
    first = step.difference is None
    return (
        TableCell(step.name),
        TableCell(*figures.split(step.metric)),
        TableCell(before or "-"),
        TableCell(*figures.split(step.difference)),
        TableCell("-") if step.difference is None else TableCell("", drawing=drawings.whisker(step.difference, reach)),
        TableCell("-" if first else f"{step.gained} / {step.lost}"),
        TableCell("-" if step.p_value is None else f"{step.p_value:.3g}"),
    )


def speed(result: RunResult) -> Section | None:
    """Latency in detail, and what belongs to it."""
    measured = [cell for cell in result.cells if cell.latency.status == "ok"]
    if not measured:
        return None
    on_device = sorted({name for cell in measured for name in cell.latency.device_figures})
    columns: list[tuple[str, Callable[[Cell], TableCell]]] = [
        ("median", _latency("latency_median")),
        ("p90", _latency("latency_p90")),
        *((f"{name.replace('_', ' ')} (device clock)", _device(name)) for name in on_device),
        ("load", lambda cell: _estimate(cell.latency.load_ms)),
        ("first inference", lambda cell: _estimate(cell.latency.first_inference_ms)),
        ("peak memory", lambda cell: TableCell(_megabytes(cell))),
        ("launches", lambda cell: TableCell(str(cell.latency.launches))),
    ]
    rows = tuple((TableCell(figures.name_of(cell.artifact), cell.device), *(read(cell) for _, read in columns)) for cell in measured)
    notes = tuple(f"{figures.name_of(cell.artifact)} on {cell.device}: {note}" for cell in measured for note in cell.latency.notes)
    proxies = tuple(
        f"{figures.name_of(cell.artifact)} on {cell.device}: a proxy, no device of this target; its latency never counts"
        for cell in measured
        if cell.proxy
    )
    lead = "A launch is a fresh process with its own warm-up; a figure is the median over launches, and has an interval from six launches on."
    blocks: list[Block] = [Table(("artifact", *(name for name, _ in columns)), rows)]
    blocks += [Bullets(notes + proxies)] if notes or proxies else []
    return Section("speed", "Speed and memory", lead, tuple(blocks))


def executed(result: RunResult) -> Section | None:
    """Requested precision against what the runtime says that it ran."""
    measured = [cell for cell in result.cells if cell.fidelity.status == "ok"]
    if not measured:
        return None
    rows = tuple(
        (
            TableCell(figures.name_of(cell.artifact), cell.device),
            TableCell(figures.executed(cell.fidelity.executed), drawing=drawings.shares(cell.fidelity.executed)),
            TableCell(f"{cell.artifact.runtime} {cell.fidelity.runtime_version}".rstrip()),
            TableCell(figures.options(cell.artifact.options), kind="prose"),
        )
        for cell in measured
    )
    lead = "Read back from the runtime after it optimised the graph. `other`: it moves, converts or indexes data, or the runtime does not say."
    return Section("what-ran", "What really ran", lead, (Table(("artifact", "layers by dtype", "runtime", "session options"), rows),))


def _fidelity(name: str) -> Callable[[Cell], TableCell]:
    return lambda cell: _estimate(cell.fidelity.figures.get(name))


def _latency(name: str) -> Callable[[Cell], TableCell]:
    return lambda cell: _estimate(None if cell.proxy else cell.latency.figures.get(name))


def _device(name: str) -> Callable[[Cell], TableCell]:
    return lambda cell: _estimate(None if cell.proxy else cell.latency.device_figures.get(name))


def _estimate(estimate: Estimate | None) -> TableCell:
    return TableCell(*figures.split(estimate))


def _megabytes(cell: Cell) -> str:
    return "-" if cell.latency.peak_memory_mb is None or cell.proxy else f"{cell.latency.peak_memory_mb:.0f} MB"
