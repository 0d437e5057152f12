"""The ranges that each observer recommends for what was seen."""

from __future__ import annotations

from kdedge.exporters.quantize.observers.entropy import entropy
from kdedge.exporters.quantize.observers.extremes import minmax, moving_average
from kdedge.exporters.quantize.observers.percentile import percentile
from kdedge.exporters.quantize.observers.seen import Seen
from kdedge.exporters.quantize.observers.squared_error import squared_error

Choices = tuple[tuple[str, float, tuple[float, float]], ...]


def choices(seen: Seen, percent: float) -> Choices:
    """(observer, amplitude of a symmetric type, range of a type with a free zero point) of each. `percent`: of the percentile observer."""
    found = {
        "minmax": minmax(seen),
        "moving-average": moving_average(seen),
        "percentile": percentile(seen, percent),
        "entropy": entropy(seen),
        "mse": squared_error(seen),
    }
    return tuple((name, symmetric, affine) for name, (symmetric, affine) in found.items())
