"""Rewrites of the float graph that belong to a range table: the same function in a form whose tensors suit integers better.

A table names them (`RangeTable.rewrites`), and whoever reads the float graph for it applies them first: they are pure functions of the graph, so that
the names in the table, and tensors that take the place of the graph's own, are found again. The float graph itself, and what is exported in float,
stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import Feed, difference, run
from kdedge.exporters.model_file import infer_shapes
from kdedge.exporters.passes.apply import PASSES, TOLERANCE
from kdedge.exporters.passes.fold_normalization import CENTRED, WIDENED, Normalization, find_normalization
from kdedge.exporters.quantize.layers import Lowered
from kdedge.exporters.quantize.ranges import EXACT, OBSERVERS, WEIGHT_OBSERVER, Activation, ActivationRange, RangeTable
from kdedge.exporters.quantize.roles import analyse
from kdedge.exporters.quantize.wiring import constant, load

Float32 = npt.NDArray[np.float32]

FOLD = "fold_normalization"

#: Calibration images that use less of their range than this are no pictures of that scale.
LEAST_SHARE = 0.25


def load_for(path: Path, table: RangeTable) -> Any:
    """The float graph at `path` as `table` knows it: `wiring.load`, and the table's rewrites.

    Raises:
        ExportError: as `load`; or a rewrite is unknown here, or finds nothing to do: the table was made from another graph.
    """
    return rewritten(load(path), table.rewrites, path.name)


def rewritten(model: Any, names: Sequence[str], what: str = "the graph") -> Any:
    """The model after rewrites, with shapes inferred; as it was where there are none. Changes the model."""
    for name in names:
        if name not in PASSES:
            raise ExportError(f"the range table wants the rewrite `{name}`, which is unknown here (known: {', '.join(PASSES)}); calibrate again")
        if not PASSES[name].function(model):
            raise ExportError(f"the range table was made from another graph than `{what}`: `{name}` finds nothing to do there; calibrate this one")
    return infer_shapes(model) if names else model


def with_normalization_folded(path: Path, table: RangeTable, feeds: Sequence[Feed]) -> RangeTable | str:
    """The table of the same graph with its normalisation in the weights of the first convolution (`passes.fold_normalization`), or why there is none.

    What is quantized there is then the image, whose codes are known: nothing of it is observed. That the images are on that scale is seen from what
    calibration found behind the normalisation. `feeds`: inputs on which both graphs must be the same function.

    Raises:
        ExportError: the graph cannot be read, or not be run on the feeds.
    """
    model = load(path)
    found = find_normalization(model)
    if isinstance(found, str):
        return found
    if reason := "it is folded already" if table.rewrites else _objection(found, table):
        return reason
    new = rewritten(load(path), (FOLD,), path.name)
    gaps = [difference(got, want)[1] for got, want in zip(run(new, feeds), run(model, feeds), strict=True)]
    if max(gaps, default=0.0) > TOLERANCE:
        return f"outputs differ by {max(gaps):.2g} of their scale (allowed {TOLERANCE:g})"
    return _table(found, new, table)


def bias_for_added_channel(model: Any, lowered: Lowered) -> dict[str, Float32]:
    """The bias, by name, that makes up for how a dialect rounds the weights of the channel that the folded normalisation adds to `model`.

    That channel is the same number everywhere, so what its weights lack is a constant inside the image, where all taps count. Nothing where there is
    no such channel, or no bias.
    """
    for layer in lowered.layers():
        node = next(node for node in model.graph if node.name == layer.row.node)
        widened = node.inputs[0].producer()
        if not layer.bias or widened is None or not str(widened.name).endswith(WIDENED):
            continue
        value, exact, bias = (np.asarray(constant(held), np.float64) for held in (widened.inputs[2], node.inputs[1], node.inputs[2]))
        lost = (exact[:, -1] - lowered.weight(layer)[:, -1]).sum(axis=(1, 2)) * value
        return {str(layer.row.bias): (bias + lost).astype(np.float32)}
    return {}


def _objection(found: Normalization, table: RangeTable) -> str:
    """Why calibration does not show images of the scale that the constants speak of."""
    name = str(found.nodes[-1].outputs[0].name)
    row = table.activation_ranges().get(name)
    if row is None:
        return f"no range was observed of `{name}`"
    low, high = found.reach
    step = max(abs(factor) for factor in found.factor) * found.step
    white = f"{found.full_scale:g}"
    if row.low < low - step / 2 or row.high > high + step / 2:
        return f"`{name}` lies in [{row.low:.3g}, {row.high:.3g}], which images in [0, {white}] never reach ([{low:.3g}, {high:.3g}])"
    if row.high - row.low < LEAST_SHARE * (high - low):
        return f"`{name}` lies in [{row.low:.3g}, {row.high:.3g}], a small part of what images in [0, {white}] reach ([{low:.3g}, {high:.3g}])"
    return ""


def _table(found: Normalization, new: Any, table: RangeTable) -> RangeTable:
    from kdedge.exporters.quantize.calibrate import weight_range

    structure, ends = analyse(new), found.ends
    exact = {f"{found.image.name}{suffix}" for suffix in (CENTRED, WIDENED)}
    # A signed integer has one code more below zero than above: with the upper end as its amplitude a step is a code.
    image = tuple((name, ends[1], ends) for name in OBSERVERS)
    known = table.activation_ranges()
    rows = tuple(
        known[row.name] if row.name not in exact else ActivationRange(row.name, *ends, ends[1], ends, image)
        for row in structure.activations
        if row.name in known or row.name in exact
    )
    structure = replace(structure, activations=tuple(_exact(row, ends) if row.name in exact else row for row in structure.activations))
    layer = next(row for row in structure.weights if row.node == found.layer.name)
    (held,) = (constant(node.inputs[1]) for node in new.graph if node.name == layer.node)
    assert held is not None
    fresh = weight_range(layer.name, layer.axis, held)
    fresh = replace(fresh, symmetric=dict(fresh.choices)[WEIGHT_OBSERVER[table.observer]])
    used = {(row.name, row.axis) for row in structure.weights}
    weights = (*(row for row in table.weights if (row.name, row.axis) in used), fresh)
    return replace(table, structure=structure, activations=rows, weights=weights, rewrites=(FOLD,))


def _exact(row: Activation, ends: tuple[float, float]) -> Activation:
    return replace(row, roles=tuple(sorted({*row.roles, EXACT})), fixed=ends)
