"""Exact facts of image sets: one size or several, and the mean and standard deviation of each channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFacts:
    """Whole-number sums over pixels, so that the facts of two parts add up exactly, in any order.

    `size`: (height, width) that all images have, or None where they differ; `pixels`: how many, of all images together;
    `sums`, `squares`: of the uint8 values and their squares, one a channel.
    """

    size: tuple[int, int] | None
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]

    def __add__(self, other: ImageFacts) -> ImageFacts:
        size = self.size if self.size == other.size else None
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        squares = tuple(a + b for a, b in zip(self.squares, other.squares, strict=True))
        return ImageFacts(size, self.pixels + other.pixels, sums, squares)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over all pixels, values in [0, 1]."""
        return tuple(total / (255 * self.pixels) for total in self.sums)

    @property
    def std(self) -> tuple[float, ...]:
        """Population standard deviation of each channel over all pixels, values in [0, 1]."""
        # n * sum(x^2) - sum(x)^2 in whole numbers: no cancellation.
        return tuple(
            math.sqrt(self.pixels * square - total * total) / (255 * self.pixels) for total, square in zip(self.sums, self.squares, strict=True)
        )


def facts_of(images: UInt8) -> ImageFacts:
    """The facts of uint8 [H, W, C] or [n, H, W, C]."""
    height, width, channels = images.shape[-3:]
    flat = images.reshape(-1, channels)
    sums, squares = [], []
    for channel in range(channels):
        counts = np.bincount(flat[:, channel], minlength=256)
        values = np.arange(256, dtype=np.int64)
        sums.append(int(counts @ values))
        squares.append(int(counts @ (values * values)))
    return ImageFacts((height, width), len(flat), tuple(sums), tuple(squares))
