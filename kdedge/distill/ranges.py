"""What the numbers among a loss's parameters may be. Light: nothing here imports torch.

They are checked in the recipe, because a teacher may train for hours before the loss is first called, and because most of them would not
fail at all: a negative balance trains a student away from its teacher.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `lowest` (itself only if not `open_below`) to `highest` (itself only if not `open_above`)."""

    lowest: float
    highest: float = float("inf")
    open_below: bool = False
    open_above: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is one of them."""
        above = value > self.lowest if self.open_below else value >= self.lowest
        return above and (value < self.highest if self.open_above else value <= self.highest)

    def __str__(self) -> str:
        below = f"greater than {self.lowest:g}" if self.open_below else f"at least {self.lowest:g}"
        if self.highest == float("inf"):
            return below
        return f"{below} and {'less than' if self.open_above else 'at most'} {self.highest:g}"


_POSITIVE, _NOT_NEGATIVE, _COUNT = Range(0, open_below=True), Range(0), Range(1)

# Of every loss, also of a user's own: a division by it follows.
_OF_ALL = {"temperature": _POSITIVE}
# Of kdedge's own losses and their trained parts.
RANGES: dict[str, dict[str, Range]] = {
    "dkd": {"alpha": _NOT_NEGATIVE, "beta": _NOT_NEGATIVE},
    "dist": {"beta": _NOT_NEGATIVE, "gamma": _NOT_NEGATIVE},
    "nkd": {"gamma": _NOT_NEGATIVE},
    "ttm": {"gamma": _POSITIVE},
    "wttm": {"gamma": _POSITIVE},
    "rkd": {"distance": _NOT_NEGATIVE, "angle": _NOT_NEGATIVE},
    "pkt": {"epsilon": _POSITIVE},
    "byot": {"alpha": Range(0, 1), "beta": _NOT_NEGATIVE},
    "vid": {"epsilon": _POSITIVE, "initial_variance": _POSITIVE},
    "crd": {"dimension": _COUNT, "negatives": _COUNT, "tau": _POSITIVE, "momentum": Range(0, 1, open_above=True)},
    "reviewkd": {"middle": _COUNT},
}


def range_of(loss: str, parameter: str) -> Range | None:
    """What `parameter` of the loss that a recipe calls `loss` may be; None where any number goes."""
    return RANGES.get(loss, {}).get(parameter, _OF_ALL.get(parameter))
