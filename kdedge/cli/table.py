"""What a person reads at the end of a run: teacher and student, one row a cell, the verdict, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdedge.cli.inspecting import printable
from kdedge.estimate import Estimate
from kdedge.latency import telling
from kdedge.measured import Cell
from kdedge.report.comparison import lines as comparison_lines
from kdedge.report.figures import executed, interval, name_of, size, split, why
from kdedge.report.result import RunResult
from kdedge.report.teacher_cost import lines as cost_lines
from kdedge.report.teachers import warning

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_LOG_WIDTH = 120  # of what is no terminal: a log has no edge
# What is left out, in this order, until the table fits; the report has it all.
_DISPENSABLE = ("ran as", "as teacher", "size")
_STYLES = {"pass": "green", "ok": "green", "fail": "red", "failed": "red", "inconclusive": "yellow"}


def print_result(result: RunResult, console: Console | None = None) -> None:
    """Print a run's outcome; what does not fit in the console's width is left out or written one figure a line, never cut."""
    if console is None:
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _LOG_WIDTH
    _print_models(result, console)
    if result.cells:
        console.print(_cells(result, console))
        for line in _notes(result.cells):
            _say(console, line)
    else:
        for artifact in result.artifacts:
            _say(console, f"{name_of(artifact)}: {size(artifact.size_bytes)}  {artifact.main.files[0]}", soft_wrap=True)
    if result.verdict:
        _say(console, f"gate: {result.verdict.verdict}", style=f"bold {_STYLES.get(result.verdict.verdict, '')}".rstrip())
        for line in result.verdict.reasons:
            _say(console, f"  {line}")
    _print_places(result, console)


def _say(console: Console, line: str, style: str = "", soft_wrap: bool = False) -> None:
    """Print a line that may hold names out of files: as text, whatever it looks like."""
    console.print(printable(line), markup=False, style=style, soft_wrap=soft_wrap)


def _print_models(result: RunResult, console: Console) -> None:
    scores = result.references.scores
    parameters = {"student": result.student.parameters}
    if result.teacher:
        parameters["teacher"] = sum(member.parameters for member in result.teacher.members)
    for name in ("teacher", "student"):
        if name in scores:
            count = f", {parameters[name]:,} parameters" if parameters.get(name) else ""
            _say(console, f"{name}: {result.task_metric} {interval(scores[name])}{count}")
    if "agreement_teacher" in scores:
        _say(console, f"the student agrees with the teacher on {interval(scores['agreement_teacher'])} of the test examples")
    if warned := warning(result):
        _say(console, f"warning: {warned}", style="yellow")
    for line in (*cost_lines(result), *comparison_lines(result)):
        _say(console, line)


def _print_places(result: RunResult, console: Console) -> None:
    unproven = {(cell.artifact.target, cell.artifact.precision) for cell in (result.verdict.unproven if result.verdict else ())}
    for bundle in result.bundles:
        what = "bundle, unproven until checked on the device" if (bundle.target, bundle.precision) in unproven else "bundle"
        _say(console, f"{what}: {bundle.path}", soft_wrap=True)
    if result.report:
        _say(console, f"report: {result.report}", soft_wrap=True)


def _cells(result: RunResult, console: Console) -> RenderableType:
    """A table with as many columns as fit, or a list where even the fewest do not."""
    from rich.measure import Measurement

    rows = [_row(cell, outcome, result) for cell, outcome in zip(result.cells, _outcomes(result), strict=True)]
    columns = [heading for heading in rows[0] if heading != "device" or len({cell.device for cell in result.cells}) > 1]
    for dispensable in (None, *_DISPENSABLE):
        columns = [heading for heading in columns if heading != dispensable]
        table = _table(rows, columns)
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            return table
    return _list(rows)


def _table(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(Text(heading), justify="right" if heading == "size" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[heading], style=_STYLES.get(row[heading], "") if heading in _OUTCOME else "") for heading in columns))
    return table


def _list(rows: Sequence[dict[str, str]]) -> RenderableType:
    """A heading a cell, and a figure a line under it: what a narrow window can show."""
    from rich.text import Text

    lines = []
    for row in rows:
        lines.append(f"{row['artifact']} on {row['device']}: {next(row[name] for name in _OUTCOME if name in row)}")
        measured = {name: text.replace("\n", " ") for name, text in row.items() if name not in ("artifact", "device", *_OUTCOME) and text != "-"}
        lines += [f"  {name}: {text}" for name, text in measured.items()]
    return Text("\n".join(lines))


_OUTCOME = ("gate", "status")


def _outcomes(result: RunResult) -> list[str]:
    """What the gate says of each cell, in their order; their status where it was not asked."""
    return [one.verdict for one in result.verdict.cells] if result.verdict else [cell.status for cell in result.cells]


def _row(cell: Cell, outcome: str, result: RunResult) -> dict[str, str]:
    figures = cell.fidelity.figures
    teacher = {"as teacher": _stacked(figures.get("agreement_teacher"))} if result.teacher else {}
    return {
        "artifact": printable(name_of(cell.artifact)),
        "device": printable(cell.device) + (" (proxy)" if cell.proxy and cell.status == "ok" else ""),
        printable(result.task_metric): _stacked(figures.get("metric")),
        "as student": _stacked(figures.get("agreement_student")),
        **teacher,
        "median": _stacked(None if cell.proxy else cell.latency.figures.get("latency_median")),
        "size": size(cell.artifact.size_bytes),
        "ran as": printable(executed(cell.fidelity.executed)).replace(", ", "\n"),
        "gate" if result.verdict else "status": outcome,
    }


def _stacked(estimate: Estimate | None) -> str:
    """The value over its interval: a terminal has more lines than columns."""
    return "\n".join(part for part in split(estimate) if part)


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What does not fit in a row: why a cell has no figures, or not all, and what is known of it all the same. Equal notes are said once."""
    said: dict[str, list[str]] = {}
    for cell in cells:
        if note := why(cell):
            said.setdefault(note if cell.status == "ok" else f"{cell.status}: {note}", []).append(f"{name_of(cell.artifact)} on {cell.device}")
        for line in () if cell.proxy else telling.lines(cell.latency):
            said.setdefault(line, []).append(f"{name_of(cell.artifact)} on {cell.device}")
    return [f"{', '.join(names)}: {note}" for note, names in said.items()]
