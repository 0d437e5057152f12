"""What a sustained launch says: the first minute against the steady state, and when throttling began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.latency.validity import CONCERNS, concerns
from kdedge.runtimes.job import Result

_FIRST_SECONDS = 60.0
_STEADY_SECONDS = 120.0
_SLOWER = 1.10
_WINDOW_SECONDS = 10.0

Float64 = npt.NDArray[np.float64]


def sustained_figures(samples_ms: Float64, watched: Mapping[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """What is measured once, by name, and sentences.

    `first_minute_ms` and `steady_ms`: medians of the samples of the first minute and of the last two (of the first and last third, where the
    launch was shorter than their sum); `steady_ratio` of the two; `seconds`; `throttled_after_seconds`, absent where nothing throttled: the first
    observation at which a counter or a status says so, else the start of the first ten seconds from which on the rest is 10 % slower than
    the first minute.
    """
    ends = _ends(samples_ms, watched["observations"])
    total = float(ends[-1])
    first, steady = _FIRST_SECONDS, _STEADY_SECONDS
    if total < first + steady:
        first = steady = total / 3
    early = float(np.median(samples_ms[: max(1, int(np.searchsorted(ends, first, side="right")))]))
    late = float(np.median(samples_ms[min(len(ends) - 1, int(np.searchsorted(ends, total - steady, side="right"))) :]))
    figures = {"first_minute_ms": early, "steady_ms": late, "steady_ratio": late / early, "seconds": float(watched["seconds"])}
    notes = [_ENDED[watched["ended"]].format(watched["seconds"])]
    counted = _counted(watched["observations"])
    slow = _slower_from(samples_ms, ends, early) if counted is None else None
    if counted is not None:
        figures["throttled_after_seconds"], what = counted
        notes.append(f"after {counted[0]:.0f} s: {what}")
    elif slow is not None:
        figures["throttled_after_seconds"] = slow
        notes.append(f"after {slow:.0f} s: it got more than 10 % slower for good, though no counter of the device says why")
    return figures, tuple(notes)


_ENDED = {
    "flat": "the temperature was flat after {:.0f} s",
    "time": "it ran for {:.0f} s, the limit; whether the temperature had settled is not known",
}


def beginning(seconds: float) -> str:
    """What `first_minute_ms` is of a launch of that length, in words."""
    return "first minute" if seconds >= _FIRST_SECONDS + _STEADY_SECONDS else "first third"


def _ends(samples_ms: Float64, observations: Sequence[Mapping[str, Any]]) -> Float64:
    """When each iteration ended, in seconds since the first began: a phone may take a tenth of the time to tell its state between iterations."""
    ends: Float64 = np.cumsum(samples_ms) / 1e3
    seen = [(one["iteration"], one["seconds"]) for one in observations if 0 < one["iteration"] < ends.size]
    beside: Float64 = np.array([0.0, *(seconds - ends[iteration - 1] for iteration, seconds in seen)])
    ends += beside[np.searchsorted([iteration for iteration, _ in seen], np.arange(ends.size), side="right")]
    return ends


def _counted(observations: Sequence[Mapping[str, Any]]) -> tuple[float, str] | None:
    """When a counter or a status first says that the device throttled, and its sentence."""
    for one in observations[1:]:
        seen = concerns(Result("ok", evidence={"before": observations[0], "after": one}))
        said = [CONCERNS[kind].sentence.format(worst) for kind, worst in seen.items() if CONCERNS[kind].invalidates]
        if said:
            return float(one["seconds"]), "; ".join(said)
    return None


def _slower_from(samples_ms: Float64, ends: Float64, early: float) -> float | None:
    """Where the launch turned slow for good: the start of the first ten seconds from which on no ten seconds are fast again."""
    window = np.floor(ends / _WINDOW_SECONDS).astype(int)
    medians = [float(np.median(samples_ms[window == number])) for number in range(int(window[-1]) + 1) if (window == number).any()]
    starts = [number * _WINDOW_SECONDS for number in range(int(window[-1]) + 1) if (window == number).any()]
    slow_since = len(medians)
    while slow_since > 0 and medians[slow_since - 1] > _SLOWER * early:
        slow_since -= 1
    return starts[slow_since] if 0 < slow_since < len(medians) else None  # what was never fast did not turn slow
