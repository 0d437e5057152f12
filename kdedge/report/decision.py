"""The parts of the report that say what was decided, by which evidence, and what ships."""

from __future__ import annotations

from kdedge.bundle.pack import Bundle
from kdedge.estimate import Estimate
from kdedge.gate import FIGURES, CellVerdict, RuleVerdict, TargetVerdict
from kdedge.measured import Cell
from kdedge.report import figures
from kdedge.report.layout import Block, Bullets, Card, Cards, Commands, Section, Table, TableCell, Tile
from kdedge.report.result import RunResult

_HEADLINES = {
    "pass": "Every target that ran has an artifact that keeps the gate with 95 % confidence.",
    "fail": "At least one target has no artifact that keeps the gate.",
    "inconclusive": "Nothing is refuted, but not everything is proven: an interval reaches across a limit, or a figure was not measured.",
    "": "The run stopped before the gate.",
}


def headline(result: RunResult) -> str:
    """One sentence: what the verdict means."""
    verdict = result.verdict
    if verdict is None:
        return _HEADLINES[""]
    if verdict.verdict != "fail" and not any(cell.status == "ok" for cell in result.cells):
        return "Nothing ran on any device, so nothing is proven."
    if verdict.verdict == "pass" and not any(one.rules for one in verdict.cells):
        return "Every target that ran has an artifact that ran without a failure; the gate has no rules, so nothing more was asked."
    return _HEADLINES[verdict.verdict]


def tiles(result: RunResult) -> tuple[Tile, ...]:
    """Teacher and student at a glance."""
    scores, student, found = result.references.scores, result.student, []
    size_of_teacher = sum(member.parameters for member in result.teacher.members) if result.teacher else 0
    if result.teacher and "teacher" in scores:
        names = " + ".join(member.name for member in result.teacher.members)
        found.append(_tile(f"teacher, {result.task_metric}", scores["teacher"], names))
    if "student" in scores:
        found.append(_tile(f"student, {result.task_metric}", scores["student"], f"{student.name}, before conversion"))
    if "agreement_teacher" in scores:
        found.append(_tile("same answer as the teacher", scores["agreement_teacher"], f"{scores['agreement_teacher'].n:,} test examples"))
    if student.parameters:
        ratio = size_of_teacher / student.parameters
        note = f"{ratio:.1f} times fewer than the teacher's {size_of_teacher:,}" if ratio > 1 else ""
        found.append(Tile("student, parameters", f"{student.parameters:,}", note=note))
    return tuple(found)


def targets(result: RunResult) -> Section | None:
    """A card a target: what it ships with which figures, or why it ships nothing."""
    if result.verdict is None:
        return None
    cards = [_card(target, result) for target in result.verdict.targets]
    named = {target.target for target in result.verdict.targets}
    # What the verdict adds to its targets: that nothing ran, that there are no rules.
    general = tuple(line for line in result.verdict.reasons if line.partition(":")[0] not in named)
    blocks: list[Block] = [Cards(tuple(cards))] if cards else []
    blocks += [Bullets(general)] if general else []
    lead = "Each target ships the fastest of its artifacts that pass; the run fails where a target that ran has none."
    return Section("decision", "Decision", lead, tuple(blocks)) if blocks else None


def _card(target: TargetVerdict, result: RunResult) -> Card:
    cell = target.ships
    said, *others = target.reason.split("; ") if cell is not None else [target.reason]
    if cell is None:
        outcome = {"fail": "ships nothing", "inconclusive": "ships nothing yet", "not-run": "not run"}.get(target.verdict, "")
        return Card(target.target, target.verdict, outcome, lines=(said.removeprefix("not run: "), *_without_device(target.target, result)))
    return Card(target.target, target.verdict, f"ships {cell.artifact.precision}", _shipped_tiles(cell, result.task_metric), tuple(others))


def _without_device(target: str, result: RunResult) -> list[str]:
    """What is known of a target's artifacts all the same, and whether they can be tried: the details stand further down."""
    mine = [one for one in result.artifacts if one.target == target]
    checks = dict.fromkeys(name for one in mine for name in one.checks)
    found = [f"{check}: {', '.join(one.precision for one in mine if check in one.checks)}" for check in checks]
    bundled = [bundle.precision for bundle in result.bundles if bundle.target == target]
    if bundled:
        found.append(f"bundled unproven, to be checked on the device: {', '.join(bundled)}")
    return found


def _shipped_tiles(cell: Cell, metric: str) -> tuple[Tile, ...]:
    found = [(metric, cell.fidelity.figures.get("metric")), ("same as student", cell.fidelity.figures.get("agreement_student"))]
    found += [("same as teacher", cell.fidelity.figures.get("agreement_teacher"))]
    found += [("median latency", None if cell.proxy else cell.latency.figures.get("latency_median"))]
    return (*(_tile(name, estimate) for name, estimate in found if estimate), Tile("size", figures.size(cell.artifact.size_bytes)))


def _tile(label: str, estimate: Estimate, note: str = "") -> Tile:
    value, limits = figures.split(estimate)
    return Tile(label, value, limits, note)


def gate(result: RunResult) -> Section | None:
    """Every rule on every artifact with the figure that decided it; in words where it did not pass."""
    if result.verdict is None or not (judged := [one for one in result.verdict.cells if one.rules]):
        return None
    rules = judged[0].rules
    head = ("artifact", *(f"{rule.rule.key} {rule.rule.text}" for rule in rules), "verdict")
    rows = [(_named(one.cell), *(_judged(rule, one.cell) for rule in one.rules), TableCell("", badge=one.verdict)) for one in judged]
    open_points = [f"{figures.name_of(one.cell.artifact)} on {one.cell.device}: {text}" for one in result.verdict.cells for text in _open(one)]
    lead = (
        "A rule passes where the whole 95 % interval is on its right side, fails where the whole interval is on the wrong side, and is inconclusive "
        "between. What is measured once, such as a size, is compared as it is."
    )
    blocks: list[Block] = [Table(head, tuple(rows))]
    blocks += [Bullets(tuple(open_points))] if open_points else []
    return Section("gate", "Gate", lead, tuple(blocks))


def _judged(rule: RuleVerdict, cell: Cell) -> TableCell:
    figure = FIGURES.get(rule.rule.key, FIGURES["metric"])
    found = figure.read(cell)
    if rule.verdict == "not-counted" or found is None:
        return TableCell("-", badge=rule.verdict)
    if isinstance(found, Estimate):
        return TableCell(*figures.split(found), badge=rule.verdict)
    return TableCell(figures.size(found) if figure.unit == "B" else f"{found:.4g}", badge=rule.verdict)


def _open(one: CellVerdict) -> list[str]:
    if one.verdict == "not-run":
        return []
    return [one.reason] if one.reason else [rule.evidence for rule in one.rules if rule.verdict != "pass"]


def _named(cell: Cell) -> TableCell:
    return TableCell(figures.name_of(cell.artifact), cell.device)


def bundles(result: RunResult) -> Section | None:
    """What can be shipped, and how to check that it arrived whole and still answers as it did."""
    if not result.bundles:
        return None
    verdict = result.verdict
    unproven = {(cell.artifact.target, cell.artifact.precision) for cell in verdict.unproven} if verdict else set()
    rows = [_bundle(bundle, (bundle.target, bundle.precision) in unproven) for bundle in result.bundles]
    lead = "Folders beside this page: the artifact, what it promises, golden inputs and outputs, and a check that needs only numpy and the runtime."
    first = f"bundles/{result.bundles[0].name}"
    commands = Commands(("# in this page's folder", f"kdedge verify {first}", f"python3 {first}/self_check.py    # on the device, without kdedge"))
    return Section(
        "bundles", "Bundles", lead, (Table(("bundle", "state", "golden outputs are of", "size", "manifest digest"), tuple(rows)), commands)
    )


def _bundle(bundle: Bundle, unproven: bool) -> tuple[TableCell, ...]:
    state = TableCell("", "to be checked on the device", badge="unproven") if unproven else TableCell("", badge="pass")
    digest = TableCell(bundle.digest, kind="mono")
    return (TableCell(bundle.name), state, TableCell(bundle.golden, kind="prose"), TableCell(figures.size(bundle.size_bytes)), digest)
