"""Datasets without labels, as a user would write them."""

from __future__ import annotations

from typing import Any

import numpy as np

_IMAGE = np.full((2, 2, 3), 7, np.uint8)


def bare(split: str) -> list[Any]:
    return [_IMAGE] * 3


def pairs() -> list[Any]:
    return [(_IMAGE, "no number at all")] * 3


def texts() -> list[Any]:
    return ["one text", "another"]
