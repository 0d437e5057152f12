"""What `tune` searches through: from drawn numbers to a recipe's `losses`, and the ones that are tried first. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.distill.losses import LOSSES
from kdedge.distill.schedule import is_number, read_schedule
from kdedge.distill.signature import signature_of
from kdedge.errors import RecipeError
from kdedge.recipe import DistillSection

Entries = tuple[dict[str, Any], ...]

SEARCHED = ("kd", "dkd", "dist")
"""Losses on logits alone, between which the search chooses."""
LOSS, ALPHA, TEMPERATURE, STANDARDIZE, BETA = "loss", "alpha", "temperature", "standardize", "beta"
# Alpha is the teacher's weight over the labels'. Published settings reach from 1 (DKD) to 90 (standardised KD, 9 beside 0.1).
ALPHAS, TEMPERATURES = (0.3, 300.0), (1.0, 20.0)
# DKD's weight of the other classes over the label, of which the best depends on the pair of networks most of all: its authors' reach from 0.5 to 8.
BETAS = (0.5, 16.0)
OWN = "the recipe's own"
_LABELS = "ce"
# Of `distill.losses`' default: what labels weigh where the recipe gives them no plain weight.
_USUAL_LABEL_WEIGHT = 0.1

# DKD's authors raise its weight from 0 over 20 of 240 epochs: beta magnifies what a student gets wrong that is still random.
_WARM_UP = "0.0833"


def _weighed(name: str, weight: float) -> float | dict[str, float]:
    """The weight of a loss as its authors use it: a number, or one that is raised at the beginning."""
    return {"0": 0.0, _WARM_UP: weight} if is_balanced(name) else weight


def is_balanced(name: str) -> bool:
    """Whether a loss weighs the other classes over the label by a beta. (DIST's is another: of its two parts.)"""
    return name == "dkd"


PUBLISHED: dict[str, Entries] = {
    "KD": ({"ce": 0.1}, {"kd": 0.9, "temperature": 4.0}),
    "KD, standardised": ({"ce": 0.1}, {"kd": 9.0, "temperature": 2.0, "standardize": True}),
    "DKD": ({"ce": 1.0}, {"dkd": _weighed("dkd", 1.0), "temperature": 4.0, "alpha": 1.0, "beta": 8.0}),
    "DKD for small networks": ({"ce": 1.0}, {"dkd": _weighed("dkd", 1.0), "temperature": 4.0, "alpha": 1.0, "beta": 2.0}),
    "DIST": ({"ce": 1.0}, {"dist": 2.0, "temperature": 4.0}),
}
"""The settings that the losses' authors publish for CIFAR (Hinton 2015 as CRD's repository sets it; Sun 2024; Zhao 2022; Huang 2022)."""


@dataclass(frozen=True)
class Candidate:
    """Losses to try: what they are called, the entries of the recipe, and the drawn numbers that give them (empty where none do)."""

    origin: str
    losses: Entries
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Space:
    """What is searched around a recipe: what labels weigh, the entries that every candidate keeps (layers, peers), and further parameters of
    the recipe's own loss, which its candidates keep too."""

    label_weight: float
    kept: Entries
    extras: dict[str, dict[str, Any]]

    def losses(self, drawn: Mapping[str, Any]) -> Entries:
        """The entries for drawn numbers."""
        name = drawn[LOSS]
        entry: dict[str, Any] = {name: _weighed(name, _short(drawn[ALPHA] * self.label_weight)), TEMPERATURE: _short(drawn[TEMPERATURE])}
        if BETA in drawn:
            entry[BETA] = _short(drawn[BETA])
        if STANDARDIZE in drawn:
            entry[STANDARDIZE] = drawn[STANDARDIZE]
        return ({_LABELS: self.label_weight}, {**entry, **self.extras.get(name, {})}, *self.kept)

    def first(self, own: Entries) -> tuple[Candidate, ...]:
        """What is tried before anything is drawn: the recipe's own losses, then the published ones, each once."""
        found = [Candidate(OWN, own, self.drawn(own))]
        found += [Candidate(f"published: {name}", (*losses, *self.kept), self.drawn(losses)) for name, losses in PUBLISHED.items()]
        return tuple(one for place, one in enumerate(found) if one.losses not in [earlier.losses for earlier in found[:place]])

    def drawn(self, losses: Entries) -> dict[str, Any]:
        """The numbers that stand for given entries, from which the search can learn; empty where the space has none for them."""
        labels, taught = _entry(losses, (_LABELS,)), _entry(losses, SEARCHED)
        if labels is None or taught is None or not is_number(labels[_LABELS]) or labels[_LABELS] <= 0:
            return {}
        name = next(name for name in SEARCHED if name in taught)
        defaults = signature_of(ImportPath(LOSSES[name])).parameters
        weight, temperature = read_schedule(taught[name], name).points[-1][1], taught.get(TEMPERATURE, defaults[TEMPERATURE])
        if taught[name] != _weighed(name, weight) or not is_number(temperature):
            return {}
        alpha = weight / labels[_LABELS]
        if not (ALPHAS[0] <= alpha <= ALPHAS[1] and TEMPERATURES[0] <= temperature <= TEMPERATURES[1]):
            return {}
        found = {LOSS: name, ALPHA: float(alpha), TEMPERATURE: float(temperature)}
        if is_balanced(name):
            beta = taught.get(BETA, defaults[BETA])
            if not (is_number(beta) and BETAS[0] <= beta <= BETAS[1]):
                return {}
            found[BETA] = float(beta)
        return {**found, STANDARDIZE: taught.get(STANDARDIZE, defaults[STANDARDIZE])} if standardizes(name) else found


def standardizes(name: str) -> bool:
    """Whether a loss can be asked to standardise the logits."""
    return STANDARDIZE in signature_of(ImportPath(LOSSES[name])).parameters


def space_around(section: DistillSection) -> Space:
    """The space for a recipe's `distill` section: all of its losses stay but `ce` and those on logits that the search replaces.

    Raises:
        RecipeError: a section whose losses cannot be searched: without labels, or with several runs one after the other.
    """
    _check(section)
    labels, taught = _entry(section.losses, (_LABELS,)), _entry(section.losses, SEARCHED)
    weight = labels[_LABELS] if labels is not None and is_number(labels[_LABELS]) and labels[_LABELS] > 0 else _USUAL_LABEL_WEIGHT
    kept = tuple(entry for entry in section.losses if _LABELS not in entry and not _on_logits_alone(entry))
    name = next((name for name in SEARCHED if taught is not None and name in taught), None)
    searched = (name, TEMPERATURE, STANDARDIZE, *([BETA] if name is not None and is_balanced(name) else []))
    extras = {name: {key: value for key, value in taught.items() if key not in searched}} if name is not None and taught is not None else {}
    return Space(float(weight), kept, extras)


def _check(section: DistillSection) -> None:
    for key, given in (("stages", section.stages), ("generations", section.generations), ("assistants", section.assistants)):
        if given:
            raise RecipeError(f"distill.{key}: the search is for the losses of one training run with one teacher: remove {key} and tune that one")
    if section.learn_from == "unlabelled":
        raise RecipeError("distill.learn_from: the search weighs teacher against labels, and unlabelled examples have none: tune on `train`")
    if section.mixup:
        raise RecipeError("distill.mixup: the search weighs teacher against labels, and a mixture of two examples has none: tune without it")


def _on_logits_alone(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a loss of kdedge's that compares with the teacher's logits and looks at nothing else of it."""
    name = next((name for name in entry if name in LOSSES), None)
    if name is None:
        return False
    asked = [tensor for tensor in signature_of(ImportPath(LOSSES[name])).tensors if tensor.startswith("teacher_")]
    return asked == ["teacher_logits"]


def _entry(losses: Entries, names: tuple[str, ...]) -> dict[str, Any] | None:
    return next((entry for entry in losses if any(name in entry for name in names)), None)


def _short(value: float) -> float:
    """Three digits: more would tell nothing, and a person reads them."""
    return float(f"{value:.3g}")


def written(losses: Entries) -> str:
    """The entries as a recipe writes them on one line."""
    return "[" + ", ".join(written_entry(entry) for entry in losses) + "]"


def written_entry(entry: Mapping[str, Any]) -> str:
    """One entry as a recipe writes it: `{kd: 9, temperature: 2, standardize: true}`."""
    return "{" + ", ".join(f"{_written(key)}: {_written(value)}" for key, value in entry.items()) + "}"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return written_entry(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum() and not value[0].isdigit() and value.lower() not in _NO_TEXTS:
        return value
    return json.dumps(value)


_NO_TEXTS = ("true", "false", "null", "nan", "inf")
