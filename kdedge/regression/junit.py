"""A check as JUnit XML, which every CI understands: regressed is a failure, invalid an error, inconclusive is skipped, all else passed.

The elements and attributes are those of the schema that Jenkins, GitLab and others read (https://github.com/testmoapp/junitxml), with the
properties of a test case in front of its outcome.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from kdedge.latency.verdicts import CheckVerdict, State
from kdedge.regression.checking import CheckedCell, CheckReport
from kdedge.regression.wording import CERTAIN, counts_of, lost_of, notes_of, reason_of, title_of, title_of_report

OUTCOMES: dict[State, str] = {"regressed": "failure", "invalid": "error", "inconclusive": "skipped"}
"""State -> the element that says so; a state without one has passed."""

# What XML 1.0 allows (section 2.2). The rest cannot be written even as a reference, so it is left out.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: CheckReport) -> str:
    """One suite, one test case a cell."""
    numbers = {
        "tests": str(len(report.cells) + len(report.lost)),
        "failures": _count(report, "regressed"),
        "errors": _count(report, "invalid"),
        "skipped": str(int(_count(report, "inconclusive")) + len(report.lost)),
        "time": f"{sum(_seconds(cell) for cell in report.cells):.3f}",
    }
    suites = Element("testsuites", {"name": "kdedge", **numbers})
    named = {"name": _clean(f"kdedge check {title_of_report(report)}"), "timestamp": f"{report.started:%Y-%m-%dT%H:%M:%S}"}
    suite = SubElement(suites, "testsuite", {**named, **numbers})
    settings = report.settings
    _add_properties(suite, {"margin": f"{settings.margin:g}", "alpha": f"{settings.alpha:g}", "seed": str(settings.seed)})
    for cell in report.cells:
        _add_case(suite, cell)
    for key in report.lost:
        case = SubElement(suite, "testcase", {"classname": "kdedge.check", "name": _clean(key), "time": "0.000"})
        SubElement(case, "skipped", {"message": _clean(lost_of([key]))})
    if report.missing:
        SubElement(suite, "system-out").text = _clean("\n".join(f"not compared: {sentence}" for sentence in report.missing))
    indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, encoding="unicode") + "\n"


def _add_case(suite: Element, cell: CheckedCell) -> None:
    named = {"classname": _clean(f"kdedge.check.{cell.device}"), "name": _clean(title_of(cell)), "time": f"{_seconds(cell):.3f}"}
    case = SubElement(suite, "testcase", named)
    _add_properties(
        case, {"state": cell.state, "device": cell.device, "adjusted_p": f"{cell.adjusted_p:.6g}", **dict(_figures(cell.decisive.verdict))}
    )
    reason = _clean(reason_of(cell))
    told = _clean("\n".join((reason_of(cell), *notes_of(cell))))
    if cell.state == "inconclusive":
        SubElement(case, OUTCOMES[cell.state], {"message": reason})
    elif cell.state in OUTCOMES:
        SubElement(case, OUTCOMES[cell.state], {"message": reason, "type": cell.state}).text = told
    SubElement(case, "system-out").text = told


def _figures(verdict: CheckVerdict) -> Iterator[tuple[str, str]]:
    """Effects in percent, all other shares as fractions, as in `--json`."""
    yield "margin", f"{verdict.rule.margin:g}"
    yield "pairs", str(len(verdict.counted))
    for name, value in (("noise", verdict.noise), ("detectable_before", verdict.detectable_before), ("detectable_after", verdict.detectable_after)):
        if value is not None and value < CERTAIN:
            yield name, f"{value:.6g}"
    for test in verdict.tests:
        yield f"{test.metric}.effect_percent", f"{test.effect.value:.6g}"
        if test.effect.interval is not None:
            low, high = test.effect.interval
            yield f"{test.metric}.low_percent", f"{low:.6g}"
            yield f"{test.metric}.high_percent", f"{high:.6g}"
        for name in ("p_regressed", "p_improved", "p_equivalent"):
            yield f"{test.metric}.{name}", f"{getattr(test, name):.6g}"


def _add_properties(parent: Element, values: dict[str, str]) -> None:
    properties = SubElement(parent, "properties")
    for name, value in values.items():
        SubElement(properties, "property", {"name": name, "value": _clean(value)})


def _count(report: CheckReport, state: State) -> str:
    return str(counts_of(report).get(state, 0))


def _seconds(cell: CheckedCell) -> float:
    return cell.first.seconds + (cell.again.seconds if cell.again else 0.0)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("", text)
