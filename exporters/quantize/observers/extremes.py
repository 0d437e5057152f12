"""Min-max and moving average: ranges that reach from the smallest to the largest value."""

from __future__ import annotations

from kdedge.exporters.quantize.observers.seen import Seen


def minmax(seen: Seen) -> tuple[float, tuple[float, float]]:
    """Everything that was seen: nothing is clipped on the calibration examples."""
    return _around(seen.low, seen.high)


def moving_average(seen: Seen) -> tuple[float, tuple[float, float]]:
    """Extremes that follow the examples slowly, so that one odd example does not set them (Jacob et al. 2018, section 3.1).

    There the average moves by the batch. Here it moves by a fixed group of examples (`seen.GROUP`, `seen.DECAY`), so that the size of a batch does
    not matter; the order of the examples does.
    """
    return _around(*seen.average())


def _around(low: float, high: float) -> tuple[float, tuple[float, float]]:
    return max(-low, high, 0.0), (min(low, 0.0), max(high, 0.0))
