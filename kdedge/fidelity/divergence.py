"""How far logits are from a reference's: KL divergence, signal-to-quantization-noise ratio, largest error.

Everything is computed in float64, a block of examples at a time, so that memory-mapped outputs of any length fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.estimate import Estimate
from kdedge.intervals import function_of_means

Logits = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

SQNR_LIMIT_DB = 150.0
"""Where SQNR ends: float32 rounds at about 144 dB, and equal outputs would otherwise be infinite, which JSON cannot hold."""

_BLOCK = 4096


def log_softmax(logits: Logits) -> Float64:
    """Log probabilities along the last axis, float64; stable for logits of any size."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def kl_divergence(reference: Logits, candidate: Logits) -> Float64:
    """KL(reference || candidate) in nats at temperature 1, one number an example (Kullback and Leibler 1951). Both logits [n, C]; result [n].

    sum_c p_c (log p_c - log q_c): what it costs to believe the candidate where the reference is right. Zero exactly where both
    distributions are equal, also where the logits differ by a constant.
    """
    parts = []
    for a, b in _blocks(reference, candidate):
        log_p, log_q = log_softmax(a), log_softmax(b)
        p = np.exp(log_p)
        # A class that the reference rules out (p underflows to 0) adds nothing, however improbable the candidate finds it.
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
        parts.append(np.maximum(terms.sum(axis=1), 0.0))  # rounding can leave -1e-17
    return np.concatenate(parts)


def largest_error(reference: Logits, candidate: Logits) -> float:
    """The largest absolute difference of any logit of any example, in logits."""
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in _blocks(reference, candidate))


def powers(reference: Logits, candidate: Logits) -> Float64:
    """[n, 2]: per example the summed square of the reference's logits (signal) and of the error (noise)."""
    parts = []
    for a, b in _blocks(reference, candidate):
        signal, candidate_block = a.astype(np.float64), b.astype(np.float64)
        parts.append(np.stack([(signal**2).sum(axis=1), ((signal - candidate_block) ** 2).sum(axis=1)], axis=1))
    return np.concatenate(parts)


def decibels(mean_powers: Float64) -> Float64:
    """10 log10(signal / noise) of [m, 2] powers, limited to +-`SQNR_LIMIT_DB`; no noise at all is the upper limit."""
    signal, noise = mean_powers[:, 0], mean_powers[:, 1]
    floor = 10 ** (-SQNR_LIMIT_DB / 10)
    ratio = np.divide(signal, noise, out=np.full_like(signal, 1 / floor), where=noise > 0)
    decibel: Float64 = 10 * np.log10(np.clip(ratio, floor, 1 / floor))
    return decibel


def sqnr_estimate(name: str, reference: Logits, candidate: Logits, seed: int = 0) -> Estimate:
    """Signal-to-quantization-noise ratio over all logits, in dB: total power of the reference to total power of the error.

    Both [n, C]. The interval resamples examples and takes the ratio of sums each time. 6 dB are one bit.
    """
    return function_of_means(name, powers(reference, candidate), decibels, "dB", seed)


def _blocks(reference: Logits, candidate: Logits) -> Iterator[tuple[Logits, Logits]]:
    for start in range(0, len(reference), _BLOCK):
        yield reference[start : start + _BLOCK], candidate[start : start + _BLOCK]
