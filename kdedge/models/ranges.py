"""Which numbers kdedge's own models can be built with. Light, so that a recipe is refused before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """From `low` to `high` (None: without end). `above`: `low` itself does not count; `below`: `high` does not."""

    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies inside; one that is not finite never does."""
        if isinstance(value, float) and not math.isfinite(value):
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (self.high is None or (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        """For a sentence: `at least 1`, `1 to 10`."""
        start = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high is None:
            return start
        return f"{start} and less than {self.high:g}" if self.below or self.above else f"{self.low:g} to {self.high:g}"


_COUNT, _FACTOR, _DROPOUT = Range(1), Range(0, above=True), Range(0, 1, below=True)

# Function -> argument -> range. What is not listed here takes any number.
RANGES: dict[str, dict[str, Range]] = {
    **{f"kdedge.models.resnet_cifar:resnet{depth}": {"width": _COUNT} for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"kdedge.models.vgg:vgg{depth}": {"width": _COUNT} for depth in (8, 11, 13, 16, 19)},
    "kdedge.models.mobilenet:mobilenet_v2": {"width": _FACTOR, "depth": _FACTOR, "dropout": _DROPOUT},
    # Channels double with each stage: one more than ten and a small width still has thousands.
    "kdedge.models.small_cnn:small_cnn": {"width": _COUNT, "depth": Range(0), "stages": Range(1, 10)},
    "kdedge.models.transformer_text:transformer": {
        **dict.fromkeys(("width", "heads", "expansion"), _COUNT),
        "layers": Range(0),
        "dropout": _DROPOUT,
    },
}


def check_ranges(function: str, values: Mapping[str, Any]) -> None:
    """Refuse numbers with which a model of kdedge cannot be built; `function` is its `module:function`, `values` its arguments by name.

    Raises:
        ValueError: names the argument, what it may be and what it is.
    """
    for name, allowed in RANGES.get(function, {}).items():
        value = values.get(name)
        if isinstance(value, int | float) and not allowed.holds(value):
            raise ValueError(f"{name} is {allowed}, not {value}")
    width, heads = values.get("width"), values.get("heads")
    if isinstance(width, int) and isinstance(heads, int) and "heads" in RANGES.get(function, {}) and width % heads:
        raise ValueError(f"width {width} cannot be split over {heads} heads: it must be a multiple of them")
