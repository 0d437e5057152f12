"""How much a teacher says beyond the label, by temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdedge.distill.doctor import Finding
from kdedge.distill.losses import distributions
from kdedge.distill.schedule import LearnedTemperature, Schedule
from kdedge.distill.signature import signature_of
from kdedge.distill.spec import TermSpec

Float64 = npt.NDArray[np.float64]

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
# A mean top probability above this leaves nearly nothing beside the label.
_ONE_HOT = 0.99
# A target with less than this share of the entropy of a uniform one is the label again, for all that a student can see.
_BARELY = 0.05


def softmax(logits: Float64, temperature: float = 1.0) -> Float64:
    """Probabilities [n, C] of logits [n, C]."""
    scaled = logits / temperature
    powers: Float64 = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def entropy(probabilities: Float64) -> float:
    """Mean over examples of -sum p log p, in nats."""
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1).mean())


def standardized(logits: Float64) -> Float64:
    """Logits [n, C] of mean 0 and standard deviation 1 in each example, as the losses standardise them."""
    return np.asarray(distributions.standardized(torch.tensor(logits)).numpy(), np.float64)


def sharpness(logits: Float64, terms: Sequence[TermSpec]) -> Finding:
    """Whether the teacher's `logits` [n, C] for augmented training examples hold more than labels, at the temperatures that `terms` ask for."""
    top = float(softmax(logits).max(axis=1).mean())
    uniform = float(np.log(logits.shape[1]))
    entropies = {f"T={temperature:g}": entropy(softmax(logits, temperature)) for temperature in TEMPERATURES}
    entropies |= {f"standardized T={temperature:g}": entropy(softmax(standardized(logits), temperature)) for temperature in (1.0, 2.0)}
    figures = {"mean_top_probability": top, "entropy_nats": entropies, "uniform_nats": uniform}
    shown = ", ".join(f"{value:.3f} at {name}" for name, value in entropies.items())
    said = f"the teacher's mean top probability on training examples is {top:.3f}; entropy in nats (uniform: {uniform:.2f}): {shown}"
    barely = [text for term in terms if (text := _barely(term, logits, uniform))]
    if top < _ONE_HOT:
        return Finding("ok", "sharpness", said, figures=figures)
    useful = next((name for name in entropies if entropies[name] >= 2 * _BARELY * uniform), "standardized T=2")
    meaning = "it is near one-hot: at T = 1 it repeats the label, and what it knows of the other classes shows only at a higher temperature"
    if barely:
        return Finding(
            "warning",
            "sharpness",
            f"{said}; {meaning}; {' and '.join(barely)}",
            f"use {'`temperature: ' + useful[2:] + '`' if useful.startswith('T=') else '`standardize: true`'} or higher, or `standardize: true`, "
            "which makes the temperature mean the same for every teacher",
            figures,
        )
    return Finding("note", "sharpness", f"{said}; {meaning}", "keep the temperature high or standardized: `kdedge tune` searches it", figures)


def _barely(term: TermSpec, logits: Float64, uniform: float) -> str:
    """What is wrong with a term that compares soft logits at a temperature at which this teacher says nothing beside the label."""
    temperature = _largest(term.parameters.get("temperature", _default_of(term)))
    if temperature is None or "teacher_logits" not in term.tensors:
        return ""
    scaled = standardized(logits) if term.parameters.get("standardize") else logits
    share = entropy(softmax(scaled, temperature)) / uniform
    return f"`{term.name}` sees it at T = {temperature:g}, with {100 * share:.1f} % of the entropy of a uniform target" if share < _BARELY else ""


def _largest(value: Any) -> float | None:
    if isinstance(value, Schedule):
        return value.largest
    if isinstance(value, LearnedTemperature):
        return value.lowest + value.span
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _default_of(term: TermSpec) -> Any:
    return signature_of(term.function).parameters.get("temperature")
