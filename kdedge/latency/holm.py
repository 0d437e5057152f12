"""Many cells in one run: the rate of false alarms is that of the whole family, and a flagged cell must be flagged twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdedge.errors import MeasurementError


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p values (1979, Scand. J. Stat. 6:65), in the order given: those at most alpha are rejected, with a family-wise rate of alpha
    whatever the dependence between tests.

    Raises:
        MeasurementError: a p value is not between 0 and 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise MeasurementError(f"p values lie between 0 and 1; got {list(p_values)}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    adjusted = np.empty(values.size)
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(float(value) for value in adjusted)


def confirmed(first: str, second: str) -> str:
    """What a cell is after it was flagged and measured again, independently: `regressed` only where both say so.

    Under independence the chance of a false alarm is then alpha squared. An invalid repeat confirms nothing and refutes nothing: `invalid`.
    Any other disagreement is `inconclusive`: a first alarm is no proof, and one repeat without it is none of the opposite.
    """
    if first == second:
        return first
    return "invalid" if "invalid" in (first, second) else "inconclusive"
