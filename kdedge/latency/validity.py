"""What was wrong with the machine while launches ran, from the facts that the worker recorded before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdedge.runtimes.job import Result

_TICK_MS = 10.0  # Linux counts CPU time in USER_HZ, which is 100 a second on every architecture that matters here
_STOLEN_SHARE = 0.01
_CLOCK_FALL = 0.10

# Kind of concern -> how a person reads it; the number is that of the worst launch.
_SENTENCES = {
    "throttled": "the CPU throttled because of heat (up to {:.0f} events)",
    "quota": "the container's CPU quota stopped processes (up to {:.0f} ms)",
    "stolen": "the hypervisor gave CPU time to others (up to {:.0f} ms)",
    "clock": "the CPU clock fell (by up to {:.0f} %)",
    "busy": "other work kept the machine busy (load average up to {:.1f} for each core)",
}


def concerns(result: Result) -> dict[str, float]:
    """Kind of concern -> how bad, for one launch; facts that the device does not tell are no concern.

    Quota and stolen time are of the whole machine, not of the process: they say that samples may be disturbed, not that they are.
    """
    before: Mapping[str, Any] = result.evidence.get("before") or {}
    after: Mapping[str, Any] = result.evidence.get("after") or {}
    found: dict[str, float] = {}
    if (events := _growth(before, after, "throttle_events")) > 0:
        found["throttled"] = events
    if (stopped := _growth(before, after, "cgroup_throttled_us") / 1000) >= 1:
        found["quota"] = stopped
    stolen = _growth(before, after, "steal_ticks") * _TICK_MS
    if stolen > _STOLEN_SHARE * 1000 * (result.loop_seconds or 0.0) and stolen > 0:
        found["stolen"] = stolen
    # The fastest core ran the samples: idle cores may slow down as they like.
    clocks = [max((before.get("cpu_khz") or {}).values(), default=0), max((after.get("cpu_khz") or {}).values(), default=0)]
    if clocks[0] and clocks[1] and clocks[1] < (1 - _CLOCK_FALL) * clocks[0]:
        found["clock"] = 100 * (1 - clocks[1] / clocks[0])
    load, cores = before.get("load_average"), before.get("affinity")
    if load and cores and load[0] > len(cores):
        found["busy"] = load[0] / len(cores)
    return found


def describe(launches: Sequence[Result]) -> list[str]:
    """One line a kind of concern, with how many launches it touched and the worst of them."""
    each = [concerns(result) for result in launches]
    lines = []
    for kind, sentence in _SENTENCES.items():
        touched = [one[kind] for one in each if kind in one]
        if touched:
            lines.append(f"{len(touched)} of {len(launches)} launches: {sentence.format(max(touched))}")
    return lines


def _growth(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> float:
    return float(after[name] - before[name]) if name in before and name in after else 0.0
