"""Sizes that a user gives for the dimensions of a graph that vary, and inputs of those sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdedge.artifact import TensorSpec
from kdedge.errors import KdedgeError

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = 2**31 - 1


def parse_sizes(given: Sequence[str]) -> dict[str, int]:
    """`--size NAME=N` as often as it was given.

    Raises:
        KdedgeError: one is not of that form.
    """
    found = {}
    for text in given:
        name, _, size = text.partition("=")
        # Python refuses to read numbers of thousands of digits.
        if not name or not size.isdecimal() or len(size) > len(str(_LARGEST)) or not 1 <= int(size) <= _LARGEST:
            raise KdedgeError(f"--size {text}: write NAME=N with N from 1 to {_LARGEST}, such as --size batch=8")
        found[name] = int(size)
    return found


def name_dimensions(model: ir.Model) -> ir.Model:
    """The model with a name for each dimension of its inputs that varies and has none: `INPUT.AXIS`."""
    import onnx_ir as ir

    for value in model.graph.inputs:
        sizes = [f"{value.name}.{axis}" if not isinstance(size, int) and size.value is None else size for axis, size in enumerate(value.shape or ())]
        value.shape = None if value.shape is None else ir.Shape(sizes)
    return model


def fill_sizes(model: ir.Model, chosen: Mapping[str, int]) -> dict[str, int]:
    """A size for every dimension of the inputs that varies; a first axis has 1 example where nothing is said.

    Raises:
        KdedgeError: a size is missing, or names no dimension.
    """
    sizes = dict(chosen)
    names: dict[str, tuple[str, int]] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                names.setdefault(str(size.value), (str(value.name), axis))
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise KdedgeError(f"--size {unknown[0]}: no input has a dimension of this name (there is: {', '.join(names) or 'none'})")
    for name, (value, axis) in names.items():
        if axis == 0:
            sizes.setdefault(name, 1)
        if name not in sizes:
            raise KdedgeError(f"`{value}`: its axis {axis} varies (`{name}`): give a size, such as --size {name}=32")
    return sizes


def specs_at(model: ir.Model, sizes: Mapping[str, int]) -> list[TensorSpec]:
    """The inputs of a graph that are no weights, at these sizes.

    Raises:
        KdedgeError: one has no shape or type.
    """
    specs = []
    for value in model.graph.inputs:
        if str(value.name) in model.graph.initializers:
            continue
        if value.shape is None or value.dtype is None:
            raise KdedgeError(f"input `{value.name}` has no shape: no inputs can be made for it")
        shape = tuple(size if isinstance(size, int) else sizes[str(size.value)] for size in value.shape)
        specs.append(TensorSpec(str(value.name), str(value.dtype.numpy()), shape))
    return specs
