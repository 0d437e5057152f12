"""Applies graph passes and takes none on trust: each time the graph is run beside the one before, and a pass that changed the result is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, difference, run
from kdedge.exporters.model_file import infer_shapes, opset_of, tidy
from kdedge.exporters.passes import (
    fold_affine,
    fold_batch_normalization,
    fold_constants,
    fold_gemm_factors,
    fold_normalization,
    gemm_from_matmul_add,
    mean_to_global_average_pool,
    option_a_shortcut,
    remove_identity,
)
from kdedge.exporters.passes.graph_pass import GraphPass

#: Rewrites reorder sums, so equal functions differ in the last bits; relative to the output's scale.
TOLERANCE = 1e-5

PASSES: dict[str, GraphPass] = {
    graph_pass.name: graph_pass
    for graph_pass in (
        remove_identity.PASS,
        fold_constants.PASS,
        fold_gemm_factors.PASS,
        gemm_from_matmul_add.PASS,
        fold_affine.PASS,
        fold_batch_normalization.PASS,
        fold_normalization.PASS,
        option_a_shortcut.PASS,
        mean_to_global_average_pool.PASS,
    )
}

Feed = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Applied:
    """The model after the passes; the names of those that changed it and were kept; and name -> reason of those that were reverted."""

    model: ir.Model
    kept: tuple[str, ...]
    reverted: dict[str, str] = field(default_factory=dict)


def apply_passes(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Feed], passes: Mapping[str, GraphPass] = PASSES, tolerance: float = TOLERANCE
) -> Applied:
    """Apply the passes `names`, in order, to a copy of `model`; `feeds` are inputs at sizes (two batch sizes, say) that must all stay the same.

    A pass outside its opsets, or with nothing to do, is neither kept nor reverted. `tolerance`: what outputs may differ by, relative to their scale.

    Raises:
        ExportError: an unknown pass; the message lists the known ones.
        GraphRunError: the model itself cannot be run on the feeds.
    """
    if unknown := [name for name in names if name not in passes]:
        raise ExportError(f"there is no graph pass `{unknown[0]}` (known: {', '.join(passes)})")
    current = infer_shapes(tidy(model.clone()))
    wanted = run(current, feeds)
    kept: list[str] = []
    reverted: dict[str, str] = {}
    for name in names:
        smallest, largest = passes[name].opsets
        if not smallest <= opset_of(current) <= largest:
            continue
        candidate = current.clone()
        try:
            changed = passes[name].function(candidate)
        except Exception as error:  # what a library makes of a graph that another exporter wrote: it stays as it was
            reverted[name] = f"it failed on this graph: {type(error).__name__}: {error}"
            continue
        if not changed:
            continue
        if reason := _objection(candidate, feeds, wanted, tolerance):
            reverted[name] = reason
            continue
        current = infer_shapes(tidy(candidate))
        kept.append(name)
    return Applied(current, tuple(kept), reverted)


def _objection(candidate: ir.Model, feeds: Sequence[Feed], wanted: Sequence[Mapping[str, npt.NDArray[Any]]], tolerance: float) -> str:
    """Why a rewritten graph cannot be kept, "" where it is the same function."""
    try:
        found = run(tidy(candidate), feeds)
    except GraphRunError as error:
        return f"the graph no longer runs: {error}"
    before, after = list(wanted[0]), list(found[0])
    if after != before:
        return f"its outputs were {_listed(before)} and became {_listed(after)}"
    relative = max(difference(got, want)[1] for got, want in zip(found, wanted, strict=True))
    return "" if relative <= tolerance else f"outputs differ by {relative:.2g} of their scale (allowed {tolerance:g})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
