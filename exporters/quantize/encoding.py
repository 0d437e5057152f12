"""From ranges to integers: scale and zero point of a type, weights and biases as integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.exporters.dialects.dialect import Dialect, Integer
from kdedge.exporters.quantize.ranges import ActivationRange

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

INT32_HIGHEST = 2**31 - 1


@dataclass(frozen=True)
class Encoding:
    """real = scale * (integer - zero_point), with float32 scale."""

    scale: np.float32
    zero_point: int


def encode_activation(rows: Iterable[ActivationRange], dialect: Dialect) -> Encoding:
    """One encoding for tensors that share a scale: it covers the range that each of them asks for.

    A range that starts at 0 gets its zero point at the smallest integer (ReLU can be dropped then). A symmetric one gets 0.
    """
    rows = list(rows)
    lowest, highest = dialect.activation.limits
    if dialect.activation.symmetric:
        reach = max(*(row.symmetric for row in rows), dialect.smallest_range / 2)
        return Encoding(np.float32(dialect.scales(reach / highest)), 0)
    low, high = min(row.affine[0] for row in rows), max(row.affine[1] for row in rows)
    high = max(high, low + dialect.smallest_range)
    scale = np.float32(dialect.scales((high - low) / (highest - lowest)))
    return Encoding(scale, int(np.clip(lowest + round(-low / float(scale)), lowest, highest)))


def encode_constant(values: Array, dialect: Dialect) -> Encoding:
    """The encoding of a constant operand, which has the type of activations."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return encode_activation([ActivationRange("", low, high, max(-low, high), (low, high))], dialect)


def quantize_activation(values: Array, held: Encoding, dialect: Dialect) -> Array:
    """Values as the integers of an activation's type, rounded half to even."""
    integers: Array = np.clip(np.rint(values / held.scale) + held.zero_point, *dialect.activation.limits).astype(dialect.activation.dtype)
    return integers


def covers(held: Encoding, rows: Iterable[ActivationRange], dialect: Dialect) -> bool:
    """Whether an encoding spans the ranges of tensors, to within a step at either end."""
    low, high = ((end - held.zero_point) * float(held.scale) for end in dialect.activation.limits)
    step = float(held.scale)
    return all(row.affine[0] >= low - step and row.affine[1] <= high + step for row in rows)


def weight_scales(amplitudes: Array, bias: Array | None, activation: Encoding | None, dialect: Dialect, per_channel: bool | None = None) -> Float32:
    """Scales [channels] (or [1], where the operator's weights are not `per_channel`) of weights with these symmetric amplitudes.

    They are raised where bias / (activation scale x weight scale) would leave int32: in a channel of almost no weights. `activation`: None where
    what is multiplied has no encoding, and so the bias no integers.
    """
    amplitudes = np.maximum(np.asarray(amplitudes, np.float64), dialect.smallest_range / 2) / dialect.weight.limits[1]
    if bias is not None and activation is not None and dialect.bias == "int32":
        amplitudes = np.maximum(amplitudes, np.abs(bias.reshape(-1).astype(np.float64)) / (float(activation.scale) * (INT32_HIGHEST // 2)))
    separate = dialect.weight.per_channel if per_channel is None else per_channel
    return dialect.scales(amplitudes if separate else amplitudes.max(keepdims=True))


def quantize(values: Array, scales: Float32, axis: int, integer: Integer) -> Array:
    """Weights as integers with zero point 0, rounded half to even as QuantizeLinear does."""
    return np.clip(np.rint(values / along(scales, axis, values.ndim)), *integer.limits).astype(integer.dtype)


def quantize_bias(bias: Array, activation: Encoding, scales: Float32) -> tuple[npt.NDArray[np.int32], Float32]:
    """An int32 bias and its scales: those of the sums that it is added to."""
    product = np.broadcast_to((np.float32(activation.scale) * scales).astype(np.float32), bias.reshape(-1).shape)
    integers = np.rint(bias.reshape(-1).astype(np.float64) / product.astype(np.float64))
    return np.clip(integers, -INT32_HIGHEST - 1, INT32_HIGHEST).astype(np.int32), np.ascontiguousarray(product)


def along(scales: Float32, axis: int, rank: int) -> Float32:
    """Scales shaped so that they broadcast along one axis of an array of this rank."""
    return scales.reshape([-1 if place == axis else 1 for place in range(rank)])
