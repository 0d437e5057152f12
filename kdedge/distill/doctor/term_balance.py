"""How loud is each term of the loss when training begins?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdedge.distill.doctor import Finding

# A term whose gradient is so many times that of every other term drowns them.
_DROWNS = 100.0


@dataclass(frozen=True)
class TermScale:
    """A term at the start of training: its largest weight over the run, its value, and the norm of its gradient with regard to the student's
    parameters, both before weighting."""

    name: str
    weight: float
    value: float
    gradient: float

    @property
    def pull(self) -> float:
        """The norm of the weighted gradient."""
        return self.weight * self.gradient


def term_balance(scales: Sequence[TermScale], key: str = "distill.losses") -> Finding:
    """Compare the terms of one training run; `key` is the recipe's key of its losses."""
    figures: dict[str, Any] = {each.name: {**asdict(each), "weighted_value": each.weight * each.value, "pull": each.pull} for each in scales}
    said = "; ".join(
        f"{each.name} {each.value:.3g} (weighted {each.weight * each.value:.3g}), gradient {each.gradient:.3g} ({each.pull:.3g})" for each in scales
    )
    broken = [each.name for each in scales if not (math.isfinite(each.value) and math.isfinite(each.gradient))]
    if broken:
        return Finding(
            "error",
            "terms",
            f"{' and '.join(broken)} is no finite number in the first step: {said}",
            "look at its parameters and at the teacher's outputs",
            figures,
        )
    silent = [each.name for each in scales if each.weight > 0 and each.gradient == 0]
    if silent:
        return Finding(
            "warning",
            "terms",
            f"{' and '.join(silent)} gives the student no gradient in the first step: {said}",
            "a loss that is 0 from the start teaches nothing: are student and teacher one, or its layers frozen?",
            figures,
        )
    heard = sorted((each for each in scales if each.weight > 0), key=lambda each: each.pull)
    if len(heard) > 1 and heard[-1].pull >= _DROWNS * heard[-2].pull:
        loud, other = heard[-1], heard[-2]
        balanced = other.pull / loud.gradient
        return Finding(
            "warning",
            "terms",
            f"the gradient of {loud.name} is {loud.pull / other.pull:.0f} times that of {other.name}, which will hardly be heard: {said}",
            f"{key}: a weight of {balanced:.2g} for {loud.name} (now {loud.weight:g}) makes them equal at the start; `kdedge tune` searches it",
            figures,
        )
    return Finding("ok", "terms", f"at the start, before (after) weighting: {said}", figures=figures)
