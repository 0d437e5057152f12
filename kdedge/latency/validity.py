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
_BUSY_PERCENT = 10
_WAITED_SHARE = 0.05
_ACTIVE_SHARE = 0.05
_LOADED_SHARE = 0.10
_INTERRUPTED_A_SECOND = 100
_PRESSURE_SHARE = 0.10
_MODERATE = android.THERMAL_STATUS.index("moderate")


@dataclass(frozen=True)
class Concern:
    """A kind of concern: how a person reads it (the number is how bad), whether it makes a launch invalid, and why it does or does not.

    `drops_pair`: a check, which can run the pair again, does not count such a launch either; a profile keeps it and says so.
    """

    sentence: str
    invalidates: bool
    why: str
    drops_pair: bool = False


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
    "board_busy": Concern(
        "other work kept the board's GPU, memory or engines busy (up to {:.0f} %)", False, "it ran before, and perhaps not meanwhile"
    ),
    "shared": Concern(
        "the loop waited while others had its core (up to {:.0f} % of the time)",
        False,
        "each thread's own count: above 5 % an iteration can be longer by more than the usual margin",
        drops_pair=True,
    ),
    "migrated": Concern(
        "the loop moved to a core of another kind ({:.0f} threads)", False, "half of its iterations may be of the other kind's speed", drops_pair=True
    ),
    "moved": Concern(
        "the loop changed cores on a machine with several kinds of them ({:.0f} times)",
        False,
        "where it began and ended are of one kind; between is not seen",
    ),
    "crowded": Concern(
        "the launch has more busy threads than cores, which waited for one another (up to {:.0f} % of the time)",
        False,
        "its own settings did this, to each launch alike",
    ),
    "loaded": Concern(
        "others used {:.1f} of the cores while iterations were timed",
        False,
        "a free core was left where no thread waited; caches and clocks are shared",
    ),
    "interrupted": Concern(
        "the loop was interrupted often (up to {:.0f} times a second)", False, "how long it then waited says `shared`, where the kernel counts it"
    ),
    "pressure": Concern("tasks waited for a core (up to {:.0f} % of the time)", False, "of the whole machine: they need not be the launch's"),
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
    activity = before.get("activity") or {}
    used = max([activity.get("gpu_percent", 0), activity.get("emc_percent", 0), *(activity.get("engines") or {}).values()])
    if used > _BUSY_PERCENT:
        found["board_busy"] = float(used)
    free, total = after.get("memory_available_bytes"), after.get("memory_total_bytes")
    if free is not None and total and free < _FREE_SHARE * total:
        found["memory"] = 100 * _FREE_SHARE
    return (
        found | _contention(result.facts.get("loop") or {}) | _over_current(before, after) | _firmware(before, after) | _thermal_status(before, after)
    )


def invalid_because(result: Result) -> str:
    """Why a launch does not count, in a sentence; "" where it counts."""
    return "; ".join(CONCERNS[kind].sentence.format(worst) for kind, worst in concerns(result).items() if CONCERNS[kind].invalidates)


def drops_pair(result: Result) -> tuple[str, ...]:
    """The kinds of concern for which a check does not count a launch: all that make it invalid, and what another try may be spared."""
    return tuple(kind for kind in concerns(result) if CONCERNS[kind].invalidates or CONCERNS[kind].drops_pair)


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


def _contention(loop: Mapping[str, Any]) -> dict[str, float]:
    """From what was counted right before and right after the timed iterations (`kdedge.runtimes.contention`)."""
    seconds = float(loop.get("seconds") or 0.0)
    before, after = loop.get("before") or {}, loop.get("after") or {}
    if seconds <= 0:
        return {}
    found = _waits(before, after, loop.get("cores"), seconds) | _moves(before, after, loop.get("core_kinds") or {}, seconds)
    if "busy_ms" in before and "own_ms" in before and loop.get("cores"):
        others = (_growth(before, after, "busy_ms") - _growth(before, after, "own_ms")) / 1000 / seconds
        if others > _LOADED_SHARE * loop["cores"]:
            found["loaded"] = others
    taken_away = _growth(before.get("switches") or {}, after.get("switches") or {}, "involuntary") / seconds
    if taken_away > _INTERRUPTED_A_SECOND:
        found["interrupted"] = taken_away
    pressure = _growth(before, after, "pressure_us") / 1e6 / seconds
    if pressure > _PRESSURE_SHARE:
        found["pressure"] = 100 * pressure
    return found


def _waits(before: Mapping[str, Any], after: Mapping[str, Any], cores: int | None, seconds: float) -> dict[str, float]:
    """How long the thread that waited most was ready and did not run. Where there are more busy threads than cores that is their own doing."""
    active = _active(before, after, seconds)
    waited = max((each["waited_ns"] for each in active.values()), default=0) / 1e9 / seconds
    if waited <= _WAITED_SHARE:
        return {}
    return {"crowded" if cores and len(active) > cores else "shared": 100 * waited}


def _moves(before: Mapping[str, Any], after: Mapping[str, Any], kinds: Mapping[str, str], seconds: float) -> dict[str, float]:
    """Threads that end on another kind of core. Among cores of one kind a move costs microseconds, once."""
    first: Mapping[str, Any] = before.get("threads") or {}
    ends = [(first[name].get("core"), each.get("core")) for name, each in _active(before, after, seconds).items()]
    known = [(kinds.get(str(begin)), kinds.get(str(end))) for begin, end in ends]
    moved = sum(begin is not None and end is not None and begin != end for begin, end in known)
    if moved:
        return {"migrated": float(moved)}
    times = _growth(before, after, "migrations")
    return {"moved": times} if len(set(kinds.values())) > 1 and times > 0 else {}


def _active(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> dict[str, dict[str, Any]]:
    """Threads that wanted a core for a share of the loop: what their counters grew by, and the core that they ended on."""
    first: Mapping[str, Any] = before.get("threads") or {}
    found = {}
    for name, thread in (after.get("threads") or {}).items():
        if name in first:
            ran, waited = thread["ran_ns"] - first[name]["ran_ns"], thread["waited_ns"] - first[name]["waited_ns"]
            if (ran + waited) / 1e9 > _ACTIVE_SHARE * seconds:
                found[name] = {"waited_ns": waited, "core": thread.get("core")}
    return found


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
