"""The part of the report that says what the teacher cost, and what was saved by keeping what it said."""

from __future__ import annotations

from kdedge.report import figures
from kdedge.report.kept import Kept, kept_in
from kdedge.report.layout import Block, Bullets, Section, Table, TableCell
from kdedge.report.result import RunResult


def teacher_cost(result: RunResult) -> Section | None:
    """A row a training run that read its teacher's answers; a sentence for each that asked it in every step."""
    found = kept_in(result.training)
    if not found:
        return None
    lead = (
        "Kept answers: the teacher is asked once about each view of the training examples, and what it said is read back in every epoch. Read "
        "instead of asked: of all answers over the epochs. Time to ask: when it was done, which may have been in an earlier run."
    )
    blocks: list[Block] = []
    if kept := [one for one in found if one.use]:
        head = ("training", "views", "on disk", "time to ask", "read instead of asked", "teacher, an example", "reading, an example", "why")
        blocks.append(Table(head, tuple(_row(one) for one in kept)))
    if anew := [one for one in found if not one.use]:
        blocks.append(Bullets(tuple(f"{_named(one)}: the teacher is asked anew in every step: {one.reason}" for one in anew)))
    return Section("teacher-cost", "What the teacher cost", lead, tuple(blocks))


def lines(result: RunResult) -> list[str]:
    """The same for a terminal, a line a training run that has several views or read its only one; equal lines once."""
    with_views = [lesson for lesson in result.training if lesson.views is not None and (lesson.views > 1 or lesson.cache)]
    found = kept_in(with_views)
    return list(dict.fromkeys(_line(one, several=len(found) > 1) for one in found))


def _line(one: Kept, several: bool) -> str:
    start = f"teacher in {_named(one)}" if several and one.label else "teacher"
    if not one.use:
        return f"{start}: asked anew in every step: {one.reason}"
    asked = "" if one.seconds is None else f", asked in {_seconds(one.seconds)}"
    views = f"{one.views} view{'s' if one.views != 1 else ''}"
    return f"{start}: answers about {views} kept, {figures.size(one.bytes)}{asked}; {one.hit_rate:.0%} of its answers were read instead of asked"


def _row(one: Kept) -> tuple[TableCell, ...]:
    return (
        TableCell(_named(one)),
        TableCell(f"{one.views}", f"{one.epochs} epochs"),
        TableCell(figures.size(one.bytes)),
        TableCell("-" if one.seconds is None else _seconds(one.seconds)),
        TableCell(f"{one.hit_rate:.1%}"),
        TableCell(f"{one.teacher_ms:.3g} ms"),
        TableCell(f"{one.read_ms:.3g} ms"),
        TableCell(one.reason, kind="prose"),
    )


def _named(one: Kept) -> str:
    return one.label or "the student"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
