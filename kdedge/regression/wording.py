"""What every output of a check says of a cell in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from kdedge.latency.pairs import MEDIAN, P90, Metric
from kdedge.latency.verdicts import MetricTest, State
from kdedge.regression.checking import CheckedCell, CheckReport

CERTAIN = 1e6
"""A slow-down beyond this (a fraction) stands for none that can be found."""
METRICS: dict[Metric, str] = {MEDIAN: "median latency", P90: "p90 latency"}


def title_of(cell: CheckedCell) -> str:
    """What was checked: its key in the run, or the candidate's name where it is alone."""
    return cell.key or cell.decisive.candidate.name


def title_of_report(report: CheckReport) -> str:
    """What was compared with what, without the folders in front."""
    return f"{PurePath(report.candidate).name or report.candidate} against {PurePath(report.baseline).name or report.baseline}"


def reason_of(cell: CheckedCell) -> str:
    """Why the cell is in its state. Where the family of cells or a second measurement changed what one run said, that comes first."""
    verdict = cell.decisive.verdict
    return f"{cell.notes[-1]}; {verdict.reason}" if cell.notes and cell.state != verdict.state else verdict.reason


def headline_of(report: CheckReport) -> str:
    """The sentence that stands under the verdict of all cells."""
    if len(report.cells) == 1:
        return "; ".join([*([lost_of(report.lost)] if report.lost else []), reason_of(report.cells[0])])
    return f"{len(report.cells)} cells: {spoken_counts(report)}"


def lost_of(keys: Sequence[str]) -> str:
    """What is said of artifacts that only the baseline has."""
    return f"the candidate has no {', '.join(keys)}, which the baseline has"


def spoken_counts(report: CheckReport) -> str:
    """How many cells are in each state, and how many were lost: "2 equivalent, 1 lost"."""
    counts = [f"{count} {state}" for state, count in counts_of(report).items()]
    return ", ".join([*counts, *([f"{len(report.lost)} lost"] if report.lost else [])])


def counts_of(report: CheckReport) -> dict[State, int]:
    """How many cells are in each state, for the states that occur."""
    return {state: sum(cell.state == state for cell in report.cells) for state in dict.fromkeys(cell.state for cell in report.cells)}


def notes_of(cell: CheckedCell) -> tuple[str, ...]:
    """What else is to be known, each once."""
    made_up = ("the device is simulated: its times are made up",) if cell.kind == "simulated" else ()
    return tuple(dict.fromkeys((*made_up, *cell.notes, *cell.decisive.verdict.notes)))


def first_test(cell: CheckedCell) -> MetricTest | None:
    """The metric that the verdict is about: the one that regressed, else the first; None where nothing was tested."""
    tests = cell.decisive.verdict.tests
    return next((test for test in tests if test.state == "regressed"), tests[0] if tests else None)


def share(fraction: float | None) -> str:
    """A fraction in percent; a dash where it is unknown or no number of pairs would do."""
    return "-" if fraction is None or not abs(fraction) < CERTAIN else f"{100 * fraction:.3g} %"
