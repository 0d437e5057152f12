"""The report: one HTML page that loads nothing, for a person who decides whether to ship."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdedge.artifact import Cell, ImportPath
from kdedge.errors import MissingExtra
from kdedge.estimate import Estimate
from kdedge.fidelity.attribution import Step, attribute
from kdedge.gate import CellVerdict, GateVerdict
from kdedge.report import figures
from kdedge.report.layout import Page, Section, Table, TableCell
from kdedge.report.plots import pareto
from kdedge.report.result import RunResult

TOOLS = ("jinja2", "matplotlib")


def write_report(result: RunResult, task: ImportPath, *, folder: Path) -> Path:
    """Write `report.html`; returns its path.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    path = folder / "report.html"
    path.write_text(render(page_of(result, task)), encoding="utf-8")
    return path


def render(page: Page) -> str:
    """The page as HTML: every value escaped, the plots inline.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise MissingExtra("jinja2", "report", "the report") from error
    template = (resources.files("kdedge") / "report" / "page.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    return environment.from_string(template).render(page=page)


def page_of(result: RunResult, task: ImportPath) -> Page:
    """What the page says, as plain values."""
    sections = [
        _results(result),
        Section(
            "Accuracy against latency",
            plot=pareto(result.cells, result.task_metric),
            caption="Up and to the left is better; bars are 95 % intervals. Cells without a latency of their own are not drawn.",
        ),
        _attribution(result, task),
        *([_gate(result.verdict)] if result.verdict else []),
        _worst(result),
        _lineage(result),
        _environment(result),
    ]
    return Page(
        title=result.recipe,
        verdict=result.verdict.verdict if result.verdict else "",
        summary=_summary(result),
        reasons=result.verdict.reasons if result.verdict else (),
        sections=tuple(section for section in sections if section.table or section.plot or section.facts),
    )


def _summary(result: RunResult) -> tuple[str, ...]:
    scores = result.references.scores
    lines = []
    if result.teacher and "teacher" in scores:
        names = " + ".join(member.name for member in result.teacher.members)
        lines.append(f"Teacher {names}: {result.task_metric} {scores['teacher']}, {sum(m.parameters for m in result.teacher.members):,} parameters.")
    line = f"Student {result.student.name}: {result.task_metric} {figures.interval(scores.get('student'))}, {result.student.parameters:,} parameters"
    if "agreement_teacher" in scores:
        line += f"; it gives the teacher's answer on {scores['agreement_teacher']} of the {scores['agreement_teacher'].n} test examples"
    return (*lines, line + ".")


def _results(result: RunResult) -> Section:
    head: tuple[str, ...] = ("artifact", "device", result.task_metric, "same answer as student", "same answer as teacher", "KL to student")
    head += ("SQNR", "median latency", "p90", "size", "peak memory", "ran as", "status")
    verdicts = {id(one.cell): one for one in result.verdict.cells} if result.verdict else {}
    rows = tuple(_row(cell, verdicts.get(id(cell))) for cell in result.cells)
    text = (
        "Every artifact answered the same test examples. Intervals are 95 %; latency is the median of fresh processes, each with its own warm-up. "
        "Conversion drift compares with the float student in torch, the distillation gap with the teacher; KL is KL(reference || artifact) in nats.",
    )
    return Section("Results", text, Table(head, rows))


def _row(cell: Cell, verdict: CellVerdict | None) -> tuple[TableCell, ...]:
    fidelity, latency = cell.fidelity, cell.latency

    def shown(estimate: Estimate | None) -> TableCell:
        return TableCell(*figures.split(estimate))

    outcome = verdict.verdict if verdict else cell.status
    note = "; ".join(part for part in (cell.reason, figures.proven_without_device(cell.artifact)) if part)
    timed = {} if cell.proxy else latency.figures
    return (
        TableCell(f"{cell.artifact.target} {cell.artifact.precision}"),
        TableCell(cell.device, "proxy: not a device of this target" if cell.proxy and cell.status == "ok" else ""),
        *(shown(fidelity.figures.get(name)) for name in ("metric", "agreement_student", "agreement_teacher", "kl_student", "sqnr_db")),
        *(shown(timed.get(name)) for name in ("latency_median", "latency_p90")),
        TableCell(figures.size(cell.artifact.size_bytes)),
        TableCell(f"{latency.peak_memory_mb:.0f} MB" if latency.peak_memory_mb is not None else "-"),
        TableCell(figures.executed(fidelity.executed)),
        TableCell(outcome, note, f"text {outcome}"),
    )


def _attribution(result: RunResult, task: ImportPath) -> Section:
    rows: list[tuple[TableCell, ...]] = []
    for cell in result.cells:
        if cell.fidelity.status != "ok":
            continue
        last = attribute(cell, result.cells, result.references, task)
        rows += [_step(step) for step in last if step.name not in {row[0].text for row in rows}]
    text = (
        "Each step is compared with the one before it on the same examples: what distillation, export, quantization and the device each cost. "
        "Gained and lost count the examples whose answer turned right or wrong; p is McNemar's exact test.",
    )
    return Section("Where the loss comes from", text, Table(("step", result.task_metric, "change", "gained / lost", "p"), tuple(rows)))


def _step(step: Step) -> tuple[TableCell, ...]:
    changed = f"{step.gained} / {step.lost}" if step.difference else "-"
    p_value = f"{step.p_value:.3g}" if step.p_value is not None else "-"
    return (
        TableCell(step.name),
        TableCell(*figures.split(step.metric)),
        TableCell(*figures.split(step.difference)),
        TableCell(changed),
        TableCell(p_value),
    )


def _gate(verdict: GateVerdict) -> Section:
    rows = [
        (
            TableCell(f"{one.cell.artifact.target} {one.cell.artifact.precision}", one.cell.device),
            TableCell(f"{rule.rule.key} {rule.rule.text}"),
            TableCell(rule.verdict, kind=rule.verdict),
            TableCell(rule.evidence, kind="text"),
        )
        for one in verdict.cells
        for rule in one.rules
    ]
    text = (
        "A rule passes when the whole interval is on its right side, fails when the whole interval is on the wrong one, else it is inconclusive.",
    )
    return Section("Gate", text, Table(("artifact", "rule", "verdict", "evidence"), tuple(rows)) if rows else None)


def _worst(result: RunResult) -> Section:
    named = ", ".join(result.references.worst)
    return Section(
        "Where student and teacher differ most",
        ("Test examples with the largest KL from teacher to student; look at these first.",),
        facts=(("examples", named),) if named else (),
    )


def _lineage(result: RunResult) -> Section:
    facts: list[tuple[str, str]] = []
    for artifact in result.artifacts:
        lineage = artifact.lineage
        facts.append((f"{artifact.target} {artifact.precision}", f"sha256 {artifact.sha256}, dialect {artifact.dialect}, options {artifact.options}"))
        facts += [("", note) for note in artifact.notes]
    if result.artifacts:
        lineage = result.artifacts[0].lineage
        facts += [
            ("teacher", lineage.teacher or "none"),
            ("student", lineage.student),
            ("float graph", f"sha256 {lineage.float_graph_sha256}"),
            ("training data", lineage.data_fingerprint),
            ("ranges", lineage.ranges_sha256 or "none"),
            ("tools", ", ".join(f"{tool} {version}" for tool, version in sorted(lineage.tools.items()))),
        ]
    return Section("Lineage", facts=tuple(facts))


def _environment(result: RunResult) -> Section:
    facts = [(f"{device.name}: {fact}", value) for device in result.devices for fact, value in sorted(device.fingerprint.items())]
    return Section("Environment", facts=tuple(facts))
