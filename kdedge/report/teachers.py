"""The part of the report that says whether several teachers are worth more than the best of them."""

from __future__ import annotations

from kdedge.artifact import TeacherFiles
from kdedge.measured import EnsembleScores
from kdedge.report import figures
from kdedge.report.layout import Block, Prose, Section, Table, TableCell
from kdedge.report.result import RunResult


def teachers(result: RunResult) -> Section | None:
    """A row a member and one for all of them together; nothing where there is one teacher."""
    ensemble, teacher = result.references.ensemble, result.teacher
    if ensemble is None or teacher is None:
        return None
    rows = [_member(place, teacher, ensemble) for place in range(len(teacher.members))]
    together = TableCell(*figures.split(result.references.scores.get("teacher")))
    change = TableCell(*figures.split(ensemble.difference))
    rows.append((TableCell("all together"), TableCell("-"), TableCell("-"), together, change, TableCell(_changed(ensemble))))
    lead = (
        "The members of the teacher, and what they say together: the mean of their probabilities by weight, each member's logits divided by its "
        "temperature first. Compared on the same test examples, on which the best member was picked as well. p: McNemar's exact test."
    )
    head = ("teacher", "weight", "temperature", result.task_metric, "against the best member", "gained / lost, p")
    warned = warning(result)
    blocks: list[Block] = [Prose((f"Warning: {warned}.",))] if warned else []
    return Section("teachers", "Teachers", lead, (*blocks, Table(head, tuple(rows))))


def warning(result: RunResult) -> str:
    """What to know, and to do, where the ensemble is not better than its best member or was not shown to be; "" where it is."""
    ensemble, teacher = result.references.ensemble, result.teacher
    if ensemble is None or teacher is None or ensemble.better:
        return ""
    best = f"`{name_of(teacher, ensemble.best)}`"
    difference = f"{figures.interval(ensemble.difference)} on {ensemble.difference.n:,} test examples{_p(ensemble)}"
    cost = f"{len(teacher.members)} teachers are asked where one would do"
    if ensemble.better is None and ensemble.difference.value > 0:
        return (
            f"it is not proven that the teachers together beat the best of them, {best}: {difference}; {cost}: keep them if more test examples "
            "prove a gain, else leave all but that one out of `teacher`"
        )
    return (
        f"the teachers together are not better than the best of them, {best}: {difference}; {cost}: leave the others out of `teacher`, raise the "
        "`weight` of the best, or add a teacher that errs on other examples"
    )


def name_of(teacher: TeacherFiles, place: int) -> str:
    """A member by name, and by number where another has the same name."""
    name = teacher.members[place].name
    alone = sum(member.name == name for member in teacher.members) == 1
    return name if alone else f"{name} ({place + 1} of {len(teacher.members)})"


def _member(place: int, teacher: TeacherFiles, ensemble: EnsembleScores) -> tuple[TableCell, ...]:
    temperature, places = teacher.readings[place]
    notes = [f"{len(places)} of its {len(teacher.members[place].classes)} classes"] if places else []
    notes += ["the best member"] if place == ensemble.best else []
    return (
        TableCell(name_of(teacher, place), ", ".join(notes)),
        TableCell(f"{teacher.weights[place]:.3g}"),
        TableCell(f"{temperature:g}"),
        TableCell(*figures.split(ensemble.members[place])),
        TableCell("-"),
        TableCell("-"),
    )


def _changed(ensemble: EnsembleScores) -> str:
    return f"{ensemble.gained} / {ensemble.lost}{_p(ensemble)}"


def _p(ensemble: EnsembleScores) -> str:
    return "" if ensemble.p_value is None else f", p = {ensemble.p_value:.2g}"
