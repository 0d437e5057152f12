"""Kinds of problem. `TASKS` names them; each is an implementation of `kdedge.tasks.contract.Task`."""

from __future__ import annotations

TASKS: dict[str, str] = {
    "image-classification": "kdedge.tasks.image_classification:TASK",
    "text-classification": "kdedge.tasks.text_classification:TASK",
}
