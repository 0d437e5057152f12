"""Conditions as people write them, `>= 98 %` or `<= 2 ms`: read for the gate's rules and for the budget of `mixed` alike."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kdedge.errors import RecipeError

#: Units that a condition may be written in, with the factor to the figure's own.
TIMES = {"s": "1000", "ms": "1", "us": "0.001", "µs": "0.001"}
SHARES = {"": "1", "%": "0.01"}
NATS = {"": "1", "nats": "1"}

#: What each operator means, of a value and a limit.
COMPARISONS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}

_CONDITION = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


@dataclass(frozen=True)
class Condition:
    """`operator limit`, e.g. <= 2.0, in the figure's unit; `text` is how the user wrote it."""

    operator: str
    limit: float
    text: str

    def holds(self, value: float) -> bool:
        """Whether a value is what was asked for; one that is not a number never is."""
        return COMPARISONS[self.operator](value, self.limit)


def read_condition(where: str, text: Any, units: Mapping[str, str], *, share: bool = False) -> Condition:
    """Read `text`, which stands at `where` in the recipe. `units`: factors to the figure's unit; `share`: the figure lies between 0 and 1.

    Raises:
        RecipeError: no comparison, an unknown or missing unit, a number that is too large or no share; says what is allowed.
    """
    allowed = ", ".join(f"`{unit}`" if unit else "none" for unit in units)
    match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        example = f"e.g. `{f'<= 2 {next(iter(units))}'.rstrip()}`"
        raise RecipeError(f"{where}: `{text}` is no rule: write one of >=, >, <=, <, a number and a unit ({allowed}), {example}")
    comparison, number, unit = match.groups()
    if unit not in units:
        found = f"`{unit}` is not a unit of it" if unit else "the unit is missing"
        raise RecipeError(f"{where}: `{text}`: {found}{nearest(unit, units)} (allowed: {allowed})")
    limit = float(Decimal(number) * Decimal(units[unit]))  # in decimal: 99.1 % is 0.991 and nothing else
    if not math.isfinite(limit):
        raise RecipeError(f"{where}: `{text}`: the number is too large")
    if share and not 0 <= limit <= 1:
        raise RecipeError(f"{where}: `{text}`: this is a share between 0 and 1; write it as 0.98 or as 98 %")
    return Condition(comparison, limit, " ".join(text.split()))


def nearest(word: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """`; did you mean ...?` for an error, "" where nothing known is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
