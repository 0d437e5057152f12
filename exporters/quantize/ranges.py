"""The range table: what is known about every tensor that may be quantized. Target-neutral, plain values, written as JSON.

Calibration fills it, quantization-aware training rewrites its ranges, and each dialect lowers the same table into its own types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kdedge.errors import ExportError

SCHEMA = 2

OBSERVERS = ("minmax", "moving-average", "percentile", "entropy", "mse")
"""Every one whose ranges a table holds. (`best` is no observer: it stands for the one of these that a dialect likes best.)"""

WEIGHT_OBSERVER = {"minmax": "minmax", "moving-average": "minmax", "percentile": "mse", "entropy": "mse", "mse": "mse"}
"""Which amplitudes of the weights go with the observer of the activations: those that clip nothing go together, those that clip too."""


EXACT = "exact"
"""Role of a tensor whose values are the codes of a known range and nothing else, such as an image: that range is neither observed nor learned."""


@dataclass(frozen=True)
class Weight:
    """A constant operand of a node that multiplies by it.

    `axis`: the output channels' axis, always >= 0; `activation`: the tensor on the other side; `bias`: a constant of one value a channel (for a
    MatMul the one that the Add behind it adds), or None;
    `output`: the node's output. `shape` is the weight's. `group`: convolution groups (1 for Gemm and MatMul).
    """

    name: str
    node: str
    operator: str
    axis: int
    shape: tuple[int, ...]
    activation: str
    output: str
    bias: str | None = None
    group: int = 1


@dataclass(frozen=True)
class Residual:
    """An addition of a branch that ends in a convolution (or matrix product) and of what bypasses it.

    `main`: the side whose last weighted node the addition can be fused into; `shortcut`: the other side.
    """

    node: str
    main: str
    shortcut: str


@dataclass(frozen=True)
class SharedScale:
    """A node that only moves values: where it runs on integers, all of `tensors` (inputs, then outputs) have one scale."""

    node: str
    operator: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Activation:
    """What the graph alone says about a float tensor.

    `roles`: any of weighted-input, weighted-output, residual-main, residual-shortcut, concat-member, fixed-range, moved, exact (`EXACT`).
    `non_negative`: by construction (after ReLU, Sigmoid, ..., and what cannot undo it). `fixed`: range of an operator whose outputs are bounded.
    """

    name: str
    roles: tuple[str, ...]
    non_negative: bool = False
    fixed: tuple[float, float] | None = None


@dataclass(frozen=True)
class Structure:
    """Everything that `roles.analyse` found, in graph order."""

    weights: tuple[Weight, ...]
    activations: tuple[Activation, ...]
    residuals: tuple[Residual, ...]
    shared: tuple[SharedScale, ...]


@dataclass(frozen=True)
class ActivationRange:
    """What was observed of an activation, and the ranges that the observer recommends for 8 bits.

    `low`, `high`: smallest and largest value seen. `symmetric`: a, where [-a, a] suits a signed type with zero point 0.
    `affine`: the range that suits a type with a free zero point; it always holds 0. `choices`: (observer, symmetric, affine) of every observer,
    of which `with_observer` takes one; empty where the range was not observed (it was learned).
    """

    name: str
    low: float
    high: float
    symmetric: float
    affine: tuple[float, float]
    choices: tuple[tuple[str, float, tuple[float, float]], ...] = ()


@dataclass(frozen=True)
class WeightRange:
    """Per output channel: extremes of the weights, and the amplitude a where [-a, a] suits a signed type with zero point 0.

    `choices`: (observer, amplitudes) by the largest magnitude ("minmax") and by the least squared error ("mse").
    """

    name: str
    axis: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    symmetric: tuple[float, ...]
    choices: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class RangeTable:
    """Structure and ranges of one float graph.

    `model_sha256`: of the file that was calibrated; `observer`: the one whose ranges are chosen; `samples`: examples seen;
    `keep_float`: names of nodes that stay float in every dialect. `rewrites`: what is done to the graph before the names here are found in it
    (`rewriting`).
    """

    model_sha256: str
    observer: str
    samples: int
    structure: Structure
    activations: tuple[ActivationRange, ...]
    weights: tuple[WeightRange, ...]
    keep_float: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    schema: int = SCHEMA

    def keeping_float(self, nodes: Iterable[str]) -> RangeTable:
        """The table with some more nodes that stay float in every dialect."""
        return replace(self, keep_float=tuple(dict.fromkeys((*self.keep_float, *nodes))))

    def activation_ranges(self) -> dict[str, ActivationRange]:
        """Observed ranges by tensor name."""
        return {row.name: row for row in self.activations}

    def weight_ranges(self) -> dict[tuple[str, int], WeightRange]:
        """Weight ranges by tensor name and channel axis (a tied weight may be used along two axes)."""
        return {(row.name, row.axis): row for row in self.weights}


def with_observer(table: RangeTable, name: str) -> RangeTable:
    """The table with the ranges of another observer chosen, for activations and weights (`WEIGHT_OBSERVER`).

    Raises:
        ExportError: there is no such observer, or a range was not observed by it.
    """
    if name not in OBSERVERS:
        raise ExportError(f"there is no observer `{name}`; choose one of {', '.join(OBSERVERS)}")
    activations = []
    for row in table.activations:
        _, symmetric, affine = _chosen(row, name)
        activations.append(replace(row, symmetric=symmetric, affine=affine))
    weights = [replace(row, symmetric=_chosen(row, WEIGHT_OBSERVER[name])[1]) for row in table.weights]
    return replace(table, observer=name, activations=tuple(activations), weights=tuple(weights))


def _chosen(row: Any, name: str) -> tuple[Any, ...]:
    for choice in row.choices:
        if choice[0] == name:
            return tuple(choice)
    raise ExportError(f"the range of `{row.name}` was not observed by `{name}` (only by: {', '.join(choice[0] for choice in row.choices) or 'none'})")


def write_table(table: RangeTable, path: Path) -> None:
    """Write the table as JSON: the same table gives the same bytes."""
    path.write_text(json.dumps(asdict(table), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_table(path: Path) -> RangeTable:
    """Read a table that `write_table` wrote.

    Raises:
        ExportError: the file is missing, is not JSON, or is not a range table of this schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path.name}: the range table cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise ExportError(f"{path.name}: not a range table of schema {SCHEMA} (found {found}); calibrate again")
    try:
        return _table(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path.name}: the range table is damaged ({error}); calibrate again") from error


def _table(values: Mapping[str, Any]) -> RangeTable:
    structure = values["structure"]
    table = RangeTable(
        model_sha256=values["model_sha256"],
        observer=values["observer"],
        samples=values["samples"],
        structure=Structure(
            weights=_rows(Weight, structure["weights"]),
            activations=_rows(Activation, structure["activations"]),
            residuals=_rows(Residual, structure["residuals"]),
            shared=_rows(SharedScale, structure["shared"]),
        ),
        activations=_rows(ActivationRange, values["activations"]),
        weights=_rows(WeightRange, values["weights"]),
        keep_float=tuple(values["keep_float"]),
        rewrites=tuple(values.get("rewrites", ())),
    )
    for row in table.activations:
        _check_activation(row)
    for weight in table.weights:
        _check_weight(weight)
    return table


def _rows(kind: type[Any], rows: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(kind(**{key: _tuples(value) for key, value in dict(row).items()}) for row in rows)


def _tuples(value: Any) -> Any:
    """JSON knows no tuples: every list is one."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_activation(row: ActivationRange) -> None:
    ranges = [("chosen", row.symmetric, row.affine), *row.choices]
    if not all(map(math.isfinite, (row.low, row.high))):
        raise ValueError(f"the extremes of `{row.name}` are not finite")
    for observer, symmetric, (start, end) in ranges:
        if not (math.isfinite(symmetric) and symmetric >= 0.0 and -math.inf < start <= 0.0 <= end < math.inf):
            raise ValueError(f"the {observer} range of `{row.name}` is not finite, or does not hold 0")


def _check_weight(row: WeightRange) -> None:
    for observer, amplitudes in [("chosen", row.symmetric), *row.choices]:
        if len(amplitudes) != len(row.low) or not all(math.isfinite(value) and value >= 0.0 for value in amplitudes):
            raise ValueError(f"the {observer} amplitudes of `{row.name}` are not one finite number of at least 0 a channel")
