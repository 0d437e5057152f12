"""How a recipe names layers, and how a loss asks for what they give. Light: nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdedge.errors import RecipeError

# What a loss may ask for by `student_FORM` and `teacher_FORM`, one pair of layers at a time: the tensor, its mean over space or tokens, and
# its attention map. `features` are the tensors of all pairs at once.
FORMS = ("feature", "pooled", "attention")
ALL_PAIRS = "features"
_PATH = re.compile(r"(?P<module>[^\[\]\s]+)(\[(?P<element>\d+)\])?")


@dataclass(frozen=True)
class TapPath:
    """A layer: its dotted name in the model, and which element of what it gives where that is a tuple (`attention.self[1]`)."""

    module: str
    element: int | None = None


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and the layer of the teacher that it is compared with (None: the loss looks at the student alone)."""

    student: str
    teacher: str | None = None


def read_path(text: str) -> TapPath:
    """`layer1`, `layers.0.attention`, or `encoder.layer.0.attention.self[1]` for the second element of a tuple.

    Raises:
        RecipeError: the text is none of these.
    """
    match = _PATH.fullmatch(text)
    if match is None:
        raise RecipeError(f"`{text}` is no layer: write its dotted name, with [1] for the second element where it gives a tuple")
    return TapPath(match["module"], None if match["element"] is None else int(match["element"]))


def read_pairs(value: Any, key: str, *, with_teacher: bool) -> tuple[LayerPair, ...]:
    """The pairs that `layers` of a loss names: {STUDENT: TEACHER, ...}, or names that both models have.

    Raises:
        RecipeError: it names no layer, or not one a place; `key` is the recipe's.
    """
    names = [value] if isinstance(value, str) else value
    entries = list(names.items()) if isinstance(names, Mapping) else [(name, name) for name in names] if isinstance(names, list | tuple) else []
    if not entries or not all(isinstance(name, str) for entry in entries for name in entry):
        raise RecipeError(
            f"{key}: must name layers, as {{layer1: layer2}} (student: teacher) or [layer1, layer3] where both call them so, not {value!r}"
        )
    for entry in entries:
        for name in entry:
            try:
                read_path(name)
            except RecipeError as error:
                raise RecipeError(f"{key}: {error}") from error
    return tuple(LayerPair(student, teacher if with_teacher else None) for student, teacher in entries)
