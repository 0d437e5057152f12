"""What was wrong with the machine while launches ran, from the facts that the worker recorded before and after, and whether it makes them invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdedge.runtimes import android, raspberry_pi
from kdedge.runtimes.job import Result

_TICK_MS = 10.0  # Linux counts CPU time in USER_HZ, which is 100 a second on every architecture that matters here
_STOLEN_SHARE = 0.01
_STOPPED_SHARE = 0.05
_CLOCK_FALL = 0.10
_FREE_SHARE = 0.05
_MODERATE = android.THERMAL_STATUS.index("moderate")


@dataclass(frozen=True)
class Concern:
    """A kind of concern: how a person reads it (the number is how bad), whether it makes a launch invalid, and why it does or does not."""

    sentence: str
    invalidates: bool
    why: str


CONCERNS: dict[str, Concern] = {
    "throttled": Concern("the CPU throttled because of heat (up to {:.0f} events)", True, "the processor itself counted that it ran slower"),
    "over_current": Concern(
        "the board drew too much current or got too little voltage and throttled (up to {:.0f} events)", True, "the board counted that it slowed down"
    ),
    "over_current_only": Concern(
        "the board counted over-current or under-voltage (up to {:.0f} events)", False, "its throttling by that counter is switched off"
    ),
    "board_throttled": Concern(
        "the board was too hot and ran slower (firmware status, {:.0f} kinds)", True, "the firmware says that it capped or throttled the clock"
    ),
    "under_voltage": Concern("the board's supply was too weak", True, "the firmware lowers the clock while the voltage is too low"),
    "masked": Concern(
        "the board had throttled before, which hides whether it did so again: restart it to be sure",
        False,
        "a bit that was set already proves nothing",
    ),
    "thermal_status": Concern("Android reported thermal throttling (status up to {:.0f})", True, "from status 2, moderate, on the system slows work"),
    "thermal_light": Concern("Android reported light thermal throttling", False, "at status 1 people are not meant to notice"),
    "quota_stop": Concern("the container's CPU quota stopped processes (up to {:.0f} % of the time)", True, "above 5 % the quota is what was timed"),
    "quota": Concern("the container's CPU quota stopped processes (up to {:.0f} ms)", False, "so short a stop may lie outside the timed loop"),
    "stolen": Concern("the hypervisor gave CPU time to others (up to {:.0f} ms)", False, "of all cores: the one that was timed may have lost none"),
    "clock": Concern("the CPU clock fell (by up to {:.0f} %)", False, "two moments are compared: an idle core may have slowed down after the loop"),
    "gpu_clock": Concern("the GPU clock fell (by up to {:.0f} %)", False, "two moments are compared: an idle GPU slows down at once"),
    "busy": Concern("other work kept the machine busy (load average up to {:.1f} for each core)", False, "it ran before, and perhaps not meanwhile"),
    "memory": Concern("less than {:.0f} % of the memory was free", False, "there may have been enough all the same"),
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
    found |= _quota(before, after, result.loop_seconds or 0.0)
    stolen = _growth(before, after, "steal_ticks") * _TICK_MS
    if stolen > _STOLEN_SHARE * 1000 * (result.loop_seconds or 0.0) and stolen > 0:
        found["stolen"] = stolen
    # The fastest core ran the samples: idle cores may slow down as they like.
    for kind, name in (("clock", "cpu_khz"), ("gpu_clock", "gpu_hz")):
        first, last = (max((facts.get(name) or {}).values(), default=0) for facts in (before, after))
        if first and last and last < (1 - _CLOCK_FALL) * first:
            found[kind] = 100 * (1 - last / first)
    load, cores = before.get("load_average"), before.get("affinity")
    if load and cores and load[0] > len(cores):
        found["busy"] = load[0] / len(cores)
    free, total = after.get("memory_available_bytes"), after.get("memory_total_bytes")
    if free is not None and total and free < _FREE_SHARE * total:
        found["memory"] = 100 * _FREE_SHARE
    return found | _over_current(before, after) | _firmware(before, after) | _thermal_status(before, after)


def invalid_because(result: Result) -> str:
    """Why a launch does not count, in a sentence; "" where it counts."""
    return "; ".join(CONCERNS[kind].sentence.format(worst) for kind, worst in concerns(result).items() if CONCERNS[kind].invalidates)


def invalid_together(launches: Sequence[Result]) -> str:
    """Why several launches do not count: each reason once, with the worst of them."""
    each = [concerns(result) for result in launches]
    worst = {kind: max((one[kind] for one in each if kind in one), default=None) for kind, concern in CONCERNS.items() if concern.invalidates}
    return "; ".join(CONCERNS[kind].sentence.format(most) for kind, most in worst.items() if most is not None)


def describe(launches: Sequence[Result]) -> list[str]:
    """One line a kind of concern, with how many launches it touched and the worst of them."""
    each = [concerns(result) for result in launches]
    lines = []
    for kind, concern in CONCERNS.items():
        touched = [one[kind] for one in each if kind in one]
        if touched:
            lines.append(f"{len(touched)} of {len(launches)} launches: {concern.sentence.format(max(touched))}")
    return lines


def _quota(before: Mapping[str, Any], after: Mapping[str, Any], loop_seconds: float) -> dict[str, float]:
    stopped_ms = _growth(before, after, "cgroup_throttled_us") / 1000
    if stopped_ms < 1:
        return {}
    share = stopped_ms / 1000 / loop_seconds if loop_seconds > 0 else 0.0
    return {"quota_stop": 100 * share} if share > _STOPPED_SHARE else {"quota": stopped_ms}


def _over_current(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """A Jetson's counters: those that throttle, and those that only count."""
    found: dict[str, float] = {}
    first: Mapping[str, Any] = before.get("over_current") or {}
    for name, counter in (after.get("over_current") or {}).items():
        events = float(counter["events"] - first[name]["events"]) if name in first else 0.0
        if events > 0:
            kind = "over_current" if counter.get("throttles", True) else "over_current_only"
            found[kind] = found.get(kind, 0.0) + events
    return found


def _firmware(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """A Raspberry Pi's bits. What was set since the board's start and is set again leaves no trace."""
    if "pi_throttled" not in before or "pi_throttled" not in after:
        return {}
    happened = raspberry_pi.happened(before["pi_throttled"], after["pi_throttled"])
    found: dict[str, float] = {}
    if "under-voltage" in happened:
        found["under_voltage"] = 1.0
    if slowed := [name for name in happened if name != "under-voltage"]:
        found["board_throttled"] = float(len(slowed))
    if not happened and raspberry_pi.masked(before["pi_throttled"]):
        found["masked"] = 1.0
    return found


def _thermal_status(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    status = max(before.get("thermal_status", 0), after.get("thermal_status", 0))
    return {"thermal_status": float(status)} if status >= _MODERATE else {"thermal_light": float(status)} if status else {}


def _growth(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> float:
    return float(after[name] - before[name]) if name in before and name in after else 0.0
