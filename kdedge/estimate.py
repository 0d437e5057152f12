"""A number with its doubt. How the doubt is found stands in `kdedge.intervals` (which needs numpy; this does not)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

FRACTION = "fraction"
"""The unit of a share between 0 and 1; people see it in percent."""


@dataclass(frozen=True)
class Estimate:
    """A sampled figure: `value` within [`low`, `high`] (95 % unless the name says otherwise) from `n` independent units, in `unit`.

    `low` and `high` are None where no interval can be given (too few units); a reader must then say so, never show a bare number as if it were sure.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where none can be given."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def in_points(self) -> Estimate:
        """A difference of two shares in percentage points, which a percentage of something would be mistaken for; other figures as they are."""
        if self.unit != FRACTION:
            return self
        low, high = (None if end is None else 100 * end for end in (self.low, self.high))
        return Estimate(self.name, 100 * self.value, low, high, self.n, "points")

    def as_json(self) -> dict[str, str | float | int | None]:
        """The object that `--json`, reports and manifests hold: name, value, low, high, n, unit."""
        return asdict(self)

    def __str__(self) -> str:
        """For people: `93.40 % [92.84, 93.92]`, `1.83 ms (no interval: n = 5)`. As many decimals as the interval deserves."""
        scale, unit = (100.0, " %") if self.unit == FRACTION else (1.0, f" {self.unit}" if self.unit else "")
        if self.low is None or self.high is None:
            return f"{_rounded(self.value * scale, abs(self.value) * scale / 100)}{unit} (no interval: n = {self.n})"
        value, low, high = self.value * scale, self.low * scale, self.high * scale
        if 0 < max(abs(value), abs(low), abs(high)) < _TINY:  # as decimals these would be zeros
            return f"{value:.1e}{unit} [{low:.1e}, {high:.1e}]"
        doubt = (high - low) / 2 or max(abs(low), abs(high)) / 100
        return f"{_rounded(value, doubt)}{unit} [{_rounded(low, doubt)}, {_rounded(high, doubt)}]"


_TINY = 1e-4


def _rounded(value: float, doubt: float) -> str:
    """`value` to two significant digits of `doubt`, between no and six decimals."""
    decimals = 0 if doubt <= 0 else min(6, max(0, 1 - math.floor(math.log10(doubt))))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: a rounded -0.0 is shown as 0
