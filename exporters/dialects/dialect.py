"""What a dialect is: types, places and limits, as a table. What is common to all dialects is done by `kdedge.exporters.quantize.lower`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kdedge.exporters.quantize.ranges import Weight

Float32 = npt.NDArray[np.float32]
Where = Literal["inputs", "outputs", "around", "shortcut"]


@dataclass(frozen=True)
class Integer:
    """An integer type and how real numbers map to it.

    `symmetric`: the zero point is 0; else it is free, and a range that starts at 0 puts it at the smallest integer, which is what lets a kernel
    drop the ReLU before it. `per_channel`: one scale an output channel (weights only). `narrow`: the smallest integer is not used, so that
    the range is as wide below zero as above. Fewer than 8 bits are stored in 8.
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
        return "int8" if self.signed else "uint8"


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


def accept_all(weight: Weight) -> str:
    """The rule of a dialect whose integer kernels suit every weighted node."""
    return ""


@dataclass(frozen=True)
class Dialect:
    """A family of kernels: what it reads.

    `weight_storage`: "integer" (an integer constant and a DequantizeLinear) or "float" (a float constant, Q and DQ, which the runtime folds).
    `bias`: "int32" with scale activation x weight, or "float". `places`: where activations are quantized. `moves_integers`: operators that
    work on the integers themselves, between Q and DQ. `rest`: type of what stays float; the pass that casts it runs after lowering.
    `smallest_scale`: scales are raised to it (2^-14 is the smallest that a float16 holds without being flushed to zero).
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

    def scales(self, wanted: npt.ArrayLike) -> Float32:
        """Scales as this dialect stores them: float32, not below `smallest_scale`, and numbers that `rest` holds exactly, so that the cast that
        follows changes no result."""
        held = np.maximum(np.asarray(wanted, np.float64), self.smallest_scale).astype(self.rest)
        return np.asarray(held, np.float32)

    def operators(self, where: Where) -> frozenset[str]:
        """The operators of all places of one kind."""
        return frozenset[str]().union(*(place.operators for place in self.places if place.where == where))


# Integer operators of other ways to write a quantized graph; a Q/DQ file holds none of them.
INTEGER_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
