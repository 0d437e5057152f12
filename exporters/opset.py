"""Another opset for a graph, with proof that it stayed the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx import version_converter

from kdedge.errors import ExportError
from kdedge.exporters.equivalence import GraphRunError, difference, run
from kdedge.exporters.model_file import infer_shapes, opset_of
from kdedge.exporters.naming import ensure_names

Feed = Mapping[str, npt.NDArray[Any]]


def raise_opset(model: ir.Model, opset: int, feeds: Sequence[Feed], name: str, tolerance: float = 1e-5) -> ir.Model:
    """`model` at `opset`, or itself where it is that new already. Run on `feeds` before and after.

    Raises:
        ExportError: ONNX's converter cannot do it, or the converted graph does not run or gives other outputs.
    """
    if opset_of(model) >= opset:
        return model
    return _converted(model, opset, "raise", feeds, name, tolerance, f"export it again with opset {opset}")


def within_opsets(model: ir.Model, lowest: int, highest: int, feeds: Sequence[Feed], name: str, tolerance: float = 1e-5) -> ir.Model:
    """`model` at the nearest opset from `lowest` to `highest`, as `raise_opset`."""
    advice = f"export it again with opset {lowest} to {highest}"
    if opset_of(model) > highest:
        return _converted(model, highest, "lower", feeds, name, tolerance, advice)
    if opset_of(model) < lowest:
        return _converted(model, lowest, "raise", feeds, name, tolerance, advice)
    return model


def _converted(model: ir.Model, opset: int, verb: str, feeds: Sequence[Feed], name: str, tolerance: float, advice: str) -> ir.Model:
    current = opset_of(model)
    try:
        proto = version_converter.convert_version(ir.to_proto(model), opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"`{name}` has opset {current}, and ONNX's converter cannot {verb} it to {opset} ({reason}); {advice}") from error
    converted = infer_shapes(ir.from_proto(proto))
    ensure_names(converted)
    wanted = run(model, feeds)
    try:
        found = run(converted, feeds)
    except GraphRunError as error:
        raise ExportError(f"`{name}` has opset {current}, and does not run at {opset} ({error}); {advice}") from error
    relative = max((difference(got, want)[1] for got, want in zip(found, wanted, strict=True)), default=0.0)
    if relative > tolerance:
        change = f"{verb.removesuffix('e')}ing its opset from {current} to {opset} changed the outputs by {relative:.2g} of their scale"
        raise ExportError(f"`{name}`: {change}; {advice}")
    return converted
