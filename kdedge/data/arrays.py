"""Images of one size as uint8 arrays on disk, memory-mapped when they are opened again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge.artifact import ImportPath, SplitSource
from kdedge.data.npy import map_npy, save_npy, write_npy
from kdedge.data.reading import NumberedIds, ReadSplit
from kdedge.data.survey import ImageFacts, facts_of
from kdedge.errors import DataError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_BLOCK = 1024


class ArrayExamples:
    """Images in one memory-mapped array: `raw` copies the rows that are asked for."""

    def __init__(self, images: UInt8, labels: Int64, ids: Sequence[str]) -> None:
        self.images = images
        self.labels = labels
        self.sizes: Int64 | None = None
        self.ids = ids

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, indices: Int64) -> UInt8:
        """uint8 [b, H, W, 3]."""
        return self.images[indices]


def open_arrays(images: Path, labels: Path, ids: str) -> ArrayExamples:
    """Open what `save_arrays` wrote."""
    numbers = np.load(labels, allow_pickle=False)
    return ArrayExamples(map_npy(images), numbers, NumberedIds(ids, len(numbers)))


def save_arrays(images: UInt8, labels: Int64, classes: tuple[str, ...], split: str, folder: Path, name: str) -> ReadSplit:
    """Write uint8 [n, H, W, 3] or [n, H, W, 1] (grey is written as three equal channels) and labels [n], and say how to open them.

    `name` is what people call the array: its examples have the ids `name[0]`, `name[1]`, ...

    Raises:
        DataError: there is no image.
    """
    if len(images) == 0:
        raise DataError(f"{name} is empty: the {split} split needs at least one image")
    digest = hashlib.sha256(f"{images.shape}".encode())
    facts: list[ImageFacts] = []

    def blocks() -> Iterator[UInt8]:
        for block in _colour(images):
            digest.update(block.data)
            facts.append(facts_of(block))
            yield block

    files = {"images": folder / f"{split}-images.npy", "labels": folder / f"{split}-labels.npy"}
    write_npy(files["images"], np.uint8, (*images.shape[:3], 3), blocks())
    save_npy(files["labels"], labels)
    digest.update(labels.tobytes())
    pattern = f"{name.replace('{', '{{').replace('}', '}}')}[{{}}]"
    source = SplitSource(ImportPath("kdedge.data.arrays:open_arrays"), {**files, "ids": pattern}, len(images), digest.hexdigest())
    return ReadSplit(source, "image", labels, classes, NumberedIds(pattern, len(images)), reduce(add, facts))


def _colour(images: UInt8) -> Iterable[UInt8]:
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        yield np.ascontiguousarray(np.repeat(block, 3, axis=-1) if block.shape[-1] == 1 else block)
