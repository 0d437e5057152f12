"""What stages cost, kept apart from what they made: a time is a measurement, on which no key may depend.

WORKSPACE/seconds/NAME-KEY.json    how long the stage took when it was made, and whether that was in one go
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from kdedge.trained import TrainedLesson, TrainingCost
from kdedge.workspace import StageEvent, Workspace, explained

_FOLDER = "seconds"


def keep_seconds(workspace: Workspace, event: StageEvent) -> None:
    """Keep how long a stage took, if it was just made. The time of one that was taken up after a kill is not known, and is kept as such.

    Raises:
        WorkspaceError: the disk is full, or the workspace cannot be written.
    """
    if event.cached:
        return
    path = workspace.root / _FOLDER / f"{event.name.partition(' ')[0]}-{event.key}.json"
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with explained(workspace.root, "keep what a stage cost"):
        path.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps({"seconds": None if event.resumed else event.seconds}))
        partial.replace(path)


def seconds_of(workspace: Workspace, file: Path) -> float | None:
    """How long the stage took that wrote `file`; None where that is not known: it was interrupted, or made where nobody kept it."""
    stages = workspace.root / "stages"
    if not file.is_relative_to(stages):
        return None
    return _read(workspace.root / _FOLDER / f"{file.relative_to(stages).parts[0]}.json")


def cost_of(workspace: Workspace, name: str, courses: Sequence[Sequence[TrainedLesson]]) -> TrainingCost:
    """What the students of an arm cost, each with all the lessons that led to it, and what their teachers' answers cost, which they share."""
    seconds = [_sum([seconds_of(workspace, lesson.metrics) for lesson in course]) for course in courses]
    views = {view.manifest: None for course in courses for lesson in course for view in lesson.cache}
    asked = _sum([_read(manifest.with_name("cost.json")) for manifest in views]) if views else None
    return TrainingCost(name, tuple(seconds), asked)


def _sum(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _read(path: Path) -> float | None:
    try:
        found = json.loads(path.read_text())["seconds"]
    except (OSError, ValueError, LookupError, TypeError):  # not kept, or damaged
        return None
    return float(found) if isinstance(found, int | float) else None
