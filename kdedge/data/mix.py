"""Mixup, replayable: what an example is mixed with, and by how much, is a pure function of (seed, view, sample), whatever the batch.

Each example of a split is mixed with a partner; over a view every example is a partner once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.data.draws import Stream, draws
from kdedge.data.examples import Examples
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

# The share of an example is a whole number of 65536ths, so that pixels are mixed in whole numbers, the same on every machine.
_BITS = 16


# A batch needs a few places of the permutation, and the next batch other places of the same one.
@lru_cache(maxsize=2)
def partners(total: int, seed: int, view: int) -> Int64:
    """The partner of each of `total` examples in a view: a random permutation of all of them. Do not write to it."""
    order = np.argsort(draws(seed, view, np.arange(total, dtype=np.int64), Stream.MIXUP_PARTNER), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def shares(seed: int, view: int, samples: Int64) -> Int64:
    """How much of each example stays in its mixture, in 65536ths: uniform in [0, 65536). The rest is the partner's."""
    return (draws(seed, view, samples, Stream.MIXUP_SHARE) >> np.uint64(64 - _BITS)).astype(np.int64)


def mixed(images: UInt8, others: UInt8, kept: Int64) -> UInt8:
    """share * image + (1 - share) * other, rounded to whole numbers (mixup; Zhang et al. 2018, eq. 1): uint8 [n, H, W, C] both, `kept` [n] as
    `shares` gives it."""
    share = kept.astype(np.uint32).reshape(-1, *(1,) * (images.ndim - 1))
    whole = np.uint32(1 << _BITS)
    total = share * images + (whole - share) * others + np.uint32(1 << (_BITS - 1))
    return (total >> np.uint32(_BITS)).astype(np.uint8)


def check_mixable(examples: Examples, what: str) -> None:
    """Whether a split holds images of one size, which alone can be mixed; `what` is the recipe's key of the split.

    Raises:
        DataError: it holds texts, or images of several sizes.
    """
    check_pixels(examples.raw(np.arange(1, dtype=np.int64)), what)


def check_pixels(raw: Any, what: str) -> None:
    """The same of raw examples.

    Raises:
        DataError: as `check_mixable`.
    """
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim == 4:
        return
    kind = "texts" if isinstance(raw, list) and raw and isinstance(raw[0], str) else "images of several sizes"
    raise DataError(f"distill.mixup: mixes pixel by pixel, and {what} holds {kind}: remove `mixup`, or give images that all have one size")
