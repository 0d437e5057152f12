"""A check as one HTML page that loads nothing, in the report's own layout: what was decided, what it rests on, and where it ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kdedge.latency.history.records import LaunchRecord
from kdedge.latency.verdicts import CheckVerdict
from kdedge.regression.checking import CheckedCell, CheckReport
from kdedge.regression.pair_plots import effects_plot, launches_plot, pairs_plot, power_plot
from kdedge.regression.wording import METRICS, counts_of, first_test, headline_of, notes_of, reason_of, share, title_of, title_of_report
from kdedge.report.layout import Block, Bullets, Facts, Folded, Page, Prose, Section, Table, TableCell, Tile
from kdedge.report.page import render

# The report knows other outcomes than a check has; these are coloured as theirs.
_STATES = """
.badge.equivalent, .badge.improved { color: var(--good); }
.badge.regressed { color: var(--bad); }
.badge.invalid { color: var(--open); }
h1 .badge.equivalent, h1 .badge.improved { background: var(--good); color: var(--ground); }
h1 .badge.regressed { background: var(--bad); color: var(--ground); }
h1 .badge.invalid { background: var(--open); color: var(--ground); }
"""


def html(report: CheckReport) -> str:
    """The page; every text escaped, the drawings inline.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    return render(page_of(report)).replace("</style>", f"{_STATES}</style>", 1)


def page_of(report: CheckReport) -> Page:
    """What the page says, as plain values."""
    alone = len(report.cells) == 1
    sections = [_verdicts(report)]
    for number, cell in enumerate(report.cells):
        sections += _of_cell(cell, number, alone)
    return Page(title_of_report(report), report.state, headline_of(report), _tiles(report), (*sections, _settings(report)))


def _tiles(report: CheckReport) -> tuple[Tile, ...]:
    margin = Tile("accepted slow-down", share(report.settings.margin), note=f"false alarm at the margin: {share(report.settings.alpha)} at most")
    if len(report.cells) > 1:
        return (
            *(Tile(state, str(count)) for state, count in counts_of(report).items()),
            margin,
        )
    cell = report.cells[0]
    verdict, test = cell.decisive.verdict, first_test(cell)
    found = [] if test is None else [Tile(f"{METRICS[test.metric]} slower by", *_split(str(test.effect)))]
    look = f"look {verdict.look} of {len(verdict.rule.looks.pairs)}"
    pairs = Tile("pairs that count", f"{len(verdict.counted)} of {len(verdict.pairs)}", note=look)
    power = Tile("found with 80 %", share(verdict.detectable_after), note=f"noise from pair to pair {share(verdict.noise)}")
    return (*found, margin, power, pairs)


def _split(shown: str) -> tuple[str, str]:
    value, bracket, rest = shown.partition(" [")
    return (value, f"[{rest}") if bracket else (shown, "")


def _verdicts(report: CheckReport) -> Section:
    head = ("artifact", "device", "verdict", "median", "p90", "p slower", "p not slower", "pairs")
    rows = tuple(_verdict_row(cell) for cell in report.cells)
    blocks: list[Block] = [Table(head, rows)]
    if report.missing:
        blocks.append(Bullets(tuple(f"not compared: {sentence}" for sentence in report.missing)))
    lead = f"Slow-downs in percent with their 95 % intervals, with a margin of {share(report.settings.margin)}; p values are of the first metric."
    return Section("verdict", "Verdict", lead, tuple(blocks))


def _verdict_row(cell: CheckedCell) -> tuple[TableCell, ...]:
    verdict = cell.decisive.verdict
    effects = {test.metric: str(test.effect) for test in verdict.tests}
    first = verdict.tests[0] if verdict.tests else None
    return (
        TableCell(title_of(cell)),
        TableCell(cell.device),
        TableCell("", badge=cell.state),
        *(TableCell(effects.get(metric, "-")) for metric in METRICS),
        TableCell("-" if first is None else f"{first.p_regressed:.2g}"),
        TableCell("-" if first is None else f"{first.p_equivalent:.2g}"),
        TableCell(f"{len(verdict.counted)} of {len(verdict.pairs)}"),
    )


def _of_cell(cell: CheckedCell, number: int, alone: bool) -> list[Section]:
    name = "evidence" if alone else f"evidence-{number + 1}"
    title = "Evidence" if alone else f"{title_of(cell)} on {cell.device}: {cell.state}"
    checked, test = cell.decisive, first_test(cell)
    drawn = (
        None if test is None else pairs_plot(checked, test, name),
        effects_plot(checked.verdict, name),
        power_plot(checked.verdict, name),
        launches_plot(checked, name),
    )
    why: tuple[Block, ...] = () if alone else (Prose((reason_of(cell),)),)  # of one cell it is the headline
    blocks: list[Block] = [*why, *(plot for plot in drawn if plot is not None)]
    if notes := notes_of(cell):
        blocks.append(Bullets(notes))
    blocks += _tables(cell)
    if cell.environment:  # nothing is known of a device that was away
        blocks.append(Facts(tuple((key, (value,)) for key, value in sorted(cell.environment.items())), title="Environment"))
    return [Section(name, title, f"Planned: {checked.plan}.", tuple(blocks))]


def _tables(cell: CheckedCell) -> Iterator[Folded]:
    verdict = cell.decisive.verdict
    if verdict.pairs:
        yield Folded(f"{len(verdict.pairs)} pairs", _pairs(verdict))
    if launches := cell.decisive.launches:
        yield Folded(f"{len(launches)} launches, and what the machine did in each", _launches(launches))


def _pairs(verdict: CheckVerdict) -> Table:
    counted = set(verdict.counted)
    head = ("pair", "order", "baseline, ms", "candidate, ms", "log ratio", "counts")
    rows = []
    for pair in verdict.pairs:
        ratio = pair.log_ratio()
        rows.append(
            (
                TableCell(str(pair.number + 1)),
                TableCell(pair.order),
                *(TableCell("-" if one.median_ms is None else f"{one.median_ms:.4g}") for one in (pair.baseline, pair.candidate)),
                TableCell("-" if ratio is None else f"{ratio:+.4f}"),
                TableCell("yes" if pair.number in counted else "; ".join(pair.problems) or "not needed", kind="prose"),
            )
        )
    return Table(head, tuple(rows))


def _launches(launches: tuple[LaunchRecord, ...]) -> Table:
    head = ("launch", "side", "pair", "median, ms", "p90, ms", "iterations", "problem", "evidence")
    sides = {"A": "baseline", "B": "candidate"}
    rows = tuple(
        (
            TableCell(str(place + 1)),
            TableCell(sides.get(launch.arm, launch.arm)),
            TableCell(str(launch.pair + 1)),
            TableCell(f"{launch.median_ms:.4g}"),
            TableCell("-" if launch.p90_ms is None else f"{launch.p90_ms:.4g}"),
            TableCell(str(launch.iterations)),
            TableCell(launch.invalid or "-", kind="prose"),
            TableCell(_plain(launch.evidence), kind="mono"),
        )
        for place, launch in enumerate(launches)
    )
    return Table(head, rows)


def _settings(report: CheckReport) -> Section:
    settings = report.settings
    pairs = str(settings.pairs) if settings.budget_seconds is None else f"as many as fit into {settings.budget_seconds:g} s"
    facts: list[tuple[str, tuple[str, ...]]] = [
        ("baseline", (report.baseline,)),
        ("candidate", (report.candidate,)),
        ("started", (report.started.isoformat(timespec="seconds"),)),
        ("margin", (share(settings.margin),)),
        ("alpha", (share(settings.alpha),)),
        ("pairs", (pairs,)),
        ("looks", (str(settings.looks),)),
        ("seed", (str(settings.seed),)),
        ("other environments", ("allowed" if settings.allow_mismatch else "refused",)),
    ]
    for cell in report.cells:
        for side, arm in (("baseline", cell.first.baseline), ("candidate", cell.first.candidate)):
            what = f"{arm.name}: sha256 {arm.sha256}, {arm.job.runtime} {_plain(arm.job.options)}"
            facts.append((f"{side}{f' of {cell.key}' if cell.key else ''}", (what,)))
    return Section("settings", "Settings", "What was declared before the first launch, and what was compared.", (Facts(tuple(facts)),))


def _plain(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)
