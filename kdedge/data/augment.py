"""Replayable augmentation: what happens to a sample is a pure function of (seed, view, sample), whatever the batch that it comes in.

`cropN` puts N black pixels around the image and cuts its own size out of that at a random place; `flip` mirrors every other image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kdedge.data.draws import Stream, below, draws
from kdedge.data.names import unknown
from kdedge.errors import RecipeError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Images = TypeVar("Images", UInt8, list[UInt8])


@dataclass(frozen=True)
class Augmentation:
    """`pad`: pixels of the random crop, 0 for none; `flip`: whether images are mirrored at random."""

    pad: int = 0
    flip: bool = False


def parse(names: Iterable[str], key: str = "data.augment") -> Augmentation:
    """Read the recipe's names, in any order.

    Raises:
        RecipeError: an unknown name, or one given twice.
    """
    pad, flip = 0, False
    for position, name in enumerate(names):
        crop = re.fullmatch(r"crop([1-9][0-9]{0,2})", name)
        if (crop and pad) or (name == "flip" and flip):
            raise RecipeError(f"{key}[{position}]: `{name}` stands here for the second time; one crop and one flip are allowed")
        if crop:
            pad = int(crop[1])
        elif name == "flip":
            flip = True
        else:
            raise RecipeError(
                unknown(f"{key}[{position}]", "augmentation", name, ("crop4", "flip")) + "; cropN takes any number N of pixels from 1 to 999"
            )
    return Augmentation(pad, flip)


def augment(images: Images, samples: Int64, view: int, seed: int, how: Augmentation) -> Images:
    """The augmented images: uint8 [n, H, W, C], or a list of uint8 [H, W, C] of any sizes; `samples` [n] are their places in the split.

    The place of the crop is uniform over its (2 N + 1)^2 possibilities (He et al. 2015, section 4.2: pad 4, crop 32x32).
    """
    samples = np.asarray(samples, np.int64)
    if len(samples) != len(images):
        raise ValueError(f"{len(images)} images came with {len(samples)} sample numbers")
    rows = below(draws(seed, view, samples, Stream.CROP_ROW), 2 * how.pad + 1).tolist()
    columns = below(draws(seed, view, samples, Stream.CROP_COLUMN), 2 * how.pad + 1).tolist()
    flips = (below(draws(seed, view, samples, Stream.FLIP), 2 if how.flip else 1) == 1).tolist()
    if isinstance(images, np.ndarray):
        out = np.empty_like(images, subok=False)
        # One slice an image: a third of the time that gathering by index arrays takes.
        for target, source in zip(out, _shifted(_padded(images, how.pad), rows, columns, flips, how.pad), strict=True):
            target[...] = source
        return out
    moved: list[UInt8] = []
    for image, row, column, mirror in zip(images, rows, columns, flips, strict=True):
        moved += _shifted([_padded(image, how.pad)], [row], [column], [mirror], how.pad)
    return [np.ascontiguousarray(image) for image in moved]


def _padded(images: UInt8, pad: int) -> UInt8:
    if not pad:
        return images
    *first, height, width, channels = images.shape
    out = np.zeros((*first, height + 2 * pad, width + 2 * pad, channels), np.uint8)
    out[..., pad:-pad, pad:-pad, :] = images
    return out


def _shifted(padded: Iterable[UInt8], rows: Sequence[int], columns: Sequence[int], flips: Sequence[bool], pad: int) -> Iterable[UInt8]:
    for image, row, column, mirror in zip(padded, rows, columns, flips, strict=True):
        height, width = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
        cut = image[row : row + height, column : column + width]
        yield cut[:, ::-1] if mirror else cut
