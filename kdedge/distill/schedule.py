"""Numbers that change while a model is trained: the weight of a loss, its temperature, when it begins and ends."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdedge.errors import RecipeError


@dataclass(frozen=True)
class Schedule:
    """A value as a function of the run's progress: straight lines between `points` (fraction of the run in [0, 1], value), flat outside them."""

    points: tuple[tuple[float, float], ...]

    def at(self, progress: float) -> float:
        """The value when `progress` (0 at the first step, towards 1) of the run is done."""
        places = [place for place, _ in self.points]
        after = bisect_right(places, progress)
        if after == 0:
            return self.points[0][1]
        if after == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (progress - left) / (right - left)

    @property
    def largest(self) -> float:
        """The largest value that it ever has."""
        return max(value for _, value in self.points)


@dataclass(frozen=True)
class LearnedTemperature:
    """A temperature that is trained against the student (CTKD; Li et al., AAAI 2023): T = lowest + span * sigmoid(theta), theta from 1.

    Its gradient is reversed, with a strength that grows from 0 to 1 as a cosine over the first `warmup_epochs`: an easy beginning, then
    targets that the student finds hard.
    """

    lowest: float = 1.0
    span: float = 20.0
    warmup_epochs: float = 10.0

    def strength(self, epoch: float) -> float:
        """How strongly the gradient is reversed after `epoch` epochs, in [0, 1]."""
        if epoch >= self.warmup_epochs:
            return 1.0
        return 0.5 * (1.0 - math.cos(math.pi * epoch / self.warmup_epochs))


@dataclass(frozen=True)
class Moment:
    """Where in a run a step stands: the fraction that is done, in [0, 1), and the epochs that are done."""

    progress: float
    epoch: float


def is_number(value: Any) -> bool:
    """A finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_schedule(value: Any, key: str) -> Schedule:
    """A number, or a mapping from fractions of the run to numbers, such as {"0": 0.0, "0.2": 9.0} (keys of a recipe are texts).

    Raises:
        RecipeError: anything else; `key` is the recipe's.
    """
    if is_number(value):
        return Schedule(((0.0, float(value)),))
    if not isinstance(value, Mapping) or not value:
        raise RecipeError(f'{key}: must be a number, or numbers by the fraction of the run such as {{"0": 0.0, "0.2": 9.0}}, not {value!r}')
    points: dict[float, float] = {}
    for place, number in value.items():
        fraction = _fraction(place, key)
        if not is_number(number):
            raise RecipeError(f"{key}.{place}: must be a number, not {number!r}")
        points[fraction] = float(number)
    return Schedule(tuple(sorted(points.items())))


def read_fraction(value: Any, key: str) -> float:
    """A fraction of the run in [0, 1].

    Raises:
        RecipeError: it is something else.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise RecipeError(f"{key}: must be a fraction of the run from 0 to 1, not {value!r}")
    return float(value)


def _fraction(place: Any, key: str) -> float:
    try:
        return read_fraction(float(place), f"{key}.{place}")
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{key}.{place}: must be a fraction of the run from 0 to 1, not {place!r}") from error
