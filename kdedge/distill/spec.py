"""How a training run is described between recipe and trainer. Light: nothing here imports torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.distill.losses import LOSSES
from kdedge.distill.signature import Signature, signature_of
from kdedge.errors import RecipeError
from kdedge.models.spec import ModelSpec
from kdedge.recipe import DistillSection, TrainSection

# What a loss may ask for by the names of its arguments, besides `student_OUTPUT` and `teacher_OUTPUT` for any output of the models.
PLAIN_TENSORS = ("labels", "label_losses")
# A division by these follows; the sign is checked here because a teacher may train for hours before the loss is first called.
_POSITIVE = ("temperature",)


@dataclass(frozen=True)
class TermSpec:
    """One term of the loss: what it is called in logs, its function, its weight, and the function's parameters.

    `tensors` are the arguments that the training step hands in: `student_logits`, `teacher_logits`, `labels`, `label_losses` (the task's
    label loss, [N]), and `student_OUTPUT` / `teacher_OUTPUT` for any other output.
    """

    name: str
    function: ImportPath
    weight: float
    tensors: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return any(name.startswith("teacher_") for name in self.tensors)


@dataclass(frozen=True)
class TrainingSpec:
    """A training run: the recipe's section, its loss terms, and the names of the augmentations (of the recipe's `data` section)."""

    section: TrainSection
    terms: tuple[TermSpec, ...]
    augment: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherSpec:
    """A member of the teacher: its model, how it is trained (None: its weights are given), and what it counts in the ensemble."""

    model: ModelSpec
    training: TrainingSpec | None = None
    weight: float = 1.0


def training_spec(section: TrainSection, *, has_teacher: bool = False, augment: tuple[str, ...]) -> TrainingSpec:
    """A section of the recipe with its losses looked up and checked. `augment` is what the recipe's `data` section names.

    Raises:
        RecipeError: as `terms_of`.
    """
    return TrainingSpec(section, terms_of(section, has_teacher), augment)


def terms_of(section: TrainSection, has_teacher: bool) -> tuple[TermSpec, ...]:
    """The terms that `losses` of a section names: `{NAME: weight, parameter: value, ...}`, NAME from `LOSSES` or `module:function`.

    Raises:
        RecipeError: an unknown loss or parameter (with the nearest known one), a value of the wrong type, or a term that needs a teacher
            where there is none. The message starts with the recipe's key (`distill.losses[1].temperature`).
    """
    losses = "distill.losses" if isinstance(section, DistillSection) else "teacher.train.losses"
    if not section.losses:
        raise RecipeError(f"{losses}: is empty, so there is nothing to learn (allowed: {_known_losses()})")
    terms: list[TermSpec] = []
    for index, entry in enumerate(section.losses):
        key = f"{losses}[{index}]"
        term = _term(entry, key)
        if term.needs_teacher and not has_teacher:
            raise RecipeError(f"{key}: `{term.name}` compares with a teacher, and there is none here (without one: {_without_teacher()})")
        if term.name in {earlier.name for earlier in terms}:
            raise RecipeError(f"{key}: `{term.name}` is there already: give each loss once, with the sum of its weights")
        terms.append(term)
    if not any(term.weight > 0 for term in terms):
        raise RecipeError(f"{losses}: every weight is 0, so there is nothing to learn")
    return tuple(terms)


def _term(entry: Mapping[str, Any], key: str) -> TermSpec:
    name = _loss_name(entry, key)
    function = ImportPath(LOSSES.get(name, name))
    try:
        signature = signature_of(function)
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error
    _check_tensors(signature, name, key)
    parameters = {parameter: value for parameter, value in entry.items() if parameter != name}
    for parameter, value in parameters.items():
        if parameter not in signature.parameters:
            raise RecipeError(
                f"{key}.{parameter}: unknown key{_nearest(parameter, signature.parameters)} (allowed: {_listed((name, *signature.parameters))})"
            )
        _check_value(f"{key}.{parameter}", parameter, value, signature.parameters[parameter])
    return TermSpec(name, function, _weight(entry[name], f"{key}.{name}"), signature.tensors, parameters)


def _loss_name(entry: Mapping[str, Any], key: str) -> str:
    names = [name for name in entry if name in LOSSES or ":" in name]
    if len(names) == 1:
        return names[0]
    if names:
        raise RecipeError(f"{key}: names {len(names)} losses ({_listed(names)}); an entry holds one loss, its weight and its parameters")
    if not entry:
        raise RecipeError(f"{key}: is empty; an entry looks like {{kd: 9.0, temperature: 2}} (allowed: {_known_losses()})")
    found = next(iter(entry))
    raise RecipeError(f"{key}.{found}: unknown loss{_nearest(found, LOSSES)} (allowed: {_known_losses()})")


def _check_tensors(signature: Signature, name: str, key: str) -> None:
    for tensor in signature.tensors:
        if tensor not in PLAIN_TENSORS and not tensor.startswith(("student_", "teacher_")):
            raise RecipeError(
                f"{key}: `{name}` asks for `{tensor}`, which no training step has: an argument without a default is one of "
                f"student_OUTPUT, teacher_OUTPUT (such as student_logits), {_listed(PLAIN_TENSORS)}; give any other a default"
            )


def _check_value(key: str, name: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        expected, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        expected, fits = "a number", _is_number(value)
    elif isinstance(default, str):
        expected, fits = "a text", isinstance(value, str)
    else:
        return
    if not fits:
        raise RecipeError(f"{key}: must be {expected} (as the default, {default!r}), not {value!r}")
    if name in _POSITIVE and value <= 0:
        raise RecipeError(f"{key}: must be greater than 0, not {value!r}")


def _weight(value: Any, key: str) -> float:
    if not _is_number(value) or value < 0:
        raise RecipeError(f"{key}: a weight is a number of at least 0, not {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _known_losses() -> str:
    return f"{_listed(LOSSES)}, or your own as module:function"


def _without_teacher() -> str:
    return _listed(
        name for name, path in LOSSES.items() if not any(tensor.startswith("teacher_") for tensor in signature_of(ImportPath(path)).tensors)
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _nearest(name: str, allowed: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean `{found[0]}`?" if found else ""
