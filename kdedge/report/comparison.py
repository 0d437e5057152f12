"""The part of the report that says what the teacher was worth: several seeds, with and without it."""

from __future__ import annotations

from collections.abc import Sequence

from kdedge.estimate import FRACTION
from kdedge.report import figures
from kdedge.report.layout import Block, Prose, Section, Table, TableCell
from kdedge.report.result import RunResult
from kdedge.trained import ArmScores, Comparison, TrainingCost

_SECONDS = ((3600.0, "h"), (60.0, "min"), (0.0, "s"))


def comparison(result: RunResult) -> Section | None:
    """A row an arm with mean, spread and cost, the difference of each seed, and whether it is proven."""
    found = result.comparison
    if found is None:
        return None
    lead = (
        f"Students that differ in their training seed, on the same {found.examples:,} test examples, which were opened once, after all training. The "
        "last epoch counts: it is what ships. The best epoch was chosen on the test data, so it promises more than a student keeps. Small print: "
        "95 % intervals by Student's t over seeds; they speak of other seeds on these examples, not of other examples."
    )
    blocks: list[Block] = [_arms(found, result.costs)]
    blocks += [_seeds(found)] if len(found.arms) > 1 else []
    return Section("comparison", "What the teacher was worth", lead, (*blocks, Prose((found.reason, _cost_note(result.costs)))))


def lines(result: RunResult) -> list[str]:
    """The comparison in a few lines, for a terminal."""
    found = result.comparison
    if found is None:
        return []
    spent = {cost.name: cost for cost in result.costs}
    said = []
    for arm in found.arms:
        took = _mean_time(spent.get(arm.name))
        about = [f"{found.metric} {arm.last} over {len(arm.seeds)} seeds", f"sd {_spread(found, arm)}", f"range {_range(found, arm)}"]
        about += [f"best epoch, chosen on the test data: {figures.split(arm.best)[0]}"]
        said.append(f"{arm.name}: {', '.join(about)}" + (f", training {took}" if took != "-" else ""))
    return [*said, found.reason]


def _arms(found: Comparison, costs: Sequence[TrainingCost]) -> Table:
    spent = {cost.name: cost for cost in costs}
    head = (
        "students",
        f"{found.metric}, last epoch",
        "sd over seeds",
        "range",
        "best epoch (optimistic)",
        "training, each",
        "teacher's answers, once",
    )
    return Table(head, tuple(_arm(found, arm, spent.get(arm.name)) for arm in found.arms))


def _arm(found: Comparison, arm: ArmScores, cost: TrainingCost | None) -> tuple[TableCell, ...]:
    return (
        TableCell(arm.name, f"{len(arm.seeds)} seeds"),
        TableCell(*figures.split(arm.last)),
        TableCell(_spread(found, arm)),
        TableCell(_range(found, arm)),
        TableCell(*figures.split(arm.best)),
        TableCell(_mean_time(cost)),
        TableCell("-" if cost is None or cost.teacher_seconds is None else _time(cost.teacher_seconds)),
    )


def _seeds(found: Comparison) -> Table:
    first, second = found.arms[:2]
    head = ("seed", f"{first.name}, last", f"{second.name}, last", "difference", f"{first.name}, best", f"{second.name}, best")
    rows = [
        (
            TableCell(str(one.seed)),
            TableCell(_number(found, one.last)),
            TableCell(_number(found, other.last)),
            TableCell(_difference(found, difference)),
            TableCell(_number(found, one.best), f"epoch {one.best_epoch} of {len(one.epochs)}"),
            TableCell(_number(found, other.best), f"epoch {other.best_epoch} of {len(other.epochs)}"),
        )
        for one, other, difference in zip(first.seeds, second.seeds, found.differences, strict=True)
    ]
    assert found.gain is not None
    mean = TableCell(*figures.split(found.gain.in_points), badge="" if found.decided else "inconclusive")
    last = (TableCell("mean"), *(TableCell(figures.split(arm.last)[0]) for arm in (first, second)), mean)
    return Table(head, (*rows, (*last, *(TableCell(figures.split(arm.best)[0]) for arm in (first, second)))))


def _cost_note(costs: Sequence[TrainingCost]) -> str:
    broken = sum(seconds is None for cost in costs for seconds in cost.seconds)
    note = "Training times are those of the machine that trained, with all models on the way to a student; a teacher's own training is not in them."
    return f"{note} Of {broken} students the time is not known: their training was interrupted." if broken else note


def _share(found: Comparison) -> bool:
    return found.arms[0].last.unit == FRACTION


def _number(found: Comparison, value: float) -> str:
    return f"{100 * value:.2f} %" if _share(found) else f"{value:.4g}"


def _difference(found: Comparison, value: float) -> str:
    return f"{100 * value:+.2f} points" if _share(found) else f"{value:+.4g}"


def _spread(found: Comparison, arm: ArmScores) -> str:
    return "-" if arm.deviation is None else _number(found, arm.deviation)


def _range(found: Comparison, arm: ArmScores) -> str:
    low, high = arm.range
    return f"{_number(found, low)} to {_number(found, high)}"


def _mean_time(cost: TrainingCost | None) -> str:
    known = [seconds for seconds in cost.seconds if seconds is not None] if cost else []
    return _time(sum(known) / len(known)) if known else "-"


def _time(seconds: float) -> str:
    size, unit = next((size, unit) for size, unit in _SECONDS if seconds >= size)
    return f"{seconds / (size or 1.0):.1f} {unit}"
