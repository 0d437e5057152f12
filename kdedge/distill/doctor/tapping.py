"""What can be tapped of a model, and whether the layers that a recipe pairs can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kdedge.artifact import Dimension, TensorSpec
from kdedge.distill.doctor import Finding, Layer
from kdedge.distill.spec import TermSpec
from kdedge.distill.taps import shapes_of
from kdedge.models.load import Model
from kdedge.models.spec import ModelSpec

_INNER = "inner."
# Examples of the pass that finds shapes.
_FEW = 2


def layers_of(model: Model, spec: ModelSpec) -> tuple[Layer, ...]:
    """Every layer of a model with the shape of what it gives, in the order in which the layers run; lengths of texts are usual ones."""
    found = shapes_of(model, [_example(each) for each in spec.inputs], f"`{spec.name}`")
    named = {name.removeprefix(_INNER): shape for name, shape in found.items() if name.startswith(_INNER)}
    return tuple(Layer(name, shape[1:]) for name, shape in named.items())


def layer_pairs(terms: Sequence[tuple[TermSpec, int]], shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Finding:
    """What the terms that look at layers compare: they ran, so that every pair exists and fits. `terms`: each with the number of parameters
    that it trains; `shapes`: by whose they are and the layer's name."""
    said, figures = [], {}
    for term, trained in terms:
        for pair in term.layers:
            own, other = shapes["student"].get(pair.student), shapes.get("teacher", {}).get(pair.teacher or "")
            sides = [f"{pair.student}{_shown(own)}"] + ([f"{pair.teacher}{_shown(other)}"] if pair.teacher else [])
            adapter = f", adapted by {trained:,} trained parameters in all" if trained else ", without an adapter"
            said.append(f"{term.name}: {' - '.join(sides)}{adapter}")
        figures[term.name] = {
            "pairs": [[pair.student, pair.teacher] for pair in term.layers],
            "trained_parameters": trained,
            "student_shapes": [shapes["student"].get(pair.student) for pair in term.layers],
            "teacher_shapes": [shapes.get("teacher", {}).get(pair.teacher or "") for pair in term.layers],
        }
    return Finding("ok", "layers", "; ".join(said), figures=figures)


def _shown(shape: tuple[int, ...] | None) -> str:
    return f" {list(shape)}" if shape is not None else ""


def _example(spec: TensorSpec) -> torch.Tensor:
    shape = [_FEW, *(size.typical if isinstance(size, Dimension) else size for size in spec.shape[1:])]
    return torch.zeros(shape) if spec.dtype == "float32" else torch.ones(shape, dtype=torch.int64)
