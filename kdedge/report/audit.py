"""The part of the report that compares what was asked of each artifact with what ran, and explains integers that are slower than floats."""

from __future__ import annotations

from collections.abc import Sequence

from kdedge.estimate import Estimate
from kdedge.measured import Audit, Cell
from kdedge.report import drawings, figures
from kdedge.report.layout import Block, Bullets, Folded, Section, Table, TableCell
from kdedge.report.result import RunResult

_WORDS = {"int8": "integers", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def audit(result: RunResult) -> Section | None:
    """One row an artifact on a device; sentences; then a folded table of its nodes for each that was not asked in float32."""
    known = [(cell, found) for cell in result.cells if (found := cell.audit) is not None]
    if not known:
        return None
    rows = tuple(
        (
            TableCell(figures.name_of(cell.artifact), cell.device),
            TableCell(shares(found), drawing=drawings.shares(found.macs)),
            TableCell(_counted(sum(row.as_asked is False for row in found.rows), len(found.rows))),
            TableCell(_conversions(found), _listed(found)),
            TableCell(*figures.split(None if cell.proxy else cell.latency.figures.get("latency_median"))),
        )
        for cell, found in known
    )
    lead = "Nodes that multiply, as the file asks for them and as the runtime says that it ran them, counted in multiply-accumulates. "
    lead += "A conversion is a layer that only changes the type or the layout of data."
    blocks: list[Block] = [Table(("artifact", "multiplications", "nodes not as asked", "conversions", "median latency"), rows)]
    said = (
        *slower(result.cells),
        *(f"{figures.name_of(cell.artifact)} on {cell.device}: {line}" for cell, found in known for line in found.findings),
    )
    blocks += [Bullets(said)] if said else []
    blocks += [
        Folded(f"{figures.name_of(cell.artifact)} on {cell.device}: node by node", nodes(found))
        for cell, found in known
        if cell.artifact.precision != "fp32"
    ]
    return Section("audit", "Asked and executed", lead, tuple(blocks))


def nodes(found: Audit) -> Table:
    """One row a node that multiplies."""
    rows = tuple(
        (
            TableCell(row.node, row.layer if row.layer != row.node else ""),
            TableCell(row.operator),
            TableCell(row.asked),
            TableCell(row.ran or "unknown"),
            TableCell("-" if row.macs is None else figures.count(row.macs)),
            TableCell("-" if row.milliseconds is None else f"{row.milliseconds:.3g} ms"),
            TableCell(row.why or "-", kind="prose"),
        )
        for row in found.rows
    )
    return Table(("node", "operator", "asked", "ran", "multiply-accumulates", "time", "why"), rows)


def shares(found: Audit) -> str:
    """`93 % int8, 7 % fp32`: the largest first."""
    whole = sum(found.macs.values())
    ordered = sorted(found.macs.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{_percent(macs / whole)} {dtype}" for dtype, macs in ordered if macs) if whole else "-"


def slower(cells: Sequence[Cell]) -> tuple[str, ...]:
    """A sentence for each artifact of lower precision that is slower than its float32 twin on the same device: where its time goes. Nothing is said
    where the intervals of both overlap, which noise alone explains."""
    said = []
    for cell in cells:
        twin = next((one for one in cells if _are_twins(cell, one)), None)
        if twin is None or cell.audit is None:
            continue
        mine, other = (one.latency.figures["latency_median"] for one in (cell, twin))
        if (mine.interval or (mine.value, mine.value))[0] > (other.interval or (other.value, other.value))[1]:
            said.append(_slower(cell, twin, mine, other, cell.audit))
    return tuple(said)


def _are_twins(cell: Cell, other: Cell) -> bool:
    same = (cell.artifact.target, cell.device) == (other.artifact.target, other.device)
    timed = all("latency_median" in one.latency.figures and not one.proxy for one in (cell, other))
    return same and timed and cell.artifact.precision != "fp32" and other.artifact.precision == "fp32"


def _slower(cell: Cell, twin: Cell, mine: Estimate, other: Estimate, found: Audit) -> str:
    wanted = "fp16" if cell.artifact.precision == "fp16" else "int8"
    whole = sum(found.macs.values())
    share = (
        f"{_percent(found.macs.get(wanted, 0) / whole)} of its multiplications ran in {_WORDS[wanted]}" if whole else "no multiplication was counted"
    )
    extra = sum(found.conversions.values())
    spent = "" if found.conversion_ms is None else f", which take {found.conversion_ms:.3g} ms"
    converts = f", and it has {extra} conversions{spent}" if extra else ""
    sure = "" if mine.interval and other.interval else ", without an interval"
    name, float_name = figures.name_of(cell.artifact), figures.name_of(twin.artifact)
    return f"{name} is slower than {float_name} on {cell.device} ({mine.value:.3g} ms against {other.value:.3g} ms{sure}): {share}{converts}"


def _conversions(found: Audit) -> str:
    number = sum(found.conversions.values())
    return f"{number}" if found.conversion_ms is None or not number else f"{number}, {found.conversion_ms:.3g} ms"


def _listed(found: Audit) -> str:
    return ", ".join(f"{number} {operator}" for operator, number in found.conversions.items())


def _counted(number: int, of: int) -> str:
    return f"{number} of {of}"


def _percent(share: float) -> str:
    """Never 100 % where something is missing, nor 0 % where something is there."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    shown = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if shown in ("0", "100") and 0 < share < 1 else f"{shown} %"
