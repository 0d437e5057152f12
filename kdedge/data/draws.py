"""Random numbers that are a pure function of (seed, view, sample, stream): the same in any batch, any order, any process, any numpy version.

The finalizer is SplitMix64's (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", section 5, with Stafford's variant 13).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream(IntEnum):
    """What a number is drawn for. Each purpose has its own stream, so that a new one changes no other; a value is never used again."""

    CROP_ROW = 1
    CROP_COLUMN = 2
    FLIP = 3
    MIXUP_PARTNER = 4
    MIXUP_SHARE = 5
    CALIBRATION = 101
    DIGITS_SPLIT = 102
    HELD_OUT = 103


def mix(values: UInt64) -> UInt64:
    """SplitMix64's output function: a bijection of 64 bits in which every input bit changes half of the output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draws(seed: int, view: int, samples: Int64, stream: Stream) -> UInt64:
    """One number in [0, 2^64) for each sample: uint64 of the shape of `samples`."""
    state = 0
    for part in (seed, view, int(stream)):
        state = int(mix(np.array([((state ^ (part & _MASK)) + _GAMMA) & _MASK], np.uint64))[0])
    return mix((samples.astype(np.uint64) ^ np.uint64(state)) + np.uint64(_GAMMA))


def below(numbers: UInt64, bound: int) -> Int64:
    """Whole numbers in [0, bound), from the upper 32 bits of each (bias below bound / 2^32)."""
    return ((numbers >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def sample(total: int, count: int, seed: int, stream: Stream) -> Int64:
    """`count` of `total` numbers without replacement, in random order, so that a prefix is a fair sample too."""
    order = np.argsort(draws(seed, 0, np.arange(total, dtype=np.int64), stream), kind="stable")
    return order[:count].astype(np.int64)
