"""How images look to a model that was trained with another preparation: each fault is undone on the images, so that any model can be asked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from kdedge.models.catalog import NORMALIZATIONS, Numbers

# Side lengths that weights in circulation were trained at.
_SIDES = (32, 64, 96, 128, 224)


def normalizations(statistics: Mapping[str, tuple[float, ...]], channels: int) -> dict[str, Numbers]:
    """Mean and std by what a recipe would say for them, of images with `channels` channels in [0, 1]: the known ones, and the data's own."""
    known: dict[str, Numbers] = {name: numbers for name, numbers in NORMALIZATIONS.items() if channels == 3}
    if {"mean", "std"} <= set(statistics):
        known["data"] = (statistics["mean"], statistics["std"])
    none, ones = (0.0,) * channels, (1.0,) * channels
    return {
        **known,
        "none": (none, ones),
        f"{{mean: {[0.5] * channels}, std: {[0.5] * channels}}}": ((0.5,) * channels, (0.5,) * channels),
        f"{{mean: {[0] * channels}, std: {[0.003922] * channels}}} (values up to 255)": (none, (1 / 255,) * channels),
    }


def renormalized(images: Tensor, now: Numbers | None, meant: Numbers) -> Tensor:
    """Images [n, C, H, W] that a model which normalises them by `now` (None: not at all) sees as one does that normalises by `meant`."""
    seen = (images - _column(meant[0])) / _column(meant[1])
    return seen if now is None else seen * _column(now[1]) + _column(now[0])


def swapped(images: Tensor) -> Tensor:
    """Red and blue exchanged."""
    return images.flip(1)


def sides(now: int) -> tuple[int, ...]:
    """Other side lengths worth a trial."""
    return tuple(side for side in dict.fromkeys((*_SIDES, 2 * now, now // 2)) if side not in (0, now))


def resized(images: Tensor, side: int) -> Tensor:
    """Images with sides of `side` pixels, bilinear."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
