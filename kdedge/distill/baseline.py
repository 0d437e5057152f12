"""The same student without anybody to learn from but the labels, at the same cost: what distillation has to beat. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kdedge.distill.lessons import merged
from kdedge.distill.spec import TermSpec
from kdedge.distill.terms import terms_of
from kdedge.recipe import DistillSection, StageSection

# What a loss asks for that comes from another model.
_OTHERS = ("teacher_", "peer_")
_WHEN = ("start", "stop")


def baseline(section: DistillSection) -> DistillSection:
    """The `distill` section of the student that learns alone: same epochs, batches, optimizer, schedule and augmented views, stage by stage.

    Of the losses those stay that compare with nobody; each counts through the whole run, by its share of their mean weights over the run, so
    that their weights sum to 1 (where none stays: `ce: 1`). It learns from the labelled training data, and from whole examples.

    Raises:
        RecipeError: losses that are wrong.
    """
    alone: dict[str, Any] = {"assistants": (), "peers": (), "generations": None, "learn_from": "train", "mixup": False}
    stages = tuple(_stage(section, stage, number) for number, stage in enumerate(section.stages))
    return section.model_copy(update={**alone, "stages": stages, "losses": _losses(section, "distill.losses")})


def _stage(section: DistillSection, stage: StageSection, number: int) -> StageSection:
    losses = _losses(merged(section, stage), f"distill.stages[{number}].losses")
    said = {name: getattr(stage, name) for name in stage.model_fields_set if name not in ("learn_from", "mixup")}
    return StageSection.model_validate({**said, "losses": losses})


def _losses(section: DistillSection, key: str) -> tuple[dict[str, Any], ...]:
    terms = terms_of(section, True, key)
    kept = [(entry, term) for entry, term in zip(section.losses, terms, strict=True) if not any(name.startswith(_OTHERS) for name in term.asked)]
    total = sum(_mean_weight(term) for _, term in kept)
    if total <= 0:
        return ({"ce": 1.0},)
    return tuple(_alone(entry, term, total) for entry, term in kept if _mean_weight(term) > 0)


def _alone(entry: Mapping[str, Any], term: TermSpec, total: float) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in _WHEN} | {term.name: _mean_weight(term) / total}


def _mean_weight(term: TermSpec) -> float:
    """A term's weight averaged over the whole run; straight lines between the points of its schedule."""
    inside = [place for place, _ in term.weight.points if term.start < place < term.stop]
    places = [term.start, *inside, term.stop]
    pieces = [(right - left) * (term.weight.at(left) + term.weight.at(right)) / 2 for left, right in pairwise(places)]
    return sum(pieces)
