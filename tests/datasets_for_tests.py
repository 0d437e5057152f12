"""Datasets that the tests of `python:module:factory` name."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


class Listed:
    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def arrays(split: str) -> Listed:
    start = 0 if split == "train" else 3
    return Listed([(PIXELS[i], LABELS[i]) for i in range(start, 6)], ["ant", "bee", "cow"])


def pictures() -> Listed:
    return Listed([(Image.fromarray(pixels), np.int64(label)) for pixels, label in zip(PIXELS, LABELS, strict=True)])


def tensors() -> torch.utils.data.Dataset[Any]:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    return torch.utils.data.TensorDataset(images, torch.tensor(LABELS))


def bytes_tensors() -> Listed:
    return Listed([(torch.from_numpy(pixels).permute(2, 0, 1), label) for pixels, label in zip(PIXELS, LABELS, strict=True)])


def grey() -> Listed:
    return Listed([(PIXELS[i, :, :, 0], LABELS[i]) for i in range(6)])


def sizes() -> Listed:
    return Listed([(PIXELS[i, : 2 + i % 2], LABELS[i]) for i in range(6)])


def texts(split: str) -> Listed:
    return Listed([(f"{split} {i}", i % 2) for i in range(4)])


def mixed() -> Listed:
    return Listed([(PIXELS[0], 0), ("text", 1)])


def restless() -> Any:
    counter = itertools.count()

    class Restless(Listed):
        def __getitem__(self, index: int) -> Any:
            return np.full((2, 2, 3), next(counter) % 256, np.uint8), index % 2

    return Restless([0] * 4)


def normalised() -> Listed:
    return Listed([(torch.full((3, 2, 2), -1.5), 0)])


def no_pairs() -> Listed:
    return Listed([PIXELS[0]])


def words_as_labels() -> Listed:
    return Listed([(PIXELS[0], "ant")])


def odd_things() -> Listed:
    return Listed([({"image": 1}, 0)])


def floats() -> Listed:
    return Listed([(PIXELS[0].astype(np.float32), 0)])


def breaks() -> Any:
    class Breaks(Listed):
        def __getitem__(self, index: int) -> Any:
            if index == 2:
                raise OSError("disk on fire")
            return PIXELS[index], index

    return Breaks([0] * 4)


def raises() -> Listed:
    raise RuntimeError("no credentials")


def stream() -> Any:
    return iter([(PIXELS[0], 0)])


def empty() -> Listed:
    return Listed([])


NUMBER = 3
