"""What a dialect is: types, places and limits, as a table. What is common to all dialects is done by `kdedge.exporters.quantize.lower`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.ranges import Weight

Float32 = npt.NDArray[np.float32]
Where = Literal["inputs", "outputs", "around", "shortcut", "everything"]


@dataclass(frozen=True)
class Integer:
    """An integer type and how real numbers map to it.

    `symmetric`: the zero point is 0; else it is free, and a range that starts at 0 puts it at the smallest integer, which is what lets a kernel
    drop the ReLU before it. `per_channel`: one scale an output channel (weights only). `narrow`: the smallest integer is not used, so that
    the range is as wide below zero as above. Fewer than 8 bits are stored in 8, more in 16.
    """

    bits: int
    signed: bool
    symmetric: bool
    per_channel: bool = False
    narrow: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        if not self.signed:
            return 0, 2**self.bits - 1
        highest = 2 ** (self.bits - 1) - 1
        return (-highest if self.narrow else -highest - 1), highest

    @property
    def dtype(self) -> str:
        """Numpy name of the type that holds it."""
        width = 8 if self.bits <= 8 else 16
        return f"int{width}" if self.signed else f"uint{width}"


@dataclass(frozen=True)
class Place:
    """Where Q/DQ pairs go: `where` of nodes of these operators. Made by the functions below, which say what each means."""

    where: Where
    operators: frozenset[str]


def inputs_of(*operators: str) -> Place:
    """The activation that they read, and the constant that weighted ones multiply by. One without weights (a MaxPool) only counts where its
    result reaches a weighted node: else it would gain nothing."""
    return Place("inputs", frozenset(operators))


def outputs_of(*operators: str) -> Place:
    """What quantized ones write, after the activation that is folded into them: their integer kernel needs to know its output's range."""
    return Place("outputs", frozenset(operators))


def around(*operators: str) -> Place:
    """Inputs and output, where an integer kernel makes one of the inputs (or all are quantized anyway) and the result reaches a weighted node."""
    return Place("around", frozenset(operators))


def shortcut_of_residual_add() -> Place:
    """The side of a residual addition that bypasses the convolution. The convolution's own side stays as it is, so that convolution, addition
    and activation become one kernel."""
    return Place("shortcut", frozenset({"Add"}))


def everything() -> Place:
    """Every float tensor that a node reads or makes, constants too: for hardware that takes no float node at all."""
    return Place("everything", frozenset())


def accept_all(weight: Weight) -> str:
    """The rule of a dialect whose integer kernels suit every weighted node."""
    return ""


def demand_nothing(node: Any) -> str:
    """The rule of a dialect that takes a node whatever its shapes and attributes are."""
    return ""


def demand_static_shapes(node: Any) -> str:
    """The rule of hardware whose graphs are compiled for one shape."""
    open_ones = [value.name for value in (*node.inputs, *node.outputs) if value is not None and value.shape is not None and value.shape.is_dynamic()]
    return f"the shape of `{open_ones[0]}` is not fixed" if open_ones else ""


@dataclass(frozen=True)
class Dialect:
    """A family of kernels: what it reads.

    `weight_storage`: "integer" (an integer constant and a DequantizeLinear) or "float" (a float constant, Q and DQ, which the runtime folds).
    `bias`: "int32" with scale activation x weight, or "float". `places`: where activations are quantized. `moves_integers`: operators that
    work on the integers themselves, between Q and DQ. `rest`: type of what stays float; the pass that casts it runs after lowering.
    `smallest_scale`: scales are raised to it, and what would need smaller ones stays float; `smallest_range`: and so is raised the span of real
    numbers that an activation's type covers. `per_tensor`: operators whose weights have one scale, though `weight` is
    per channel. `fixed`: operators whose output has one scale and zero point, whatever was observed.
    `reads_weights`, `reads_bias`: forms other than `weight_storage` and `bias` that run as fast, so that a file of another tool may have them.
    `drops_activations`: a ReLU or Clip that the integers' range makes superfluous is not written. `demands`: what else a node lacks, "" for nothing.
    `reads_nothing_else`: the opset and IR limits are the parser's own, so float files keep them too; else they say what this dialect was proven for.
    `refuses`: why a weighted node is better left float, "" where it is not. `forbidden`: operators that the runtime cannot take in such a file.
    """

    name: str
    activation: Integer
    weight: Integer
    weight_storage: Literal["integer", "float"]
    bias: Literal["int32", "float"]
    places: tuple[Place, ...]
    minimum_opset: int
    maximum_opset: int
    maximum_ir: int
    moves_integers: frozenset[str] = frozenset()
    rest: Literal["float32", "float16"] = "float32"
    smallest_scale: float = 2.0**-24
    reads_nothing_else: bool = False
    refuses: Callable[[Weight], str] = accept_all
    forbidden: frozenset[str] = frozenset()
    per_tensor: frozenset[str] = frozenset()
    smallest_range: float = 0.0
    fixed: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    reads_weights: frozenset[str] = frozenset()
    reads_bias: frozenset[str] = frozenset()
    drops_activations: bool = False
    demands: Callable[[Any], str] = demand_nothing

    @property
    def largest_scale(self) -> float:
        """No scale is larger: `rest` holds no such number."""
        return float(np.finfo(self.rest).max)

    def scales(self, wanted: npt.ArrayLike) -> Float32:
        """Scales of one tensor as this dialect stores them: float32, not below `smallest_scale`, and normal numbers that `rest` holds exactly, so
        that the cast that follows changes no result. Channels are raised to the smallest of them: their steps are no wider than those of the
        largest channel then. Where even the largest would have to be raised, all are what was wanted: `half.to_half` keeps them in float32."""
        scales = np.maximum(np.asarray(wanted, np.float64), self.smallest_scale)
        normal = float(np.finfo(self.rest).smallest_normal)
        if 0.0 < np.max(wanted, initial=0.0) < normal:
            return scales.astype(np.float32)
        return np.maximum(scales, normal).astype(self.rest).astype(np.float32)

    def operators(self, where: Where) -> frozenset[str]:
        """The operators of all places of one kind."""
        return frozenset[str]().union(*(place.operators for place in self.places if place.where == where))

    @property
    def leaves_no_float(self) -> bool:
        """Whether every node has to be quantized."""
        return any(place.where == "everything" for place in self.places)

    def per_channel(self, operator: str) -> bool:
        """Whether the weights of this operator have one scale an output channel."""
        return self.weight.per_channel and operator not in self.per_tensor


# Integer operators of other ways to write a quantized graph; a Q/DQ file holds none of them.
INTEGER_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
