"""Is the teacher right on the student's own examples? If not: what about the recipe would make it right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.distill.doctor import Finding, percent
from kdedge.intervals import mcnemar, proportion, wilson

Bools = npt.NDArray[np.bool_]

# A teacher above this on training examples is trusted without a search for faults.
TRUSTED = 0.98
# A change is believed when this unlikely by chance, and worth a word from this gain on.
_BELIEVED, _WORTH = 1e-3, 0.02
# From this gain on the teacher as it stands teaches what is wrong.
_SENSELESS = 0.10
# Trials of one accuracy are told apart by how little they change.
_ALIKE = 0.02
_DROP = 0.10

# What may be changed, and how people read it.
NORMALIZE, ORDER, COLOURS, SIZE = "normalize", "labels", "colours", "size"
_PHRASES = {NORMALIZE: "`normalize: {}`", ORDER: "another order of labels ({})", COLOURS: "the colours {}", SIZE: "images of {} pixels"}


@dataclass(frozen=True)
class Trial:
    """A model asked as the recipe says, but for `changes` (what is changed, and to what; empty: nothing), about some examples:
    whether it was right on each [n]. `baseline` are the answers as the recipe says, on the same examples; `order` is the class that each output
    means where another order of labels is tried."""

    changes: tuple[tuple[str, str], ...]
    right: Bools
    baseline: Bools
    order: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float:
        """The share that was right."""
        return float(self.right.mean())

    @property
    def gain(self) -> float:
        """By how much more than unchanged."""
        return self.accuracy - float(self.baseline.mean())

    @property
    def believable(self) -> bool:
        """Whether it is better than unchanged, and not by chance (McNemar's exact test)."""
        gained, lost = int((self.right & ~self.baseline).sum()), int((self.baseline & ~self.right).sum())
        return self.gain >= _WORTH and mcnemar(gained, lost) < _BELIEVED

    @property
    def name(self) -> str:
        """What is changed, for people."""
        return " and ".join(_PHRASES[what].format(value) for what, value in self.changes) or "as the recipe says"


def explanation(trials: Sequence[Trial]) -> Trial | None:
    """The trial that explains a bad model: the one with the fewest changes among those that are as good as the best; None where none helps."""
    found = [trial for trial in trials if trial.believable]
    if not found:
        return None
    best = max(trial.gain for trial in found)
    return min((trial for trial in found if trial.gain >= best - _ALIKE), key=lambda trial: (len(trial.changes), -trial.gain))


def accuracy(whose: str, right: Bools, majority: float, trials: Sequence[Trial] = (), advice: str = "") -> Finding:
    """What a model's answers on unaugmented training examples say; `majority` is the share of the largest class, which is guessed for nothing.

    `whose`: what people call the model; `advice`: what to write for the explanation of a bad one.
    """
    estimate = proportion("accuracy", int(right.sum()), len(right))
    figures: dict[str, Any] = {"accuracy": estimate.as_json(), "trials": {trial.name: round(trial.accuracy, 4) for trial in trials}}
    said = f"the {whose} is right on {estimate} of {len(right)} training examples"
    cause = explanation(trials)
    if cause is not None:
        others = [trial for trial in trials if len(trial.changes) == 1 and trial.changes[0][0] == cause.changes[0][0] and trial is not cause]
        tried = ", ".join(f"{trial.changes[0][1]} {percent(trial.accuracy)}" for trial in sorted(others, key=lambda each: -each.accuracy)[:4])
        reached = f"{said}; with {cause.name} it is right on {percent(cause.accuracy)}" + (f" ({tried})" if tried else "")
        return Finding("error" if cause.gain >= _SENSELESS else "warning", f"{whose} accuracy", reached, advice, figures)
    assert estimate.low is not None
    if estimate.low <= majority:
        hint = "no other normalisation, order of labels or colours helps: " if trials else ""
        advice = f"{hint}are these the weights for this data, and of this model?"
        return Finding("error", f"{whose} accuracy", f"{said}: no more than guessing ({percent(majority)})", advice, figures)
    if estimate.value < (1 + majority) / 2:
        return Finding("warning", f"{whose} accuracy", said, "a student rarely becomes better than its teacher: train it longer first", figures)
    return Finding("ok", f"{whose} accuracy", said, figures=figures)


def augmented_accuracy(whose: str, plain: Bools, augmented: Bools, names: Sequence[str]) -> Finding:
    """Whether the augmentations `names` take a model off what it knows: the same training examples, without and with them."""
    before, after = float(plain.mean()), float(augmented.mean())
    low, high = wilson(int(augmented.sum()), len(augmented))
    figures = {"plain": before, "augmented": after, "low": low, "high": high}
    said = f"the {whose} is right on {percent(after)} of them as they are augmented ({', '.join(names)}), on {percent(before)} unaugmented"
    lost, gained = int((plain & ~augmented).sum()), int((augmented & ~plain).sum())
    if before - after >= _DROP and mcnemar(gained, lost) < _BELIEVED:
        return Finding(
            "warning", "augmentation", said, f"it never saw such examples: train it with the same data.augment, or weaken {', '.join(names)}", figures
        )
    return Finding("ok", "augmentation", said, figures=figures)
