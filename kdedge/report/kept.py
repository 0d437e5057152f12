"""What was kept of the teacher in each training run, as plain figures for people and machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge.trained import CachedView, TrainedLesson


@dataclass(frozen=True)
class Kept:
    """What one training run took from what was kept.

    `hit_rate`: the share of the teacher's answers, over all epochs that ask it, that were read instead of asked. `seconds`: what asking took,
    when it was done; None where that is not known any more. `bytes`: on disk. All are zero, and `reason` says why, where nothing was kept.
    """

    label: str
    use: bool
    reason: str
    views: int = 0
    epochs: int = 0
    bytes: int = 0
    seconds: float | None = None
    hit_rate: float = 0.0
    teacher_ms: float = 0.0
    read_ms: float = 0.0


def kept_in(lessons: Sequence[TrainedLesson]) -> tuple[Kept, ...]:
    """Of each training run that had a teacher, in their order."""
    return tuple(_kept(lesson) for lesson in lessons if lesson.choice is not None)


def kept_json(lessons: Sequence[TrainedLesson]) -> list[dict[str, Any]]:
    """The same for machines: an object a training run."""
    return [
        {
            "lesson": one.label,
            "use": one.use,
            "reason": one.reason,
            "views": one.views,
            "bytes": one.bytes,
            "seconds": one.seconds,
            "hit_rate": one.hit_rate,
            "teacher_ms": one.teacher_ms,
            "read_ms": one.read_ms,
        }
        for one in kept_in(lessons)
    ]


def cost_file(view: CachedView) -> Path:
    """Where it stands what a view cost: beside its manifest."""
    return view.manifest.with_name("cost.json")


def _kept(lesson: TrainedLesson) -> Kept:
    choice = lesson.choice
    assert choice is not None
    if not lesson.cache:
        return Kept(lesson.label, False, choice.reason, teacher_ms=choice.teacher_ms, read_ms=choice.read_ms)
    costs = [_cost(view) for view in lesson.cache]
    seconds = [cost["seconds"] for cost in costs if cost is not None]
    return Kept(
        lesson.label,
        True,
        choice.reason,
        views=len(lesson.cache),
        epochs=choice.epochs,
        bytes=sum(cost["bytes"] for cost in costs if cost is not None) or choice.view_bytes * len(lesson.cache),
        seconds=sum(seconds) if len(seconds) == len(costs) else None,
        hit_rate=max(0.0, 1 - len(lesson.cache) / choice.epochs) if choice.epochs else 0.0,
        teacher_ms=choice.teacher_ms,
        read_ms=choice.read_ms,
    )


def _cost(view: CachedView) -> dict[str, Any] | None:
    try:
        found = json.loads(cost_file(view).read_text())
        return {"seconds": float(found["seconds"]), "bytes": int(found["bytes"])}
    except (OSError, ValueError, LookupError, TypeError):  # removed since, to make room
        return None
