"""Raising the opset of a graph, with proof that it stayed the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx import version_converter

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import difference, run
from kdedge.exporters.model_file import infer_shapes, opset_of
from kdedge.exporters.naming import ensure_names

Feed = Mapping[str, npt.NDArray[Any]]


def raise_opset(model: ir.Model, opset: int, feeds: Sequence[Feed], name: str, tolerance: float = 1e-5) -> ir.Model:
    """`model` at `opset`, or itself where it is that new already. Run on `feeds` before and after.

    Raises:
        ExportError: ONNX's converter cannot do it, or the converted graph gives other outputs.
    """
    current = opset_of(model)
    if current >= opset:
        return model
    try:
        proto = version_converter.convert_version(ir.to_proto(model), opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"`{name}` has opset {current}, and ONNX's converter cannot raise it to {opset} ({reason}); export it again with opset {opset}"
        ) from error
    converted = infer_shapes(ir.from_proto(proto))
    ensure_names(converted)
    wanted, found = run(model, feeds), run(converted, feeds)
    relative = max((difference(got, want)[1] for got, want in zip(found, wanted, strict=True)), default=0.0)
    if relative > tolerance:
        change = f"raising its opset from {current} to {opset} changed the outputs by {relative:.2g} of their scale"
        raise ExportError(f"`{name}`: {change}; export it again with opset {opset}")
    return converted
