"""The task's metric, one number an example, and the checks that make outputs comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import KdedgeError, ModelError
from kdedge.tasks.contract import Task

Array = npt.NDArray[Any]


def task_scores(task: Task, outputs: Mapping[str, Array], labels: Array) -> npt.NDArray[np.float64]:
    """The task's metric for each example, float64 [n].

    Raises:
        KdedgeError: the task's `score` does not give one number an example under the name of its metric.
    """
    scores = task.score(outputs, labels)
    if task.metric not in scores:
        raise KdedgeError(f"task `{task.name}`: score() gave {', '.join(scores) or 'nothing'}, but its metric is `{task.metric}`")
    found = np.asarray(scores[task.metric], dtype=np.float64)
    if found.shape != (len(labels),):
        raise KdedgeError(f"task `{task.name}`: score() gave `{task.metric}` of shape {list(found.shape)} for {len(labels)} examples")
    return found


def checked_logits(logits: Array, who: str, size: int) -> Array:
    """The logits, if they are [size, C] and finite: a NaN has no top class, and everything computed from it would be noise.

    Raises:
        ModelError: another shape, or numbers that are not finite; says how many and where the first is.
    """
    if logits.ndim != 2 or len(logits) != size:
        raise ModelError(f"{who}: the logits have shape {list(logits.shape)}; {size} examples need [{size}, number of classes]")
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if broken.size:
        raise ModelError(
            f"{who}: the logits of {broken.size} of {size} examples hold NaN or infinity, the first those of example {broken[0]} (from 0)"
        )
    return logits
