"""From launches to figures. The launch is the unit: every figure is a median over launches, with an interval from six launches on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.estimate import Estimate
from kdedge.intervals import median_estimate
from kdedge.latency.percentiles import FLOORS, nearest_rank
from kdedge.latency.validity import describe
from kdedge.runtimes.job import Result

Float64 = npt.NDArray[np.float64]

_P90 = 0.90
FEWEST_FOR_INTERVAL = 6


@dataclass(frozen=True)
class Launch:
    """One fresh process: its timed iterations in ms (host clock, synchronised) and what the worker said about itself."""

    samples_ms: Float64
    result: Result

    @property
    def device_times_ms(self) -> dict[str, Float64]:
        """By the device's own clock, the timed iterations only: `compute`, `copy_in`, `copy_out`; empty where the device has no clock."""
        times: dict[str, list[float]] = self.result.facts.get("device_times_ms") or {}
        return {phase: np.asarray(values[-len(self.samples_ms) :], dtype=np.float64) for phase, values in times.items() if values}


@dataclass(frozen=True)
class Summary:
    """The figures of `kdedge.measured.Latency` before they are put there."""

    figures: dict[str, Estimate]
    device_figures: dict[str, Estimate]
    load_ms: Estimate | None
    first_inference_ms: Estimate | None
    peak_memory_mb: float | None
    notes: tuple[str, ...]


def summarize(launches: Sequence[Launch]) -> Summary:
    """`latency_median`: the median of the launches' medians. `latency_p90`: the median of their nearest-rank 90th percentiles; absent, with a
    note, where a launch is too short for one. Peak memory is the largest of all launches."""
    notes = []
    figures = {"latency_median": median_estimate("latency_median", [float(np.median(launch.samples_ms)) for launch in launches], "ms")}
    p90 = [nearest_rank(launch.samples_ms, _P90) for launch in launches]
    known = [value for value in p90 if value is not None]
    if len(known) == len(launches):
        figures["latency_p90"] = median_estimate("latency_p90", known, "ms")
    else:
        fewest = min(len(launch.samples_ms) for launch in launches)
        notes.append(f"no latency_p90: it needs {FLOORS[_P90]} iterations a launch, and the shortest launch has {fewest}")
    if len(launches) < FEWEST_FOR_INTERVAL:
        notes.append(f"no intervals: they need {FEWEST_FOR_INTERVAL} launches, there are {len(launches)}")
    notes += describe([launch.result for launch in launches])
    peaks = [launch.result.peak_memory_bytes for launch in launches if launch.result.peak_memory_bytes is not None]
    return Summary(
        figures=figures,
        device_figures=_device_figures(launches),
        load_ms=_over_launches("load_ms", launches, lambda launch: launch.result.load_ms),
        first_inference_ms=_over_launches("first_inference_ms", launches, lambda launch: launch.result.first_inference_ms),
        peak_memory_mb=max(peaks) / 1e6 if peaks else None,
        notes=tuple(notes),
    )


def _over_launches(name: str, launches: Sequence[Launch], read: Callable[[Launch], Any]) -> Estimate | None:
    """The median of one number a launch; None where a launch has none."""
    values = [read(launch) for launch in launches]
    return None if any(value is None for value in values) else median_estimate(name, values, "ms")


def _device_figures(launches: Sequence[Launch]) -> dict[str, Estimate]:
    """`latency_median` is the kernels alone; `copy_in` and `copy_out` are what the host's clock sees besides."""
    times = [launch.device_times_ms for launch in launches]
    names = {"compute": "latency_median", "copy_in": "copy_in", "copy_out": "copy_out"}
    return {
        name: median_estimate(name, [float(np.median(one[phase])) for one in times], "ms")
        for phase, name in names.items()
        if all(phase in one for one in times)
    }
