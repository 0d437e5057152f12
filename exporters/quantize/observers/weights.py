"""Ranges of weights: a symmetric amplitude per output channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

NARROW_LEVELS = (-127, 127)
SHARES = np.arange(97, 58, -3) / 100  # of the largest magnitude; then the neighbours of each channel's best
NEIGHBOURS = np.array([0.02, 0.01, -0.01, -0.02])
VALUES_AT_ONCE = 1 << 16  # what stays in a core's own cache while all amplitudes are tried

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def weight_extremes(weight: Array, axis: int) -> tuple[Float64, Float64]:
    """Lowest and highest weight of each channel along `axis`."""
    rows = _rows(weight, axis)
    return rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)


def searched_amplitudes(weight: Array, axis: int) -> Float64:
    """Amplitude of each channel along `axis` with the least squared error of the rounded weights; of equal ones the widest.

    The errors are summed in float32: two amplitudes whose errors differ in the sixth digit may change places, nothing more.
    """
    found = [_search(rows) for rows in _parts(np.asarray(_rows(weight, axis), np.float32))]
    return np.concatenate(found) if found else np.zeros(0)


def _search(rows: npt.NDArray[np.float32]) -> Float64:
    widest = np.abs(rows).max(axis=1).astype(np.float64)
    held = np.where(widest > 0, widest, 1.0)
    best, smallest = np.ones(len(rows)), _errors(rows, held)

    def attempt(shares: Float64) -> None:
        errors = _errors(rows, held * shares)
        better = errors < smallest
        best[better], smallest[better] = shares[better], errors[better]

    for share in SHARES:
        attempt(np.full(len(rows), share))
    coarse = best.copy()
    for step in NEIGHBOURS:
        attempt(np.minimum(coarse + step, 1.0))
    return np.asarray(widest * best)


def _errors(rows: npt.NDArray[np.float32], amplitudes: Float64) -> npt.NDArray[np.float32]:
    """Squared error by row, in units of the row's largest magnitude."""
    steps = (amplitudes / NARROW_LEVELS[1]).astype(np.float32)[:, None]
    rounded = rows / steps
    np.rint(rounded, out=rounded)
    np.clip(rounded, *NARROW_LEVELS, out=rounded)
    rounded *= steps
    rounded -= rows
    return np.asarray(np.einsum("ij,ij->i", rounded, rounded))


def _rows(weight: Array, axis: int) -> Array:
    return np.asarray(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1))


def _parts(rows: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    count = max(1, VALUES_AT_ONCE // max(1, rows.shape[1]))
    for start in range(0, len(rows), count):
        yield rows[start : start + count]
