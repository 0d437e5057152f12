"""A check in Markdown, for the summary of a CI job (`$GITHUB_STEP_SUMMARY`): the verdict first, then what it rests on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kdedge.regression.checking import CheckedCell, CheckReport
from kdedge.regression.text_plot import text_plot
from kdedge.regression.wording import METRICS, first_test, headline_of, notes_of, reason_of, share, title_of, title_of_report

# What Markdown, its tables and HTML read as their own, and an underscore at the edge of a word. As a reference each stands for itself alone
# (CommonMark 0.31, section 2.5).
_MEANT = re.compile(r"[&<>`*\[\]|\\~#!@$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HEAD = ("cell", "device", "verdict", "metric", "effect, 95 % interval", "margin", "p slower", "p not slower", "pairs", "found with 80 %")


def markdown(report: CheckReport) -> str:
    """The summary; it begins and ends with an empty line, since it is put behind what stands in the file."""
    return "\n".join(("", *_lines(report), "", ""))


def _lines(report: CheckReport) -> Iterator[str]:
    yield f"## kdedge check: {report.state}"
    yield ""
    yield f"{_said(title_of_report(report))}: {_said(headline_of(report))}"
    yield ""
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{' --- |' * len(_HEAD)}"
    for cell in report.cells:
        yield from _rows(cell)
    yield from ("", *(f"- not compared: {_said(sentence)}" for sentence in report.missing)) if report.missing else ()
    for cell in report.cells:
        yield from _details(cell, alone=len(report.cells) == 1)


def _rows(cell: CheckedCell) -> Iterator[str]:
    verdict = cell.decisive.verdict
    named = (_said(title_of(cell)), _said(cell.device), f"**{cell.state}**")
    margin, found = share(verdict.rule.margin), share(verdict.detectable_after)
    if not verdict.tests:
        yield _row(*named, "-", "-", margin, "-", "-", str(len(verdict.counted)), found)
    for test in verdict.tests:
        figures = (METRICS[test.metric], str(test.effect), margin, f"{test.p_regressed:.2g}", f"{test.p_equivalent:.2g}", str(test.effect.n))
        yield _row(*named, *figures, found if test is verdict.tests[0] else "-")


def _details(cell: CheckedCell, alone: bool) -> Iterator[str]:
    verdict = cell.decisive.verdict
    if not alone:
        yield from ("", f"### {_said(title_of(cell))} on {_said(cell.device)}: {cell.state}", "", _said(reason_of(cell)))
    test = first_test(cell)
    drawn = text_plot(verdict, test) if test is not None else ()
    if drawn and test is not None:
        yield from ("", f"Slow-down of each pair by its {METRICS[test.metric]}:", "", "```text", *drawn, "```")
    said = [f"planned: {cell.decisive.plan}", *notes_of(cell)]
    if cell.state == "inconclusive" and verdict.pairs_needed is not None:
        said.insert(0, f"what would decide: {verdict.pairs_needed} pairs at this noise of {share(verdict.noise)}, or a wider margin")
    yield from ("", *(f"- {_said(sentence)}" for sentence in said))


def _row(*fields: str) -> str:
    return f"| {' | '.join(fields)} |"


def _said(text: str) -> str:
    """Text that means itself: no markup, no HTML, on one line."""
    return _MEANT.sub(lambda found: f"&#{ord(found[0])};", _INVISIBLE.sub(" ", text))
