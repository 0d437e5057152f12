"""Decoding and resizing many images at once: Pillow releases the interpreter lock, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_FEW = 8
_BLOCK = 512


def in_threads(function: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
    """What `function` makes of each item, in order; at most a block of them is in memory. The first error is raised."""
    if len(items) < _FEW:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(items), _BLOCK):
            yield from pool.map(function, items[start : start + _BLOCK])
