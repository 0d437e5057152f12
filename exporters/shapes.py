"""Fixing a dimension for a target: a static batch is what most edge runtimes plan memory and choose kernels for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.model_file import infer_shapes, tidy
from kdedge.exporters.naming import ensure_names
from kdedge.exporters.passes.fold_constants import fold_constants


def fix_shapes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy of `model` in which each dimension named in `sizes` has that size everywhere; the others stay dynamic.

    Shape arithmetic that has become constant is folded; names of nodes and values that remain are unchanged, so that a range table still fits.
    """
    fixed = tidy(model.clone())
    for value in (*fixed.graph.inputs, *fixed.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else sizes.get(str(size.value), size) for size in value.shape])
    fixed = infer_shapes(fixed)
    fold_constants(fixed)
    fixed = infer_shapes(tidy(fixed))
    ensure_names(fixed)
    return fixed


def fixed_specs(specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """The specs of a graph after `fix_shapes`.

    Raises:
        ExportError: a size is outside the dimension's range.
    """

    def fixed(size: int | Dimension) -> int | Dimension:
        if isinstance(size, int) or size.name not in sizes:
            return size
        wanted = sizes[size.name]
        if not size.minimum <= wanted <= size.maximum:
            raise ExportError(f"{size.name} {wanted} is outside of what the student was exported for ({size.minimum} to {size.maximum})")
        return wanted

    return tuple(TensorSpec(spec.name, spec.dtype, tuple(fixed(size) for size in spec.shape)) for spec in specs)
