"""What a device told of itself while launches ran, in a few words each: clocks, heat, and whether it throttled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdedge.latency.validity import CONCERNS, concerns
from kdedge.runtimes.job import Result

_COUNTERS = ("throttle_events", "over_current", "pi_throttled", "thermal_status")


def observed(results: Sequence[Result]) -> dict[str, str]:
    """By what a person calls it; what the device does not tell is absent.

    `CPU clock`, `GPU clock`: of the fastest core or GPU, and `hottest zone`: the least and the most of all moments at which the device was asked,
    which are before and after each launch (and in a sustained one on the way). `throttled`: in how many launches its counters or its status say so.
    """
    moments = [moment for result in results for moment in _moments(result)]
    machines = [result.evidence.get("machine") or {} for result in results]
    found = {
        "CPU clock": _between((max(one["cpu_khz"].values()) / 1e6 for one in moments if one.get("cpu_khz")), "GHz"),
        "GPU clock": _between((max(one["gpu_hz"].values()) / 1e6 for one in moments if one.get("gpu_hz")), "MHz"),
        "governor": _each(name for one in moments for name in one.get("governors") or ()),
        "power mode": _each(str(one["power_mode"]) for one in machines if "power_mode" in one),
        "hottest zone": _between((max(one["temperatures_c"].values()) for one in moments if one.get("temperatures_c")), "°C"),
        "throttled": _throttled(results) if any(name in one for one in moments for name in _COUNTERS) else "",
    }
    return {name: text for name, text in found.items() if text}


def _moments(result: Result) -> Iterator[Mapping[str, Any]]:
    watched = result.facts.get("sustained") or {}
    yield from (result.evidence.get("before") or {}, *(watched.get("observations") or ()), result.evidence.get("after") or {})


def _between(values: Iterable[float], unit: str) -> str:
    texts = [f"{value:.3g}" for value in sorted(values)]
    if not texts:
        return ""
    return f"{texts[0]} {unit}" if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]} {unit}"


def _each(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _throttled(results: Sequence[Result]) -> str:
    """The container's quota is the host's doing: no throttling of the device."""
    slowed = sum(any(CONCERNS[kind].invalidates and kind != "quota_stop" for kind in concerns(result)) for result in results)
    return f"in {slowed} of {len(results)} launches" if slowed else "never"
